"""The leader's words to this node: recalls are served and answered, offers are passed on to whoever waits.

A recall is answered once: the node gives back its free slots beyond what it needs itself, and the next heartbeat, sent at once, says how many.
Answers are kept as long as the leader keeps the request; after a restart they are taken from the mailbox, so that nothing is given back twice for
one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from adapters.clock import Clock
from crds.meta import UNSET
from crds.nephila import IPNode, Recall, RecallAnswer
from ipam.errors import ApiUnreachable
from ipam.stock import State, Stock
from nodeagent.abreast import abreast
from nodeagent.blockkeeper import BlockKeeper
from nodeagent.refill import Refill

log = structlog.get_logger(__name__)

NOTHING_FREE = "nothing free beyond this node's own need"
RETRY_S = 1.0
AT_ONCE = 4
HURRY_PER_S, HURRY_BURST = 10.0, 20.0


class Hurry:
    """How soon a heartbeat that cannot wait may go: at once, but of many only so many a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left = HURRY_BURST
        self._at = clock.now()

    def delay_s(self) -> float:
        """To be waited before the next one, which is counted."""
        now = self._clock.now()
        self._left = min(self._left + (now - self._at) * HURRY_PER_S, HURRY_BURST) - 1.0
        self._at = now
        return max(-self._left / HURRY_PER_S, 0.0)


class RecallDesk:
    """Give `notice` every change of the mailbox, and run `run()` as a task. `tell`: the next heartbeat shall not wait."""

    def __init__(
        self,
        refill: Refill,
        stock: Stock,
        keeper: BlockKeeper,
        clock: Clock,
        is_open: Callable[[], bool],
        tell: Callable[[], None],
    ) -> None:
        self._refill = refill
        self._stock = stock
        self._keeper = keeper
        self._clock = clock
        self._is_open = is_open
        self._tell = tell
        self._mailbox: IPNode | None = None
        self._changed = asyncio.Event()
        self._answers: dict[str, RecallAnswer] = {}
        self._offers: dict[str, str] = {}

    def answers(self) -> tuple[RecallAnswer, ...]:
        """For the next heartbeat."""
        return tuple(self._answers.values())

    def notice(self, stored: IPNode | None) -> None:
        """The mailbox as the watch shows it now."""
        self._mailbox = stored
        if stored is None:
            return
        for offer in stored.spec.offers:
            if self._offers.get(offer.pool) != offer.id:
                self._offers[offer.pool] = offer.id
                self._refill.offer(offer.pool, offer.pages)
        if stored.spec.recalls or self._answers:
            self._changed.set()

    async def run(self) -> None:
        """Serve recalls as they come. Without contact to the API, or fenced, they stay unanswered, and the leader asks another node."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                if self._is_open() and await self.serve():
                    self._tell()
            except ApiUnreachable as error:
                log.warning("recall_not_served", error=str(error))
                self._changed.set()
                await self._clock.sleep(RETRY_S)

    async def serve(self) -> bool:
        """Every request that has no answer yet; True if there was one. Raises ApiUnreachable."""
        stored = self._mailbox
        if stored is None:
            return False
        asked = {recall.id for recall in stored.spec.recalls}
        told = {} if stored.status is UNSET else {answer.id: answer for answer in stored.status.recalls}
        self._answers = {name: answer for name, answer in {**told, **self._answers}.items() if name in asked}
        open_recalls = [recall for recall in stored.spec.recalls if recall.id not in self._answers]
        # Side by side: who waits needs an address of each family, and they are of different blocks.
        await abreast(self._answer, open_recalls, AT_ONCE)
        return bool(open_recalls)

    async def _answer(self, recall: Recall) -> None:
        self._answers[recall.id] = await self._serve(recall)

    async def _serve(self, recall: Recall) -> RecallAnswer:
        self._refill.save(recall.pool)
        spare = self._stock.count(recall.pool, State.READY, State.UNPROVEN) - self._refill.wanted(recall.pool)
        # All that the pool's end of warm stock sets free, not only what was asked for: the refill's next round would give the rest back anyway, by a
        # second write of the same block, in the way of the first claim by who waits.
        slots = self._stock.surplus(recall.pool, max(spare, 0), self._clock.now())
        self._keeper.outdate(slot.page for slot in slots)  # where addresses are short, nodes come and go on every page
        returned = await self._keeper.give_back(slots) if slots else 0
        log.info("recall_served", pool=recall.pool, asked=recall.count, returned=returned)
        return RecallAnswer(id=recall.id, returned=returned, answer="" if returned else NOTHING_FREE)
