"""`make bench-leader`: one leader over 5,000 nodes and 150,000 pods, and how long until its successor leads when it dies.

The API is the in-memory store, in the same process: the memory printed is that of the leader and of the whole fake cluster together, an upper
bound. Failover uses the default timings: the standby's picture is warm, the leader's way to the API is cut in the middle of its reign.
"""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import typer
from rich.console import Console
from rich.table import Table

from adapters.clock import SystemClock
from adapters.entropy import SystemEntropy
from adapters.kube.memory import Call, MemoryStore, NotSent
from adapters.kube.memory_cluster import MemoryCluster
from adapters.telemetry import configure_logging
from crds.blocks import block_to_wire
from crds.core import NODE, POD, Node, Pod, PodSpec
from crds.meta import KubeObject, ObjectMeta
from crds.nephila import IP_BLOCK, IP_NODE, Heartbeat, IPNode, IPNodeStatus, PoolStock
from crds.spiderpool import IP_POOL
from ipam import lease, planner
from ipam.addresses import Address, Family
from ipam.blocks import NodeRef
from ipam.slots import Page
from leader.config import LeaderConfig
from leader.leader import Leader, Ports

POOLS = 3
SPARE = 2
NEEDY_EVERY = 25  # one node in so many lacks addresses
READY_S = 120.0


class Silent:
    """Announcements are nobody's business here."""

    def announce(self, regarding: KubeObject, reason: str, note: str) -> None:
        return


@dataclass(frozen=True, slots=True)
class Findings:
    to_reign_s: float
    plan_s: float
    recalls: int
    failover_s: float
    rss_mib: float


async def fill(store: MemoryStore, nodes: int, pods_per_node: int) -> None:
    """A cluster in steady state: every pod has an address, every node a little stock, some nodes lack."""
    for index in range(POOLS):
        spec = {"subnet": f"10.{64 + index}.0.0/16", "ips": [f"10.{64 + index}.0.1-10.{64 + index}.255.250"]}
        await store.create(IP_POOL, IP_POOL.from_builtins({"metadata": {"name": f"pool-{index}"}, "spec": spec}))
    for number in range(nodes):
        name = f"node-{number}"
        await store.create(NODE, Node(metadata=ObjectMeta(name=name)))
        stock = tuple(
            PoolStock(
                name=f"pool-{index}",
                used=pods_per_node // POOLS,
                free=0 if _lacks(number) else SPARE,
                wanted=int(_lacks(number)),
            )
            for index in range(POOLS)
        )
        beat = Heartbeat(sequence=1, boot_id="b", node_uid=name, renew_time=datetime.now(UTC))
        await store.create(
            IP_NODE, IPNode(metadata=ObjectMeta(name=name), status=IPNodeStatus(heartbeat=beat, pools=stock))
        )
        await _blocks(store, number)
        for pod in range(pods_per_node):
            meta = ObjectMeta(name=f"pod-{number}-{pod}", namespace="default")
            await store.create(POD, Pod(metadata=meta, spec=PodSpec(node_name=name)))


def _lacks(number: int) -> bool:
    return number % NEEDY_EVERY == 0


async def _blocks(store: MemoryStore, number: int) -> None:
    """Every node's leases: twelve slots of one page in each pool, five nodes to a page."""
    page, place = divmod(number, 5)
    if place:
        return
    for index in range(POOLS):
        base = Address.parse(f"10.{64 + index}.0.0").value + 64 * page
        block = lease.new_block(Page(Family.V4, base), 7)
        for neighbour in range(5):
            block = lease.claim(block, NodeRef(f"node-{number + neighbour}", ""), 0xFFF << 12 * neighbour)
        await store.create(IP_BLOCK, block_to_wire(block))


async def measure(nodes: int, pods: int) -> Findings:
    cluster = MemoryCluster(SystemClock())
    await fill(MemoryStore(cluster), nodes, pods // nodes)
    began = time.monotonic()
    cut = asyncio.Event()

    async def fault(_call: Call) -> NotSent | None:
        return NotSent() if cut.is_set() else None

    first = await _candidate(MemoryStore(cluster, fault=fault), "node-1")
    await _leading(first[0])
    to_reign = time.monotonic() - began
    reports = tuple(
        planner.Report(f"node-{n}", f"pool-{p}", free=0 if _lacks(n) else SPARE, wanted=int(_lacks(n)))
        for n in range(nodes)
        for p in range(POOLS)
    )
    began = time.process_time()
    recalls = planner.plan(planner.Snapshot(reports, unleased={}))
    plan_s = time.process_time() - began
    second = await _candidate(MemoryStore(cluster), "node-2")
    await asyncio.sleep(20)  # the standby lists everything and sees the leader alive
    cut.set()
    began = time.monotonic()
    await _leading(second[0])
    failover = time.monotonic() - began
    for _, task in (first, second):
        task.cancel()
    await asyncio.gather(first[1], second[1], return_exceptions=True)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Findings(to_reign, plan_s, len(recalls), failover, rss)


async def _candidate(store: MemoryStore, node: str) -> tuple[Leader, asyncio.Task[None]]:
    ports = Ports(store, SystemClock(), SystemEntropy(), Silent())
    one = Leader(LeaderConfig(node=node), ports)
    return one, asyncio.create_task(one.run())


async def _leading(candidate: Leader) -> None:
    async with asyncio.timeout(READY_S):
        while candidate.reign is None:  # noqa: ASYNC110  # a benchmark looks from outside
            await asyncio.sleep(0.05)


def main(*, nodes: int = 5000, pods: int = 150_000) -> None:
    """Measure the leader at the size of Kubernetes' own scale targets."""
    configure_logging("error")
    found = asyncio.run(measure(nodes, pods))
    table = Table(title=f"leader: {nodes} nodes, {pods} pods, {POOLS} pools")
    for column in ("what", "measured", "target"):
        table.add_column(column)
    table.add_row("from start to reign, everything listed", f"{found.to_reign_s:.1f} s", "–")
    table.add_row(f"one plan, {found.recalls} recalls", f"{found.plan_s * 1000:.0f} ms", "< 1 s")
    table.add_row("failover after the leader was cut off", f"{found.failover_s:.1f} s", "≤ 15 s")
    table.add_row("memory, fake API server included", f"{found.rss_mib:.0f} MiB", "< 1 GiB")
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
