"""`python -m e2e.bench.wire`: what verification costs. ADD with and without it, interleaved; the watcher under a flood of ARP; a batch of probes.

Everything runs in namespaces that it makes and removes. A benchmark, never a test: machines differ, so read the ratios within one run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from adapters.clock import SystemClock
from adapters.entropy import SystemEntropy
from adapters.frames import FrameSocket
from e2e.bench import contenders, flood, report
from e2e.bench.__main__ import OUTDIR
from e2e.bench.lab import ROOT, Cluster, free_port, running, until
from e2e.bench.measure import Mode, Series, measure
from e2e.bench.segment import GATEWAY, INTERFACE, Segment, inside, segment
from e2e.bench.spawning import BenchError, build_tools
from ipam.addresses import Address, Family
from probes.ebpf.loader import unpin
from probes.prober import Limits, Prober
from probes.verdicts import State

POOL = "wired"
HELD = 20
READY_S = 60.0
BATCH = 256
FIRST_FREE = 0x0A64FA01  # 10.100.250.1: the far host has the first HELD of these
ON, OFF = "verified", "not verified"


@dataclass(frozen=True, slots=True)
class Batch:
    """256 addresses of which the far host has 20, three probes each."""

    limit: str
    seconds: float
    cpu_s: float
    taken: int


@dataclass(frozen=True, slots=True)
class Memory:
    mode: str
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Node:
    """One agent and how it is reached."""

    name: str
    kind: str
    process: subprocess.Popen[bytes]
    socket: Path
    health: str
    cluster: Cluster

    def create(self, first: int, count: int) -> None:
        """Bind pods, and wait until as many addresses are ready and nothing is resting or being probed: what the design calls warm."""
        path = f"/api/v1/namespaces/{contenders.NAMESPACE}/pods"
        for number in range(first, first + count):
            spec = {"nodeName": self.name, "containers": [{"name": "c", "image": "none"}]}
            self.cluster.call("POST", path, {"metadata": {"name": f"bench-{number}"}, "spec": spec})
        deadline = time.monotonic() + READY_S
        while not self.warm(count):
            if time.monotonic() > deadline:
                raise BenchError(
                    f"{self.name} had not {count} addresses ready within {READY_S:.0f} s, and none at rest or in a test: {self.slots()}"
                )
            time.sleep(0.05)

    def slots(self) -> dict[str, int]:
        """How many of the pool's addresses the node holds in each state."""
        with urllib.request.urlopen(f"http://{self.health}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.findall(rf'nephila_node_slots{{pool="{POOL}",state="([a-z]+)"}} ([0-9.]+)', text)
        return {state: int(float(number)) for state, number in found}

    def warm(self, count: int) -> bool:
        slots = self.slots()
        busy = sum(slots.get(state, 0) for state in ("unproven", "cooling", "leaving"))
        return slots.get("ready", 0) >= count and not busy

    def memory(self) -> Memory:
        status = self.cluster.call("GET", f"/apis/nephila.io/v1alpha1/ipnodes/{self.name}").get("status", {})
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return Memory(status.get("probe", {}).get("mode", "unknown"), int(line.split()[1]) / 1024)
        raise BenchError(f"{self.name} is gone")


@contextlib.contextmanager
def nodes() -> Iterator[list[Node]]:
    """Two agents on one API server, both in this namespace: one verifies, the other does not."""
    with tempfile.TemporaryDirectory(prefix="nephila-wire-", dir="/dev/shm") as place, contextlib.ExitStack() as stack:
        run, port = Path(place), free_port()
        crds = ["--crds", str(ROOT / "crds/yaml")]
        stack.enter_context(running("e2e.apiserver", "--port", str(port), *crds, log=run / "apiserver.log"))
        cluster = Cluster(f"http://127.0.0.1:{port}")
        until(lambda: bool(cluster.call("GET", "/version")), "the embedded API server")
        cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": contenders.NAMESPACE}})
        spec = {"subnet": "10.100.0.0/16", "ips": ["10.100.1.0-10.100.127.250"], "gateway": GATEWAY, "default": True}
        path = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools"
        cluster.call("POST", path, {"metadata": {"name": POOL}, "spec": spec})
        yield [_node(stack, run, cluster, port, name, kind) for name, kind in (("bench-on", ON), ("bench-off", OFF))]


def _node(stack: contextlib.ExitStack, run: Path, cluster: Cluster, port: int, name: str, kind: str) -> Node:
    cluster.call("POST", "/api/v1/nodes", {"metadata": {"name": name}})
    health = f"127.0.0.1:{free_port()}"
    settings = {
        "node": name,
        "parent": INTERFACE if kind == ON else "",
        "socket": str(run / name / "nephila.sock"),
        "stateDir": str(run / name / "state"),
        "healthAddress": health,
        "api": {"url": f"http://127.0.0.1:{port}"},
        "logLevel": "warning",
        "lease": {"heartbeatS": 1.0, "cooldownS": 0.3, "cooldownFloorS": 0.2},
        "probe": {"gateway": "require" if kind == ON else "off"},
    }
    (run / name).mkdir()
    config = run / f"{name}.yaml"
    config.write_text(json.dumps(settings))
    process = stack.enter_context(running("nodeagent", "--config", str(config), log=run / f"{name}.log"))
    until(lambda: bool(cluster.call("GET", f"/apis/nephila.io/v1alpha1/ipnodes/{name}")), f"the agent of {name}")
    return Node(name, kind, process, run / name / "nephila.sock", health, cluster)


def adds(modes: list[Mode]) -> tuple[list[Series], Memory]:
    """ADD and DEL of both agents in turns, and what the verifying one weighs afterwards."""
    tools = build_tools(OUTDIR)
    with nodes() as both:
        measured = [contenders.empty(tools)]
        for node in both:
            pools = {"default_ipv4_ippool": [POOL]}
            ours = contenders.shim_before_agent(
                tools, node.socket, pools, "/run/netns/{n}", node.create, node.cluster.no_pods
            )
            measured.append(replace(ours, name=f"nephila, {node.kind}"))
        series = measure(tools, measured, modes)
        return series, both[0].memory()


async def batch(limit: str, limits: Limits) -> Batch:
    """One call of the prober."""
    port = FrameSocket(INTERFACE)
    prober = Prober(port, SystemClock(), SystemEntropy(), limits=limits)
    try:
        began, used = time.monotonic(), time.process_time()
        verdicts = await prober.verify([Address(Family.V4, FIRST_FREE + number) for number in range(BATCH)])
        took, cpu = time.monotonic() - began, time.process_time() - used
    finally:
        await prober.close()
        port.close()
    unknown = [verdict for verdict in verdicts.values() if verdict.state is State.UNKNOWN]
    if unknown:
        raise BenchError(f"{len(unknown)} of {BATCH} verdicts are unknown: {unknown[0].reason}")
    return Batch(limit, took, cpu, sum(verdict.state is State.TAKEN for verdict in verdicts.values()))


def batches() -> list[Batch]:
    """At the agent's own limit, and with none that would be felt."""
    free = Limits(rate=20_000.0, burst=1024.0)
    return [asyncio.run(batch("1,000 a second", Limits())), asyncio.run(batch("20,000 a second", free))]


def show(console: Console, series: list[Series], memory: Memory, costs: list[flood.Cost], probed: list[Batch]) -> None:
    console.print(report.as_table(series))
    for mode in dict.fromkeys(one.mode for one in series):
        p50 = {one.contender: one.percentile_ms(50) for one in series if (one.mode, one.verb) == (mode, "ADD")}
        ratio = p50[f"nephila, {ON}"] / p50[f"nephila, {OFF}"]
        console.print(f"ADD, {mode}: with verification {ratio:.2f} × the time without")
    console.print(f"the verifying agent afterwards: RSS {memory.rss_mib:.1f} MiB, watching by {memory.mode}")
    table = Table(title="A watcher under a flood of ARP (CPU in % of one core)")
    for name in ("watcher", "frames a second", "its process", "the sender", "frames it counted"):
        table.add_column(name, justify="right")
    for cost in costs:
        cells = [f"{cost.rate:,.0f}", f"{cost.watcher_cpu:.1f}", f"{cost.sender_cpu:.1f}", f"{cost.seen:,}"]
        table.add_row(cost.mode, *cells)
    console.print(table)
    for one in probed:
        rate = f"{BATCH} addresses, {one.taken} in use, at most {one.limit}"
        console.print(f"{rate}: {one.seconds:.2f} s, {one.cpu_s * 1000:.0f} ms of processor time")


def main(
    *,
    rounds: int = 10,
    count: int = 50,
    burst: int = 100,
    rate: int = 10_000,
    seconds: float = 5.0,
    as_json: bool = typer.Option(False, "--json"),
) -> None:
    """Measure the cost of verification. Needs root."""
    modes = [Mode("one at a time", rounds, count, 1), Mode(f"{burst} at once", rounds, burst, burst)]
    try:
        with segment(HELD) as place:
            series, memory, costs, probed = _measure_all(place, modes, rate, seconds)
    except BenchError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from error
    if as_json:
        found = {
            **report.as_json(series),
            "memory": asdict(memory),
            "flood": [asdict(cost) for cost in costs],
            "batches": [asdict(one) for one in probed],
        }
        typer.echo(json.dumps(found, indent=2))
    else:
        show(Console(width=110), series, memory, costs, probed)
    for one in series:
        if one.failed:
            typer.echo(f"{one.contender}, {one.mode}, {one.verb}: {one.failed} failed: {one.said}", err=True)
    if any(one.failed for one in series):
        raise typer.Exit(1)


def _measure_all(
    place: Segment, modes: list[Mode], rate: int, seconds: float
) -> tuple[list[Series], Memory, list[flood.Cost], list[Batch]]:
    with inside(place.node):
        probed = batches()
        series, memory = adds(modes)
        unpin()
    return series, memory, flood.measure(place, ["off", "ebpf", "packet"], rate, seconds), probed


if __name__ == "__main__":
    typer.run(main)
