"""`make bench`: one agent on the embedded API server, its ADD and DEL measured beside an empty binary and host-local, in one run.

Also the agent's memory and idle processor time. A benchmark, never a test: machines differ, so read the ratios within one run.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from e2e.bench import contenders, report
from e2e.bench.__main__ import OUTDIR
from e2e.bench.measure import Mode, Series, measure
from e2e.bench.spawning import BenchError, Tools, build_tools, spawn

ROOT = Path(__file__).resolve().parents[2]
NODE = "bench-node"
POOL, SMALL = "roomy", "small"
SMALL_SIZE, SMALL_USED = 1000, 940
HOLDERS_FROM, MEASURED_FROM = (
    500_000,
    600_000,
)  # numbers of the pods that fill the small pool, and of those that are measured beside them
IDLE_S = 5.0
WARM_S = 30.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the agent cost while nobody asked for anything."""

    rss_mib: float
    idle_cpu_percent: float


class Cluster:
    """The embedded API server over plain HTTP, as far as a benchmark needs it."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def prepare(self) -> None:
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": contenders.NAMESPACE}})
        self.call("POST", "/api/v1/nodes", {"metadata": {"name": NODE}})
        self.pool(POOL, {"subnet": "10.100.0.0/16", "ips": ["10.100.0.1-10.100.127.250"], "default": True})

    def pool(self, name: str, spec: dict[str, Any]) -> None:
        path = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools"
        self.call("POST", path, {"metadata": {"name": name}, "spec": spec})

    def pods(self, first: int, count: int, pool: str = POOL) -> None:
        """Bound pods, as the scheduler leaves them: the agent sees them before any ADD, and leases ahead."""
        path = f"/api/v1/namespaces/{contenders.NAMESPACE}/pods"
        wish = {"ipam.spidernet.io/ippool": json.dumps({"ipv4": [pool]})}
        for number in range(first, first + count):
            pod = {"nodeName": NODE, "containers": [{"name": "c", "image": "none"}]}
            metadata = {"name": f"bench-{number}", "annotations": {} if pool == POOL else wish}
            self.call("POST", path, {"metadata": metadata, "spec": pod})

    def no_pods(self, first: int, count: int) -> None:
        path = f"/api/v1/namespaces/{contenders.NAMESPACE}/pods"
        for number in range(first, first + count):
            self.call("DELETE", f"{path}/bench-{number}", {"gracePeriodSeconds": 0})


@dataclass(frozen=True, slots=True)
class Agent:
    process: subprocess.Popen[bytes]
    socket: Path
    cluster: Cluster

    def settle(self, free: int, pool: str) -> None:
        """Wait until the agent holds enough warm addresses for a round. Raises BenchError."""
        deadline = time.monotonic() + WARM_S
        while time.monotonic() < deadline:
            node = self.cluster.call("GET", f"/apis/nephila.io/v1alpha1/ipnodes/{NODE}")
            pools = {entry["name"]: entry for entry in node.get("status", {}).get("pools", [])}
            if pools.get(pool, {}).get("free", 0) >= free:
                return
            time.sleep(0.05)
        raise BenchError(f"the agent did not lease {free} addresses of {pool} within {WARM_S:.0f} s")

    def footprint(self) -> Footprint:
        before = self._cpu_s()
        time.sleep(IDLE_S)
        used = self._cpu_s() - before
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return Footprint(int(line.split()[1]) / 1024, 100 * used / IDLE_S)
        raise BenchError("the agent is gone")

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def started() -> Iterator[Agent]:
    """API server and agent as their own processes, on loopback, with their files on tmpfs."""
    with tempfile.TemporaryDirectory(prefix="nephila-bench-", dir="/dev/shm") as place, contextlib.ExitStack() as stack:
        run = Path(place)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        crds = ["--crds", str(ROOT / "crds/yaml")]
        stack.enter_context(running("e2e.apiserver", "--port", str(port), *crds, log=run / "apiserver.log"))
        cluster = Cluster(url)
        until(lambda: bool(cluster.call("GET", "/version")), "the embedded API server")
        yield stack.enter_context(agent_at(url, run))


@contextlib.contextmanager
def agent_at(url: str, run: Path) -> Iterator[Agent]:
    """One agent, its node and its pool, on an embedded API server that is there already; its files are in `run`."""
    cluster = Cluster(url)
    cluster.prepare()
    settings = {
        "node": NODE,
        "socket": str(run / "nephila.sock"),
        "stateDir": str(run / "state"),
        "api": {"url": url},
        "logLevel": "warning",
        "lease": {"heartbeatS": 1.0, "cooldownS": 1.0, "cooldownFloorS": 0.5},
    }
    config = run / "agent.yaml"
    config.write_text(json.dumps(settings))
    with running("nodeagent", "--config", str(config), log=run / "agent.log") as process:
        agent = Agent(process, run / "nephila.sock", cluster)
        until(lambda: bool(cluster.call("GET", f"/apis/nephila.io/v1alpha1/ipnodes/{NODE}")), "the agent")
        yield agent


@contextlib.contextmanager
def running(module: str, *arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m module` until the block ends, at most ten seconds longer."""
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=output, stderr=output, cwd=ROOT)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ours(tools: Tools, agent: Agent, pool: str, name: str) -> contenders.Contender:
    """Nephila with one pool; before each round its pods are bound and their addresses leased."""

    def create(first: int, count: int) -> None:
        agent.cluster.pods(first, count, pool)
        agent.settle(count, pool)

    conf = {"default_ipv4_ippool": [POOL]}
    made = contenders.shim_before_agent(tools, agent.socket, conf, "/run/netns/{n}", create, agent.cluster.no_pods)
    return replace(made, name=name)


def compare(tools: Tools, agent: Agent, modes: list[Mode]) -> list[Series]:
    """Interleaved rounds of all contenders."""
    with contextlib.ExitStack() as stack:
        measured = [
            contenders.empty(tools),
            stack.enter_context(contenders.shim_before_echo(tools)),
            stack.enter_context(contenders.host_local()),
            ours(tools, agent, POOL, "nephila"),
        ]
        return measure(tools, measured, modes)


def compare_nearly_full(tools: Tools, agent: Agent, mode: Mode) -> list[Series]:
    """A pool of 1,000 addresses of which 940 are in use, beside the empty one, in interleaved rounds. Raises BenchError."""
    agent.cluster.pool(
        SMALL, {"subnet": "10.101.0.0/16", "ips": [f"10.101.1.0-10.101.{1 + SMALL_SIZE // 256}.{SMALL_SIZE % 256 - 1}"]}
    )
    small = ours(tools, agent, SMALL, f"nephila, {SMALL_USED} of {SMALL_SIZE:,} in use")
    step = 94
    for first in range(HOLDERS_FROM, HOLDERS_FROM + SMALL_USED, step):
        small.create(first, step)
        held = spawn(
            tools, small.program, {"CNI_COMMAND": "ADD", **small.env}, small.stdin, first=first, count=step, in_flight=8
        )
        if held.failed:
            raise BenchError(f"the small pool could not be filled: {held.said}")
    return measure(
        tools, [contenders.empty(tools), ours(tools, agent, POOL, "nephila, empty pool"), small], [mode], MEASURED_FROM
    )


def free_port() -> int:
    """Of loopback; free at this moment."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], bool], what: str, within_s: float = 20.0) -> None:
    """Asks twenty times a second; what the server refuses meanwhile counts as no. Raises BenchError."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            if condition():
                return
        time.sleep(0.05)
    raise BenchError(f"{what} did not come up within {within_s:.0f} s")


def main(*, rounds: int = 10, count: int = 50, burst: int = 100, as_json: bool = typer.Option(False, "--json")) -> None:
    """Measure Nephila's agent through the real shim."""
    modes = [Mode("one at a time", rounds, count, 1), Mode(f"{burst} at once", rounds, burst, burst)]
    tools = build_tools(OUTDIR)
    with started() as agent:
        series = compare(tools, agent, modes)
        series += compare_nearly_full(tools, agent, Mode("one at a time, beside a nearly full pool", rounds, count, 1))
        footprint = agent.footprint()
    if as_json:
        found = {**report.as_json(series), "rssMiB": footprint.rss_mib, "idleCpuPercent": footprint.idle_cpu_percent}
        typer.echo(json.dumps(found, indent=2))
    else:
        console = Console(width=110)
        console.print(report.as_table(series))
        console.print(f"agent: RSS {footprint.rss_mib:.1f} MiB, idle CPU {footprint.idle_cpu_percent:.1f} % of a core")
    for one in series:
        if one.failed:
            typer.echo(f"{one.contender}, {one.mode}, {one.verb}: {one.failed} failed: {one.said}", err=True)
    if any(one.failed for one in series):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
