"""Prometheus metrics of one candidate, computed on scrape from the controllers' own state. While it does not lead it has no pool to speak of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from adapters.clock import Clock
from adapters.families import EVENTS_DROPPED, LAG, WATCH_AGE, Family, counter, gauge
from ipam.planner import Report
from ipam.reclaim import Marked
from leader.leader import Leader, Reign

LEADING = gauge("nephila_leader", "1 if this process leads. Exactly one should, cluster-wide.")
TERM = gauge("nephila_leader_term", "Term of the lock as last seen; grows by one at each change of holder.")
VIOLATIONS = gauge("nephila_leader_violations", "Invariants that the last consistency check found broken.")
PLAN = gauge("nephila_leader_plan_seconds", "Duration of the last plan of recalls.")
PASS = gauge("nephila_leader_pass_seconds", "Duration of a controller's last pass.", "controller")
PASSES = counter("nephila_leader_passes_total", "Passes of each controller in this reign.", "controller")
FAILURES = counter("nephila_leader_pass_failures_total", "Passes that the API server cut short.", "controller")
RECALLS = counter("nephila_leader_recalls_total", "Recalls written into mailboxes in this reign.")
UNANSWERED = gauge("nephila_leader_recalls_unanswered", "Recalls that the asked node has not answered yet.")
RECLAIMED = counter("nephila_leader_slots_reclaimed_total", "Slots taken from silent or gone nodes in this reign.")
CANDIDATES = gauge("nephila_leader_reclaim_candidates", "Nodes that are silent or marked: their slots may be taken.")
OLDEST = gauge(
    "nephila_leader_reclaim_oldest_seconds", "For how long the longest silent of them has shown no heartbeat."
)
MARKED = gauge("nephila_leader_nodes_marked", "Nodes under a fence mark of this leader.")
NODES = gauge("nephila_leader_nodes", "Nodes that have a mailbox.")
BLOCKS = gauge("nephila_leader_blocks", "IPBlock objects.")
REMOVED = counter("nephila_leader_records_removed_total", "Orphaned records removed in this reign, by kind.", "kind")

CAPACITY = gauge("nephila_pool_capacity", "Addresses of the pool: ips less excludeIPs.", "pool")
RESERVED = gauge(
    "nephila_pool_reserved", "Of these, withheld by reserved addresses, the gateway or an older pool.", "pool"
)
ALLOCATED = gauge("nephila_pool_allocated", "Addresses that pods have.", "pool")
FREE = gauge("nephila_pool_free", "Addresses that a pod could still get, leased ahead or not.", "pool")
LEASED = gauge(
    "nephila_pool_leased", "Addresses that no node can claim at once: leased, pinned, suspect or cooling.", "pool"
)
COOLING = gauge("nephila_pool_cooling", "Addresses released too recently, as nodes report.", "pool")
QUARANTINED = gauge("nephila_pool_quarantined", "Addresses that somebody else uses, as nodes report.", "pool")
LACKING = gauge("nephila_pool_lacking", "Addresses that nodes need now and do not have.", "pool")
STRANDED = gauge(
    "nephila_pool_stranded_ratio",
    "Share of the claimable and leased free addresses that lies on nodes which do not need them now (warm stock).",
    "pool",
)

OF_LEADING = (LEADING, TERM, WATCH_AGE, LAG, EVENTS_DROPPED)
OF_WORK = (
    VIOLATIONS,
    PLAN,
    PASS,
    PASSES,
    FAILURES,
    RECALLS,
    UNANSWERED,
    RECLAIMED,
    CANDIDATES,
    OLDEST,
    MARKED,
    NODES,
    BLOCKS,
    REMOVED,
)
OF_POOLS = (CAPACITY, RESERVED, ALLOCATED, FREE, LEASED, COOLING, QUARANTINED, LACKING, STRANDED)
LEADER_FAMILIES: tuple[Family, ...] = (*OF_LEADING, *OF_WORK, *OF_POOLS)


@dataclass(slots=True)
class _Demand:
    """What all nodes together lack, and what they have beyond their need."""

    lacking: int = 0
    spare: int = 0

    def add(self, report: Report) -> None:
        self.lacking += report.lacking
        self.spare += report.spare


class LeaderCollector(Collector):
    """`dropped`: Events that were not written; `lag_s`: the loop's worst recent lag."""

    def __init__(
        self, leader: Leader, clock: Clock, dropped: Callable[[], int] = int, lag_s: Callable[[], float] = float
    ) -> None:
        self._leader = leader
        self._clock = clock
        self._dropped = dropped
        self._lag_s = lag_s

    def collect(self) -> Iterator[Metric]:
        elector, reign = self._leader.elector, self._leader.reign
        yield LEADING.value(1 if elector.is_leading else 0)
        yield TERM.value(elector.candidate.record.term if elector.candidate.record else 0)
        yield LAG.value(self._lag_s())
        yield EVENTS_DROPPED.value(self._dropped())
        if reign is None:
            return
        now = self._clock.now()
        yield WATCH_AGE.samples(
            ((reflector.kind.plural,), now - reflector.last_contact)
            for reflector in reign.sight.reflectors
            if reflector.last_contact is not None
        )
        yield from self._work(reign, now)
        yield from self._pools(reign)

    def _work(self, reign: Reign, now: float) -> Iterator[Metric]:
        yield VIOLATIONS.value(len(reign.consistency.found))
        yield PLAN.value(reign.recalls.plan_s)
        yield PASS.samples(((loop.name,), loop.last_pass_s) for loop in reign.loops)
        yield PASSES.samples(((loop.name,), loop.passes) for loop in reign.loops)
        yield FAILURES.samples(((loop.name,), loop.failures) for loop in reign.loops)
        yield RECALLS.value(reign.recalls.total)
        yield UNANSWERED.value(reign.recalls.unanswered)
        yield RECLAIMED.value(reign.reclaim.taken)
        marked = {node for node, state in reign.reclaim.states.items() if isinstance(state, Marked)}
        candidates = marked | reign.sight.silent_nodes(self._leader.config.silent_s)
        beaten = [reign.sight.beaten_at[node] for node in candidates if node in reign.sight.beaten_at]
        yield CANDIDATES.value(len(candidates))
        yield OLDEST.value(now - min(beaten, default=now))
        yield MARKED.value(len(marked))
        yield NODES.value(len(reign.sight.mailboxes))
        yield BLOCKS.value(len(reign.sight.blocks))
        yield REMOVED.samples([(("SpiderEndpoint",), reign.endpoints.removed), (("pin",), reign.pins.removed)])

    def _pools(self, reign: Reign) -> Iterator[Metric]:
        sight = reign.sight
        book, demand = sight.book, dict[str, _Demand]()
        for report in sight.all_reports():
            demand.setdefault(report.pool, _Demand()).add(report)
        rows: dict[Family, list[tuple[tuple[str], float]]] = {family: [] for family in OF_POOLS}
        for name, counts in sorted(reign.pools.counts.items()):
            pool, effective = book.catalog.get(name), book.coverage.effective.get(name)
            if pool is None or effective is None:
                continue
            need, unleased = demand.get(name, _Demand()), sight.unleased(name)
            values = {
                CAPACITY: counts.total,
                RESERVED: counts.total - effective.size,
                ALLOCATED: counts.allocated,
                FREE: counts.free,
                LEASED: effective.size - unleased,
                COOLING: counts.cooling,
                QUARANTINED: counts.quarantined,
                LACKING: need.lacking,
                STRANDED: need.spare / (need.spare + unleased) if need.spare else 0.0,
            }
            for family, value in values.items():
                rows[family].append(((name,), value))
        for family, samples in rows.items():
            yield family.samples(samples)
