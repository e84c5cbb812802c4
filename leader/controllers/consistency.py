"""Checks what the API shows against the invariants when a reign begins: wrong facts are told, never repaired by guesswork."""

from __future__ import annotations

from collections.abc import AsyncIterator

import structlog

from adapters.clock import Clock
from crds.meta import UNSET
from crds.nephila import LEADER_LOCK
from crds.spiderpool import IP_POOL
from ipam.invariants import EndpointAddress, Facts, Violation, summary, violations
from ipam.slots import Page
from leader.announce import Announcer
from leader.elector import LOCK
from leader.sight import Sight, addresses_of, slot_of
from leader.writing import Writer

log = structlog.get_logger(__name__)

MAX_LOGGED = 50
PAGES_AT_ONCE, ENDPOINTS_AT_ONCE = 64, 1000  # between two turns of the event loop


class Consistency:
    def __init__(self, sight: Sight, writer: Writer, announcer: Announcer, clock: Clock) -> None:
        self._sight = sight
        self._writer = writer
        self._announcer = announcer
        self._clock = clock
        self.found: tuple[Violation, ...] = ()

    async def work(self) -> None:
        """One check over our copies, page by page, so that renewals and recalls are not held up. Raises StoreError."""
        self.found = tuple([item async for item in self._check()])
        for item in self.found[:MAX_LOGGED]:
            log.error("invariant_violated", invariant=item.invariant, subject=item.subject, text=item.text)
        if self.found:
            counts = ", ".join(f"{name}: {count}" for name, count in summary(self.found).items())
            lock = await self._writer.store.get(LEADER_LOCK, LOCK)
            if lock is not None:
                note = f"{counts}; first: {self.found[0]}; see `nephila fsck`"
                self._announcer.announce(lock, "InvariantViolated", note)
        for name, error in self._refused():
            stored = self._sight.pools.get(name)
            if stored is not None:
                self._announcer.announce(stored, "PoolUnreadable", error)

    async def _check(self) -> AsyncIterator[Violation]:
        """What the API says; what agents alone know is not in it, so the picture is never quiet. All checks are about one page at a time."""
        blocks = {block.page: block for block in self._sight.ledger.blocks()}
        told = await self._endpoints()
        live, term = self._sight.live_pods(), self._writer.term
        pages = sorted({*blocks, *told})
        for start in range(0, len(pages), PAGES_AT_ONCE):
            some = pages[start : start + PAGES_AT_ONCE]
            facts = Facts(
                blocks=[blocks[page] for page in some if page in blocks],
                endpoints=[item for page in some for item in told.get(page, ())],
                live_pods=live,
                lock_term=term,
            )
            for item in violations(facts):
                yield item
            await self._clock.sleep(0)

    async def _endpoints(self) -> dict[Page, list[EndpointAddress]]:
        catalog = self._sight.book.catalog
        found: dict[Page, list[EndpointAddress]] = {}
        for number, stored in enumerate(self._sight.endpoints):
            if number % ENDPOINTS_AT_ONCE == 0:
                await self._clock.sleep(0)
            if stored.status is UNSET:
                continue
            current = stored.status.current
            for item in current.ips:
                for name, address in addresses_of(item):
                    pool = catalog.get(name)
                    slot = slot_of(address, pool.domain if pool else "")
                    told = EndpointAddress(slot, stored.namespace, stored.name, current.uid)
                    found.setdefault(slot.page, []).append(told)
        return found

    def _refused(self) -> list[tuple[str, str]]:
        names = {pool.name for pool in self._sight.pools if pool.kind == IP_POOL.kind}
        return [(name, str(error)) for name, error in self._sight.book.unreadable.items() if name in names]
