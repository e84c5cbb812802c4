"""`python -m e2e.bench.scrape`: what one scrape of an agent costs with many pods on the node. A benchmark, never a test: machines differ."""

from __future__ import annotations

import asyncio
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import structlog
import typer
from prometheus_client.exposition import generate_latest

from adapters.clock import SystemClock
from adapters.entropy import SeededEntropy
from adapters.journal.sqlite import SqliteJournal
from adapters.journal.timed import TimedJournal
from adapters.kube.memory import MemoryStore
from adapters.kube.memory_cluster import MemoryCluster
from adapters.sandboxes import ListedSandboxes
from adapters.telemetry import new_registry
from crds.core import NAMESPACE, NODE, POD, Namespace, Node, Pod, PodSpec
from crds.meta import ObjectMeta
from crds.spiderpool import IP_POOL
from ipam.stock import State
from nodeagent.agent import Agent
from nodeagent.config import AgentConfig
from nodeagent.happenings import Happenings
from nodeagent.metrics import AgentCollector
from nodeagent.metrics_spiderpool import SpiderpoolAgentCollector
from nodeagent.ports import Ports
from nodeagent.spool import Spool
from nodeagent.wire import HttpRequest

NODE_NAME = "bench-node"
TARGET_MS = 20.0


def scrape(
    *,
    allocations: Annotated[int, typer.Option(min=1, max=4000)] = 250,
    pools: Annotated[int, typer.Option(min=1, max=100, help="pools that share them")] = 4,
    rounds: Annotated[int, typer.Option(min=5)] = 200,
) -> None:
    """Allocate, then scrape again and again; prints milliseconds of processor time (others on this machine do not count) and bytes."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    times, size, held = asyncio.run(measure(allocations, pools, rounds))
    p99 = statistics.quantiles(times, n=100)[98]
    typer.echo(
        f"{held} allocations, {pools} pools: scrape p50 {statistics.median(times):.2f} ms, p99 {p99:.2f} ms, "
        f"max {max(times):.2f} ms; {size} bytes; target < {TARGET_MS:.0f} ms"
    )
    if p99 >= TARGET_MS:
        raise typer.Exit(1)


async def measure(allocations: int, pools: int, rounds: int) -> tuple[list[float], int, int]:
    """(milliseconds of processor time of every scrape, bytes of one, addresses allocated)"""
    clock = SystemClock()
    store = MemoryStore(MemoryCluster(clock))
    await _furnish(store, allocations, pools)
    happened = Happenings()
    with tempfile.TemporaryDirectory(prefix="nephila-scrape-") as folder:
        journal = SqliteJournal.open(Path(folder) / "journal.db")
        timed = TimedJournal(journal, happened.on_journal)
        agent = Agent(
            AgentConfig(node=NODE_NAME),
            Ports(store, timed, clock, SeededEntropy(1), ListedSandboxes(), "boot", "bench"),
        )
        registry = new_registry("agent", "bench")
        spool = Spool(Path(folder) / "spool", agent.verbs.delete, clock)
        registry.register(AgentCollector(agent, spool, happened, clock, lambda: 0.0))
        registry.register(SpiderpoolAgentCollector(agent))
        running = asyncio.create_task(agent.run())
        try:
            while agent.why_closed():  # noqa: ASYNC110  # what is waited for has no event of its own
                await asyncio.sleep(0.01)
            for number in range(allocations):
                reply = await agent.serve(_add(number))
                if reply.status != 200:
                    raise typer.Exit(1)
            times: list[float] = []
            size = 0
            for _ in range(rounds):
                await asyncio.sleep(0)
                began = time.thread_time()
                size = len(generate_latest(registry))
                times.append(1000 * (time.thread_time() - began))
            held = sum(agent.stock.count(pool, State.ALLOCATED) for pool in agent.stock.pools())
            return times, size, held
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            journal.close()


async def _furnish(store: MemoryStore, allocations: int, pools: int) -> None:
    await store.create(NAMESPACE, Namespace(metadata=ObjectMeta(name="default")))
    await store.create(NODE, Node(metadata=ObjectMeta(name=NODE_NAME)))
    for number in range(pools):
        spec = {"subnet": f"10.{number}.0.0/16", "ips": [f"10.{number}.0.1-10.{number}.31.250"]}
        await store.create(IP_POOL, IP_POOL.from_builtins({"metadata": {"name": f"pool-{number}"}, "spec": spec}))
    for number in range(allocations):
        note = {"ipam.spidernet.io/ippool": f'{{"ipv4": ["pool-{number % pools}"]}}'}
        pod = Pod(
            metadata=ObjectMeta(name=f"p{number}", namespace="default", annotations=note),
            spec=PodSpec(node_name=NODE_NAME),
        )
        await store.create(POD, pod)


def _add(number: int) -> HttpRequest:
    args = f"K8S_POD_NAMESPACE=default;K8S_POD_NAME=p{number}"
    headers = {
        "command": "ADD",
        "containerid": f"c{number}",
        "ifname": "eth0",
        "netns": f"/run/c{number}",
        "args": args,
    }
    return HttpRequest("POST", "/cni", headers, b'{"cniVersion": "1.0.0", "name": "n", "ipam": {"type": "nephila"}}')


if __name__ == "__main__":
    typer.run(scrape)
