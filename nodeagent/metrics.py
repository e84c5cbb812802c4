"""Prometheus metrics, computed on scrape from the state that the allocator itself uses; only durations and outcomes are counted as they happen."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ipam.stock import State
from nodeagent.agent import Agent
from nodeagent.spool import Spool
from nodeagent.verbs import AddOutcome

BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class AgentCollector(Collector):
    """One node's agent. No pod, address or container id is ever a label."""

    def __init__(self, agent: Agent, spool: Spool) -> None:
        self._agent = agent
        self._spool = spool
        self._inner = CollectorRegistry()
        self._seconds = Histogram(
            "nephila_allocation_seconds",
            "Duration of CNI ADD inside the agent",
            ["outcome"],
            buckets=BUCKETS_S,
            registry=self._inner,
        )
        self._failures = Counter(
            "nephila_requests_failed", "CNI requests that failed, by reason", ["verb", "reason"], registry=self._inner
        )
        agent.verbs.observers.append(self._observe)
        agent.failure_observers.append(lambda verb, reason: self._failures.labels(verb, reason).inc())

    def _observe(self, outcome: AddOutcome) -> None:
        self._seconds.labels(outcome.how).observe(outcome.seconds)

    def collect(self) -> Iterator[Metric]:
        yield from self._inner.collect()
        agent = self._agent
        slots = GaugeMetricFamily(
            "nephila_pool_slots", "Slots of this node's leases by pool and state", labels=["pool", "state"]
        )
        for pool in sorted(agent.stock.pools()):
            for state in State:
                slots.add_metric([pool, state.value], agent.stock.count(pool, state))
        yield slots
        yield _gauge("nephila_attachments", "Attachments that hold an address on this node", len(agent.allocator.all()))
        yield _gauge("nephila_blocks_leased", "Blocks of which this node holds a lease", len(agent.keeper.leases()))
        yield _gauge("nephila_outbox_entries", "SpiderEndpoints that are out of date", agent.outbox.depth)
        yield _gauge("nephila_spool_entries", "DELs spooled by the shim and not replayed yet", self._spool.depth)
        yield _gauge("nephila_ready", "1 if an ADD can be served now", 0 if agent.why_closed() else 1)
        writes = GaugeMetricFamily(
            "nephila_lease_writes", "Compare-and-swaps on blocks since start", labels=["outcome"]
        )
        writes.add_metric(["tried"], agent.keeper.counters.attempts)
        writes.add_metric(["conflict"], agent.keeper.counters.conflicts)
        yield writes


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family
