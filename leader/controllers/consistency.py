"""Checks what the API shows against the invariants when a reign begins: wrong facts are told, never repaired by guesswork."""

from __future__ import annotations

import structlog

from crds.meta import UNSET
from crds.nephila import LEADER_LOCK
from crds.spiderpool import IP_POOL
from ipam.invariants import EndpointAddress, Facts, Violation, summary, violations
from leader.announce import Announcer
from leader.elector import LOCK
from leader.sight import Sight, addresses_of, slot_of
from leader.writing import Writer

log = structlog.get_logger(__name__)

MAX_LOGGED = 50


class Consistency:
    def __init__(self, sight: Sight, writer: Writer, announcer: Announcer) -> None:
        self._sight = sight
        self._writer = writer
        self._announcer = announcer
        self.found: tuple[Violation, ...] = ()

    async def work(self) -> None:
        """One check over our copies. Raises StoreError."""
        self.found = violations(self.facts())
        for item in self.found[:MAX_LOGGED]:
            log.error("invariant_violated", invariant=item.invariant, subject=item.subject, text=item.text)
        if self.found:
            counts = ", ".join(f"{name}: {count}" for name, count in summary(self.found).items())
            lock = await self._writer.store.get(LEADER_LOCK, LOCK)
            if lock is not None:
                note = f"{counts}; first: {self.found[0]}; see `nephila fsck`"
                self._announcer.announce(lock, "InvariantViolated", note)
        for older, younger in self._refused():
            stored = self._sight.pools.get(older)
            if stored is not None:
                self._announcer.announce(stored, "PoolUnreadable", younger)

    def facts(self) -> Facts:
        """A picture of what the API says; what agents alone know is not in it, so it is never quiet."""
        catalog = self._sight.book.catalog
        endpoints: list[EndpointAddress] = []
        for stored in self._sight.endpoints:
            if stored.status is UNSET:
                continue
            current = stored.status.current
            for item in current.ips:
                for name, address in addresses_of(item):
                    pool = catalog.get(name)
                    slot = slot_of(address, pool.domain if pool else "")
                    endpoints.append(EndpointAddress(slot, stored.namespace, stored.name, current.uid))
        return Facts(
            blocks=tuple(self._sight.ledger.blocks()),
            endpoints=endpoints,
            live_pods=self._sight.live_pods(),
            lock_term=self._writer.term,
        )

    def _refused(self) -> list[tuple[str, str]]:
        names = {pool.name for pool in self._sight.pools if pool.kind == IP_POOL.kind}
        return [(name, str(error)) for name, error in self._sight.book.unreadable.items() if name in names]
