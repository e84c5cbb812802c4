"""python -m e2e.cluster up | run [--] COMMAND... | versions | build

up        start a cluster, say how to reach it, stop it at Ctrl-C or SIGTERM
run       start a cluster, run COMMAND with KUBECONFIG and NEPHILA_CONTRACT_KUBECONFIG set, stop it; COMMAND's exit code
versions  what go.mod pins and what the built binaries say
build     build the binaries if they are not cached
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence

from e2e.cluster.binaries import PROGRAMS, Binaries, BuildFailed, ensure
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.program import ClusterFailed

KUBECONFIG_VARIABLES = ("KUBECONFIG", "NEPHILA_CONTRACT_KUBECONFIG")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CHILD_GRACE_S = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m e2e.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name in ("up", "versions", "build"):
        actions.add_parser(name)
    run = actions.add_parser("run")
    run.add_argument("--timeout", type=float, default=3600.0, metavar="S", help="bound on COMMAND (default 3600)")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args(arguments)
    command: list[str] = []
    if options.action == "run":
        command = options.command[1:] if options.command[:1] == ["--"] else options.command
        if not command or shutil.which(command[0]) is None:
            run.error(f"COMMAND must name a program that exists, not {' '.join(command[:1]) or 'nothing'}")
    try:
        binaries = _ensure_loudly()
        if options.action == "versions":
            _print_versions(binaries)
            return 0
        if options.action == "build":
            return 0
        return asyncio.run(_with_cluster(binaries, command, options.timeout if command else 0.0))
    except (BuildFailed, ClusterFailed) as error:
        print(f"e2e.cluster: {error}", file=sys.stderr)
        return 1


def _ensure_loudly() -> Binaries:
    print("e2e.cluster: looking for binaries; a first build takes minutes", file=sys.stderr, flush=True)
    binaries = ensure()
    took = f"built in {binaries.seconds:.0f} s" if binaries.seconds else "cached"
    print(
        f"Kubernetes {binaries.pins.kubernetes}, etcd {binaries.pins.etcd}, {binaries.go}: {took}, "
        f"{binaries.size_bytes / 1e6:.0f} MB at {binaries.folder}",
        flush=True,
    )
    return binaries


def _print_versions(binaries: Binaries) -> None:
    for program in PROGRAMS:
        done = subprocess.run(
            [binaries.path(program), "--version"], capture_output=True, text=True, timeout=60, check=True
        )
        print(f"{program:24} {done.stdout.splitlines()[0]}")


async def _with_cluster(binaries: Binaries, command: list[str], timeout_s: float) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    async with ControlPlane(binaries) as cluster:
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in cluster.timings_s.items())
        memory = ", ".join(f"{name} {size >> 20} MiB" for name, size in cluster.rss_bytes().items())
        print(f"ready at {cluster.url} ({stages}; {memory})\nexport KUBECONFIG={cluster.kubeconfig}", flush=True)
        if not command:
            await stopped.wait()
            return 0
        return await _run(cluster, command, stopped, timeout_s)


async def _run(cluster: ControlPlane, command: list[str], stopped: asyncio.Event, timeout_s: float) -> int:
    """The command's exit code; 124 when it took too long, 130 when we were told to stop."""
    environment = dict(os.environ) | dict.fromkeys(KUBECONFIG_VARIABLES, str(cluster.kubeconfig))
    child = await asyncio.create_subprocess_exec(*command, env=environment)
    ended, told = asyncio.create_task(child.wait()), asyncio.create_task(stopped.wait())
    await asyncio.wait((ended, told), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if ended.done():
        return ended.result()
    child.terminate()
    await asyncio.wait((ended,), timeout=CHILD_GRACE_S)
    if not ended.done():
        child.kill()
        await ended
    if stopped.is_set():
        return 130
    print(f"e2e.cluster: {command[0]} took more than {timeout_s:.0f} s", file=sys.stderr)
    return 124


if __name__ == "__main__":
    sys.exit(main())
