"""DELs of pods that this node forgot with its journal (`nodeagent/lostjournal.py`): what is pinned to such a pod is given up then.

Without them a former pod of an identity could not be told from one that still runs here: its node cannot hear it, and no journal says that its DEL
was seen. Unknown is not free: until the DEL, or a reboot, the identity's next pod does not get the address on this node. (On any other it does, once
that hears nobody use it.)
"""

from __future__ import annotations

import structlog

from adapters.clock import Clock
from ipam.slots import Page
from nodeagent.blockkeeper import BlockKeeper
from nodeagent.refill import INTERFACE_S

log = structlog.get_logger(__name__)

MOST = 1024  # DELs remembered at a time


class Forgotten:
    def __init__(self, keeper: BlockKeeper, clock: Clock) -> None:
        self._keeper = keeper
        self._clock = clock
        self._ended: dict[tuple[str, str], float] = {}  # (pod UID, interface) → when

    def ended(self, pod_uid: str, interface: str) -> None:
        """A DEL of a container that the journal does not know. Most are merely repeated."""
        if pod_uid and len(self._ended) < MOST:
            self._ended.setdefault((pod_uid, interface), self._clock.now())

    async def settle(self) -> None:
        """Give up what was pinned to pods that have ended. Raises ApiUnreachable; then it is tried again."""
        if not self._keeper.shunned:
            self._ended.clear()
            return
        before = self._clock.now() - INTERFACE_S
        due = {key for key, at in self._ended.items() if at <= before}
        if not due:
            return
        for page in sorted({slot.page for slot in self._keeper.shunned}):
            await self._settle_on(page, due)
        self._ended = {key: at for key, at in self._ended.items() if key not in due}

    async def _settle_on(self, page: Page, due: set[tuple[str, str]]) -> None:
        block, here = await self._keeper.look(page), self._keeper.me.name
        ended = sum(
            1 << pin.slot
            for pin in block.pins
            if any(seat.node == here and (seat.pod_uid, pin.owner.interface) in due for seat in pin.seats)
        )
        over = [slot for slot in page.slot_ids(ended) if slot in self._keeper.shunned]
        for slot in over:
            log.info("forgotten_pod_ended", address=str(slot))
            self._keeper.unshun(slot)
        if over:
            await self._keeper.refresh(page)  # it is in the stock again, from which it is given back
