"""python -m e2e.cluster.nodes up [--nodes N] [--with nephila|host-local] | bench [--rounds N] [--what PART] [--json] | scale [--nodes N]

up      start a cluster with real nodes, say how to reach it, stop it at Ctrl-C or SIGTERM
bench   time until all pods run: Nephila beside host-local, and a pool with no address to spare
scale   the leader over hundreds of fake nodes: its memory, its writes in steady state, and how long dead nodes keep their addresses
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from e2e.cluster.binaries import BuildFailed
from e2e.cluster.nodes import bench, scale
from e2e.cluster.nodes.agents import Installation
from e2e.cluster.nodes.labs import RealCluster
from e2e.cluster.program import ClusterFailed

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m e2e.cluster.nodes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    up = actions.add_parser("up")
    up.add_argument("--nodes", type=int, default=3)
    up.add_argument("--with", dest="network", choices=("nephila", "host-local"), default="nephila")
    measured = actions.add_parser("bench")
    measured.add_argument("--rounds", type=int, default=bench.ROUNDS)
    measured.add_argument("--json", action="store_true")
    measured.add_argument("--what", default=bench.What.ALL.value, choices=[part.value for part in bench.What])
    large = actions.add_parser("scale")
    large.add_argument("--nodes", type=int, default=scale.NODES)
    options = parser.parse_args(arguments)
    try:
        if options.action == "bench":
            figures = asyncio.run(bench.run(options.rounds, bench.What(options.what)))
            print(bench.as_json(figures) if options.json else "\n".join(figures.lines()))
            return 0
        if options.action == "scale":
            print("\n".join(asyncio.run(scale.run(options.nodes)).lines()))
            return 0
        return asyncio.run(_up(options.nodes, options.network))
    except (BuildFailed, ClusterFailed) as error:
        print(f"e2e.cluster.nodes: {error}", file=sys.stderr)
        return 1


async def _up(nodes: int, network: str) -> int:
    stopped = asyncio.Event()
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with RealCluster(nodes) as cluster:
        if network == "nephila":
            await Installation(cluster).install()
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in cluster.timings_s.items())
        print(f"ready ({stages})\nexport KUBECONFIG={cluster.plane.kubeconfig}\nfiles: {cluster.folder}", flush=True)
        await stopped.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
