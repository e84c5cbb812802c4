"""Who should give back how much to whom (invariant I8): a pure function from a snapshot to recalls.

Guaranteed, for every snapshot:

- No pool is asked for more than its nodes lack beyond what lies unleased and what is already on its way.
- No node is asked for more than it has free beyond what it wants itself, nor twice at a time for one pool; so two needy nodes never trade slots.
- The largest surplus gives first; a node that did not answer in `PATIENCE_S`, or that shows no life, is passed over.
- At most `MAX_RECALLS` actions, the same for the same snapshot.

`plan` costs O(reports · log reports): 5,000 nodes in a few tens of milliseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop
from typing import NamedTuple

PATIENCE_S = 10.0  # an unanswered recall goes to another node after this
SETTLE_S = 1.0  # how long an answer, a block and a report, which come by separate watches, may lag behind each other
MAX_RECALLS = 64
MAX_PAGES = 16  # in one offer


class Report(NamedTuple):
    """What one node says of one pool. `free`: free and not cooling; `wanted`: free addresses that its waiting and bound pods need."""

    node: str
    pool: str
    used: int = 0
    free: int = 0
    cooling: int = 0
    wanted: int = 0
    quarantined: int = 0

    @property
    def lacking(self) -> int:
        return max(self.wanted - self.free, 0)

    @property
    def spare(self) -> int:
        return max(self.free - self.wanted, 0)


def counting(report: Report, gained: int) -> Report:
    """The report with the slots that the node has leased since: it will say so itself in a moment."""
    return report._replace(free=max(report.free + gained, 0)) if gained else report


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A recall that was sent. `age_s`: since it was written; `answered_s`: since its answer was seen, None if there is none yet; `arrived`: the
    slots were seen to leave the node's leases."""

    node: str
    pool: str
    count: int
    age_s: float
    returned: int = 0
    answered_s: float | None = None
    arrived: bool = False

    @property
    def is_open(self) -> bool:
        return self.answered_s is None

    @property
    def coming(self) -> int:
        """Slots that may still become claimable because of it."""
        if self.answered_s is None:
            return self.count if self.age_s < PATIENCE_S else 0
        return self.returned if self.answered_s < SETTLE_S and not self.arrived else 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`unleased`: per pool, addresses in nobody's lease that a node may claim at once. `silent`: nodes that show no life."""

    reports: Collection[Report]
    unleased: Mapping[str, int]
    outstanding: Collection[Outstanding] = ()
    silent: Collection[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Recall:
    """Ask `node` for `count` slots of `pool`, because `needy` waits for them."""

    node: str
    pool: str
    count: int
    needy: str

    @property
    def reason(self) -> str:
        return f"{self.needy} has no free address of {self.pool}"


@dataclass(slots=True)
class _Market:
    """One pool's needy nodes and those who could give."""

    lacking: list[Report] = field(default_factory=list)
    givers: list[tuple[int, str]] = field(default_factory=list)


def plan(snapshot: Snapshot) -> tuple[Recall, ...]:
    """The recalls to send now, most needed first."""
    needy = {report.pool for report in snapshot.reports if report.wanted > report.free}
    if not needy:
        return ()
    coming: dict[str, int] = {}
    asked: set[tuple[str, str]] = set()
    for recall in snapshot.outstanding:
        coming[recall.pool] = coming.get(recall.pool, 0) + recall.coming
        if recall.is_open or recall.coming:
            asked.add((recall.node, recall.pool))
    markets = {pool: _Market() for pool in needy}
    for report in snapshot.reports:
        market = markets.get(report.pool)
        if market is None:
            continue
        if report.wanted > report.free:
            market.lacking.append(report)
        elif report.spare and report.node not in snapshot.silent and (report.node, report.pool) not in asked:
            market.givers.append((-report.spare, report.node))
    actions: list[Recall] = []
    for pool in sorted(markets, key=lambda name: (-sum(r.lacking for r in markets[name].lacking), name)):
        budget = snapshot.unleased.get(pool, 0) + coming.get(pool, 0)
        actions += _recalls(pool, markets[pool], budget, MAX_RECALLS - len(actions))
        if len(actions) >= MAX_RECALLS:
            break
    return tuple(actions)


def _recalls(pool: str, market: _Market, supplied: int, limit: int) -> list[Recall]:
    """`supplied`: what the needy nodes will find without any recall."""
    lacking = sum(report.lacking for report in market.lacking) - supplied
    if lacking <= 0:
        return []
    needy = min(market.lacking, key=lambda report: (-report.lacking, report.node)).node
    heapify(market.givers)
    actions: list[Recall] = []
    while lacking > 0 and market.givers and len(actions) < limit:
        spare, node = heappop(market.givers)
        count = min(-spare, lacking)
        actions.append(Recall(node, pool, count, needy))
        lacking -= count
    return actions


@dataclass(frozen=True, slots=True)
class Offer:
    """Tell `node` that addresses of `pool` can be claimed from these pages (their CIDRs)."""

    node: str
    pool: str
    pages: tuple[str, ...]


def offers(reports: Iterable[Report], pages: Callable[[str], Sequence[tuple[str, int]]]) -> tuple[Offer, ...]:
    """Who shall look where, so that a starving node need not search a large pool, nor all of them read one page.

    `pages`: of a pool, the pages with unleased addresses and how many. The neediest node comes first; each gets pages enough for what it
    lacks, and no address is offered twice.
    """
    needy: dict[str, list[Report]] = {}
    for report in reports:
        if report.wanted > report.free:
            needy.setdefault(report.pool, []).append(report)
    found: list[Offer] = []
    for pool in sorted(needy):
        left = deque(pages(pool))
        for report in sorted(needy[pool], key=lambda report: (-report.lacking, report.node)):
            lacking = report.lacking
            chosen: list[str] = []
            while left and lacking > 0 and len(chosen) < MAX_PAGES:
                cidr, count = left.popleft()
                chosen.append(cidr)
                if count > lacking:
                    left.appendleft((cidr, count - lacking))
                lacking -= count
            if chosen:
                found.append(Offer(report.node, pool, tuple(chosen)))
    return tuple(found)


def sharing_nodes(reports: Iterable[Report]) -> dict[str, int]:
    """Per pool, how many nodes hold or want addresses of it: what `demand.batch` divides by."""
    counts: dict[str, int] = {}
    for report in reports:
        if report.used or report.free or report.cooling or report.wanted:
            counts[report.pool] = counts.get(report.pool, 0) + 1
    return counts
