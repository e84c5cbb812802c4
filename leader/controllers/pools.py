"""Publishes what is true of each pool: counts, who has which address, conditions; and keeps our finalizer until no pod has an address of it.

A pool is looked at when something that concerns it changed, written at most once per `gap_s` (less often the longer its list of addresses is), and
only if what it says differs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from adapters.clock import Clock
from adapters.kube.store import Conflict, Missing, Outcome, Stored
from crds.meta import UNSET
from crds.meta import Condition as WireCondition
from crds.spiderpool import FINALIZER, IP_POOL, IPPoolStatus, SpiderIPPool
from ipam import overlaps, planner, poolstatus
from ipam.pools import pool_problems
from ipam.poolstatus import Condition, Counts, Holdings, Observation, Use
from leader.loop import Allowance
from leader.sight import PoolBook, Sight
from leader.writing import Writer

log = structlog.get_logger(__name__)

RECORDS_PER_S = 500.0  # a list of 5,000 addresses is half a megabyte: it is written every ten seconds at most
RELEASE_S = 2.0  # for how long a deleted pool must be seen empty before our finalizer goes
EVERYTHING_S = 60.0


class Pools:
    def __init__(self, sight: Sight, writer: Writer, clock: Clock, gap_s: float, allowance: Allowance) -> None:
        self._sight = sight
        self._writer = writer
        self._clock = clock
        self._gap_s = gap_s
        self._allowance = allowance
        self._not_before: dict[str, float] = {}
        self._empty_since: dict[str, float] = {}
        self._all_at = float("-inf")
        self._judged: PoolBook | None = None
        self._senior: dict[str, list[str]] = {}
        self._junior: dict[str, list[str]] = {}
        self.writes = 0
        self.counts: dict[str, Counts] = {}  # as last judged
        self.observers: list[Callable[[SpiderIPPool, Mapping[str, Condition], tuple[Condition, ...]], None]] = []

    async def work(self) -> None:
        """One pass over the pools that may have changed. Raises StoreError, Deposed."""
        now = self._clock.now()
        touched = self._sight.pools_touched
        if now - self._all_at >= EVERYTHING_S:
            self._all_at = now
            touched.update(pool.name for pool in self._sight.pools)
        due = [name for name in touched if self._not_before.get(name, 0.0) <= now]
        if not due:
            return
        self._judge()
        holdings, conflicts = self._sums(), self._conflicts()
        for name in sorted(due, key=lambda name: self._not_before.get(name, 0.0)):
            if not self._allowance.take():
                return
            touched.discard(name)
            stored = self._sight.pools.get(name)
            if stored is None:
                self._not_before.pop(name, None)
                self._empty_since.pop(name, None)
                self.counts.pop(name, None)
                continue
            uses = self._sight.uses(name)
            self._not_before[name] = self._clock.now() + self._gap_s + len(uses) / RECORDS_PER_S
            outcome = await self._publish(stored, uses, holdings.get(name, Holdings()), conflicts.get(name, []))
            if outcome is not None and not isinstance(outcome, Stored | Missing):
                touched.add(name)

    # Facts -----------------------------------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Overlaps, once per change of any pool."""
        book = self._sight.book
        if book is self._judged:
            return
        self._judged = book
        self._senior, self._junior = {}, {}
        for older, younger, _ranges in overlaps.overlaps(book.catalog):
            self._senior.setdefault(younger.name, []).append(older.name)
            self._junior.setdefault(older.name, []).append(younger.name)

    def _sums(self) -> dict[str, Holdings]:
        reports = self._sight.all_reports()
        sums: dict[str, list[int]] = {}
        for report in reports:
            found = sums.setdefault(report.pool, [0, 0, 0])
            found[0] += report.used
            found[1] += report.cooling
            found[2] += report.quarantined
        nodes = planner.sharing_nodes(reports)
        return {
            pool: Holdings(used, cooling, quarantined, nodes.get(pool, 0))
            for pool, (used, cooling, quarantined) in sums.items()
        }

    def _conflicts(self) -> dict[str, list[str]]:
        found: dict[str, set[str]] = {}
        for mailbox in self._sight.mailboxes:
            for item in mailbox.status.conflicts if mailbox.status is not UNSET else ():
                found.setdefault(item.pool, set()).add(item.ip)
        return {pool: sorted(addresses) for pool, addresses in found.items()}

    # Writing ---------------------------------------------------------------------------------------------------------------------------

    async def _publish(
        self, stored: SpiderIPPool, uses: list[Use], holdings: Holdings, conflicts: list[str]
    ) -> Outcome[SpiderIPPool] | None:
        """None if the object says it all already."""
        book = self._sight.book
        pool = book.catalog.get(stored.name)
        if pool is None:
            return await self._publish_unreadable(stored, str(book.unreadable.get(stored.name, "cannot be read")))
        effective = book.coverage.effective[pool.name]
        idle = self._sight.ledger.pinned_idle(pool.name)
        counts = poolstatus.count(pool, effective, uses, holdings, idle)
        self.counts[pool.name] = counts
        seen = poolstatus.observations(
            pool,
            counts,
            problems=pool_problems(pool),
            senior=self._senior.get(pool.name, []),
            junior=self._junior.get(pool.name, []),
            conflicts=conflicts,
        )
        conditions = poolstatus.transition(before := _conditions(stored), seen, self._clock.wall())
        outcome = await self._write(stored, _status(counts, uses, conditions, stored.metadata.generation))
        if isinstance(outcome, Stored):
            for observe in self.observers:
                observe(stored, before, conditions)
        current = outcome.object if isinstance(outcome, Stored) else stored
        if not current.deleting:
            return outcome
        in_use = holdings.used > 0 or any(self._is_in_use(use, idle) for use in uses)
        return await self._hold(current, in_use=in_use) or outcome

    async def _publish_unreadable(self, stored: SpiderIPPool, why: str) -> Outcome[SpiderIPPool] | None:
        seen = {poolstatus.READY: Observation(False, "Invalid", why[:1024])}
        conditions = poolstatus.transition(_conditions(stored), seen, self._clock.wall())
        return await self._write(stored, {"conditions": _wire_conditions(conditions, stored.metadata.generation)})

    async def _write(self, stored: SpiderIPPool, status: dict[str, Any]) -> Outcome[SpiderIPPool] | None:
        present = msgspec.to_builtins(stored.status) if stored.status is not UNSET else {}
        if all(_plain(present.get(name)) == _plain(value) for name, value in status.items()):
            return None
        outcome = await self._writer.patch(IP_POOL, stored, {"status": status}, subresource="status")
        if isinstance(outcome, Stored):
            self.writes += 1
        elif not isinstance(outcome, Conflict | Missing):
            log.warning("pool_status_not_written", pool=stored.name, outcome=str(outcome))
        return outcome

    def _is_in_use(self, use: Use, idle: Collection[int]) -> bool:
        """False for what is kept for an identity that does not run: it gets nothing from a pool that is being deleted, so each would wait for the
        other. Its pin stays, and holds again if a pool of that address comes back.
        """
        return self._sight.has_pod(use.pod_uid) and use.address.value not in idle

    async def _hold(self, stored: SpiderIPPool, *, in_use: bool) -> Outcome[SpiderIPPool] | None:
        """Of a pool that is being deleted: our finalizer (`crds.derived` puts it on) stays until no pod has an address of it, seen twice."""
        finalizers = stored.metadata.finalizers or ()
        if FINALIZER not in finalizers:
            return None
        if in_use:
            self._empty_since.pop(stored.name, None)
            return None
        now = self._clock.now()
        if now - self._empty_since.setdefault(stored.name, now) < RELEASE_S:
            self._sight.pools_touched.add(stored.name)
            return None
        log.info("pool_released", pool=stored.name)
        kept = [name for name in finalizers if name != FINALIZER]
        return await self._writer.patch(IP_POOL, stored, {"metadata": {"finalizers": kept or None}})


def _status(counts: Counts, uses: list[Use], conditions: tuple[Condition, ...], generation: int) -> dict[str, Any]:
    """A merge patch of `status`; null removes what is not so any more."""
    status = msgspec.to_builtins(
        IPPoolStatus(
            total_ip_count=counts.total,
            allocated_ip_count=counts.allocated,
            free_ip_count=counts.free,
            cooling_ip_count=counts.cooling,
            quarantined_ip_count=counts.quarantined,
            node_count=counts.nodes,
        )
    )
    return {
        **status,
        "allocatedIPs": poolstatus.allocated_text(uses),
        "conditions": _wire_conditions(conditions, generation),
    }


def _wire_conditions(conditions: tuple[Condition, ...], generation: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        msgspec.to_builtins(
            WireCondition(
                type=item.type,
                status="True" if item.observation.holds else "False",
                reason=item.observation.reason,
                last_transition_time=datetime.fromtimestamp(int(item.since), UTC),
                message=item.observation.message,
                observed_generation=generation,
            )
        )
        for item in conditions
    ]
    return found


def _plain(value: object) -> object:
    """What JSON makes of it: a tuple is a list there, and an empty one is left out as None is."""
    return (list(value) or None) if isinstance(value, tuple | list) else value


def _conditions(stored: SpiderIPPool) -> dict[str, Condition]:
    if stored.status is UNSET:
        return {}
    return {
        item.type: Condition(
            item.type,
            Observation(item.status == "True", item.reason, item.message),
            item.last_transition_time.timestamp(),
        )
        for item in stored.status.conditions
    }
