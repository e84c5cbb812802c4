"""What the leader tells people of pools: an Event when a condition begins to hold, with who holds what, because no node can know that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from crds.spiderpool import SpiderIPPool
from ipam.poolstatus import EXHAUSTED, OVERLAPPING, Condition
from leader.announce import Announcer
from leader.sight import Sight

SHOWN_NODES = 8


class PoolTeller:
    """Give `on_conditions` to `Pools.observers`."""

    def __init__(self, sight: Sight, announcer: Announcer) -> None:
        self._sight = sight
        self._announcer = announcer

    def on_conditions(
        self, stored: SpiderIPPool, before: Mapping[str, Condition], after: tuple[Condition, ...]
    ) -> None:
        for condition in after:
            former = before.get(condition.type)
            if not condition.observation.holds or (former is not None and former.observation.holds):
                continue
            if condition.type == EXHAUSTED:
                note = f"{condition.observation.message}; {self._holders(stored.name)}"
                self._announcer.announce(stored, "PoolExhausted", note)
            elif condition.type == OVERLAPPING:
                self._announcer.announce(stored, "PoolOverlaps", condition.observation.message)

    def _holders(self, pool: str) -> str:
        """Who holds how much, the largest first: namespaces by SpiderEndpoints, nodes by their last heartbeat."""
        reports = [report for report in self._sight.all_reports() if report.pool == pool]
        held = sorted(
            ((report.used + report.free + report.cooling + report.quarantined, report) for report in reports),
            key=lambda item: (-item[0], item[1].node),
        )
        shown = ", ".join(
            f"{report.node} {total} ({report.used} used, {report.free} free, {report.cooling} cooling)"
            for total, report in held[:SHOWN_NODES]
            if total
        )
        spaces = Counter(use.namespace for use in self._sight.uses(pool)).most_common(SHOWN_NODES)
        used = f"in use by namespaces {', '.join(f'{name} {count}' for name, count in spaces)}" if spaces else ""
        rest = f" and {len(held) - SHOWN_NODES} more nodes" if len(held) > SHOWN_NODES else ""
        return "; ".join(part for part in (used, f"held by nodes {shown}{rest}" if shown else "") if part)
