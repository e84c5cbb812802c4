"""Addresses that a leader took by force while a sandbox of this node went on using them: leased again, as long as nobody else has them.

It happens to a node that was cut off, or whose Node object was deleted, and whose pods lived on. They are served and never disturbed, but until the
block says again whose the address is, only probes keep others from it.
"""

from __future__ import annotations

import structlog

from adapters.clock import Clock
from ipam import lease
from ipam.slots import Page, SlotId
from ipam.stock import NEVER, State, Stock
from nodeagent.blockkeeper import LOOK_AGAIN_S, BlockKeeper

log = structlog.get_logger(__name__)


class LostSlots:
    def __init__(self, keeper: BlockKeeper, stock: Stock, clock: Clock) -> None:
        self._keeper = keeper
        self._stock = stock
        self._clock = clock
        self._tried_at = NEVER

    async def regain(self) -> None:
        """One try for all of them. Raises ApiUnreachable."""
        now, lost = self._clock.now(), self._keeper.lost | self._keeper.unleased
        if not lost or now - self._tried_at < LOOK_AGAIN_S:
            return
        self._tried_at = now
        masks: dict[Page, int] = {}
        for slot in sorted(lost):
            held = self._stock.get(slot)
            if held is None or held.state is not State.ALLOCATED:
                self._forget({slot})  # its sandbox has ended
            else:
                masks[slot.page] = masks.get(slot.page, 0) | slot.bit
        for page, mask in masks.items():
            await self._regain_on(page, mask)

    async def _regain_on(self, page: Page, mask: int) -> None:
        me = self._keeper.me
        await self._keeper.refresh(page)  # others may have given the slots back since we saw the block
        after = await self._keeper.change(page, lambda block: lease.regain(block, me, mask))
        mine = after.lease_of(me) if after else None
        if mine is not None and (regained := mine.slots & mask):
            self._forget(set(page.slot_ids(regained)))
            log.warning("lost_slots_regained", block=page.name, slots=regained.bit_count())

    def _forget(self, slots: set[SlotId]) -> None:
        self._keeper.lost -= slots
        self._keeper.unleased -= slots
