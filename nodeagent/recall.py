"""Answers the leader's recalls: gives back free slots beyond what this node itself needs, and says how many.

A recall is answered once, by the next heartbeat, which the caller sends at once. Answers are kept as long as the leader keeps the request; after a
restart they are taken from the mailbox, so that nothing is given back twice for one request.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from crds.meta import UNSET
from crds.nephila import IPNode, Recall, RecallAnswer
from ipam.stock import State, Stock
from nodeagent.blockkeeper import BlockKeeper
from nodeagent.refill import Refill

log = structlog.get_logger(__name__)

NOTHING_FREE = "nothing free beyond this node's own need"


class RecallDesk:
    """`mailbox`: the node's IPNode as the watch last showed it."""

    def __init__(
        self,
        mailbox: Callable[[], IPNode | None],
        refill: Refill,
        stock: Stock,
        keeper: BlockKeeper,
        now: Callable[[], float],
    ) -> None:
        self._mailbox = mailbox
        self._refill = refill
        self._stock = stock
        self._keeper = keeper
        self._now = now
        self._answers: dict[str, RecallAnswer] = {}

    def answers(self) -> tuple[RecallAnswer, ...]:
        """For the next heartbeat."""
        return tuple(self._answers.values())

    async def answer(self) -> None:
        """Serve every request that has no answer yet. Raises ApiUnreachable: it stays unanswered, and the leader asks another node."""
        stored = self._mailbox()
        if stored is None:
            return
        asked = {recall.id for recall in stored.spec.recalls}
        told = {} if stored.status is UNSET else {answer.id: answer for answer in stored.status.recalls}
        self._answers = {name: answer for name, answer in {**told, **self._answers}.items() if name in asked}
        for recall in stored.spec.recalls:
            if recall.id not in self._answers:
                self._answers[recall.id] = await self._serve(recall)

    async def _serve(self, recall: Recall) -> RecallAnswer:
        self._refill.save(recall.pool)
        spare = self._stock.count(recall.pool, State.READY, State.UNPROVEN) - self._refill.wanted(recall.pool)
        slots = self._stock.surplus(recall.pool, max(min(recall.count, spare), 0), self._now())
        returned = await self._keeper.give_back(slots) if slots else 0
        log.info("recall_served", pool=recall.pool, asked=recall.count, returned=returned)
        return RecallAnswer(id=recall.id, returned=returned, answer="" if returned else NOTHING_FREE)
