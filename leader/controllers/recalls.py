"""Brings free addresses to the nodes that have none (I8), through mailboxes: asks those that have some to give back, and tells those that
lack some where they can claim."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.kube.store import Conflict, Stored, Unknown
from crds.meta import UNSET, KubeObject
from crds.nephila import IP_NODE, IPBlock, IPNode
from crds.nephila import Offer as WireOffer
from crds.nephila import Recall as WireRecall
from ipam import planner
from ipam.planner import Outstanding, Snapshot
from leader.sight import Sight
from leader.writing import Writer

log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 4
MAX_OPEN = 32  # recalls in one mailbox; the schema allows 64
FORGET_S = 60.0  # an unanswered recall is withdrawn after this
OFFER_GAP_S = 0.05  # between two offers of one pool to one node
OFFER_AGAIN_S = 1.0  # the same offer is repeated after this
TOGETHER_S = 0.004  # what was recalled by one write is given back by one for each block, and offered by one again
TIDY_S = 2.0  # an answered one stays so long, unless another write takes it along


@dataclass(slots=True)
class Sent:
    """A recall of this reign, or one that an earlier leader left in a mailbox (then `since` is when we first saw it)."""

    recall: planner.Recall
    since: float
    returned: int = 0
    answered_at: float | None = None
    left_before: int = 0  # what had left the node's leases when it was sent


@dataclass(slots=True)
class Words:
    """What one mailbox shall say anew."""

    recalls: list[planner.Recall] = field(default_factory=list)
    offers: list[planner.Offer] = field(default_factory=list)


class Recalls:
    """`work` plans and writes; `concerns` says whether a change is a reason to plan at once."""

    def __init__(self, sight: Sight, writer: Writer, clock: Clock, entropy: Entropy, silent_s: float) -> None:
        self._sight = sight
        self._writer = writer
        self._clock = clock
        self._entropy = entropy
        self._silent_s = silent_s
        self._sent: dict[str, Sent] = {}
        self._offered: dict[tuple[str, str], tuple[tuple[str, ...], float]] = {}
        self.plan_s = 0.0
        self.total = 0

    @property
    def unanswered(self) -> int:
        """Recalls that no node has answered yet."""
        return sum(1 for sent in self._sent.values() if sent.answered_at is None)

    def concerns(self, changed: KubeObject) -> bool:
        if isinstance(changed, IPBlock):
            return bool(self._sight.needy)
        return isinstance(changed, IPNode) and bool(self._sight.needy or changed.spec.recalls)

    async def work(self) -> None:
        """One pass. Raises StoreError, Deposed."""
        self._notice()
        if self.unanswered:
            await self._clock.sleep(TOGETHER_S)
            self._notice()
        began = self._clock.now()
        actions = planner.plan(self.snapshot())
        self.plan_s = self._clock.now() - began
        words: dict[str, Words] = {}
        for action in actions:
            words.setdefault(action.node, Words()).recalls.append(action)
        for offer in self._offers():
            words.setdefault(offer.node, Words()).offers.append(offer)
        for node in self._untidy():
            words.setdefault(node, Words())
        await asyncio.gather(*(self._write(node, said) for node, said in words.items()))

    def _offers(self) -> Iterator[planner.Offer]:
        """New ones: one that was made is repeated when the node has reported since and still lacks, else only after a while."""
        if not self._sight.needy:
            self._offered.clear()
            return
        now = self._clock.now()
        needy = [item for item in self._sight.current_reports(planner.SETTLE_S) if item.node in self._sight.needy]
        for offer in planner.offers(needy, self._sight.open_pages):
            pages, at = self._offered.get((offer.node, offer.pool), ((), float("-inf")))
            unheard = pages == offer.pages and self._sight.beaten_at.get(offer.node, 0.0) <= at
            if now - at >= (OFFER_AGAIN_S if unheard else OFFER_GAP_S):
                self._offered[offer.node, offer.pool] = (offer.pages, now)
                yield offer

    def snapshot(self) -> Snapshot:
        reports = self._sight.current_reports(planner.SETTLE_S)
        needy = {report.pool for report in reports if report.wanted > report.free}
        now = self._clock.now()
        return Snapshot(
            reports=reports,
            unleased={pool: self._sight.unleased(pool) for pool in needy},
            outstanding=[self._outstanding(sent, now) for sent in self._sent.values()],
            silent=self._sight.silent_nodes(self._silent_s) if needy else frozenset(),
        )

    def _outstanding(self, sent: Sent, now: float) -> Outstanding:
        answered = None if sent.answered_at is None else now - sent.answered_at
        recall = sent.recall
        left = self._sight.ledger.moves.left(recall.node, recall.pool) - sent.left_before
        return Outstanding(
            recall.node,
            recall.pool,
            recall.count,
            now - sent.since,
            sent.returned,
            answered,
            arrived=answered is not None and left >= sent.returned,
        )

    def _notice(self) -> None:
        """Answers, and recalls that an earlier leader wrote."""
        now = self._clock.now()
        for mailbox in self._sight.mailboxes:
            if not mailbox.spec.recalls:
                continue
            answers = {} if mailbox.status is UNSET else {answer.id: answer for answer in mailbox.status.recalls}
            for item in mailbox.spec.recalls:
                sent = self._sent.get(item.id)
                if sent is None:
                    recall = planner.Recall(mailbox.name, item.pool, item.count, "")
                    sent = self._sent[item.id] = Sent(recall, now)
                answer = answers.get(item.id)
                if answer is not None and sent.answered_at is None:
                    sent.answered_at, sent.returned = now, answer.returned
                    log.info(
                        "recall_answered",
                        node=mailbox.name,
                        pool=item.pool,
                        returned=answer.returned,
                        why=answer.answer,
                    )

    def _untidy(self) -> set[str]:
        """Nodes whose mailbox holds recalls that are over."""
        now = self._clock.now()
        found: set[str] = set()
        for sent in self._sent.values():
            over = sent.answered_at is not None and now - sent.answered_at > TIDY_S
            if over or now - sent.since > FORGET_S:
                found.add(sent.recall.node)
        return found

    async def _write(self, node: str, said: Words) -> None:
        """New recalls and offers into a mailbox, and what is over out of it, by one compare-and-swap."""
        now = self._clock.now()
        offers = [
            WireOffer(id=f"{self._writer.term}-{self._entropy.bits(48):012x}", pool=offer.pool, pages=offer.pages)
            for offer in said.offers
        ]
        fresh: list[WireRecall] = []
        for recall in said.recalls:
            name = f"{self._writer.term}-{self._entropy.bits(48):012x}"
            left_before = self._sight.ledger.moves.left(node, recall.pool)
            self._sent[name] = Sent(recall, now, left_before=left_before)
            fresh.append(WireRecall(id=name, pool=recall.pool, count=recall.count, reason=recall.reason))
        mailbox = self._sight.mailboxes.get(node)
        for _attempt in range(MAX_ATTEMPTS):
            if mailbox is None:
                break
            if self._holds(mailbox, fresh, offers):
                self._forget(mailbox)
                return
            kept = [item for item in mailbox.spec.recalls if not self._is_over(item.id)]
            wanted = (*kept, *fresh)[:MAX_OPEN]
            spec = {"recalls": [msgspec.to_builtins(item) for item in wanted]}
            if offers or mailbox.spec.offers:
                spec["offers"] = [msgspec.to_builtins(item) for item in offers]
            outcome = await self._writer.patch(IP_NODE, mailbox, {"spec": spec})
            match outcome:
                case Stored(stored):
                    self.total += len(fresh)
                    for item in fresh:
                        log.info("recall_sent", node=node, pool=item.pool, count=item.count, why=item.reason)
                    self._forget(stored)
                    return
                case Conflict() | Unknown():
                    mailbox = await self._writer.store.get(IP_NODE, node)
                case _:
                    break
        for item in fresh:  # not written: the next pass decides anew
            self._sent.pop(item.id, None)
        if mailbox is None:
            self._sent = {name: sent for name, sent in self._sent.items() if sent.recall.node != node}

    def _holds(self, mailbox: IPNode, fresh: list[WireRecall], offers: list[WireOffer]) -> bool:
        """Whether an earlier attempt, whose outcome was unknown, was applied after all."""
        present = {item.id for item in mailbox.spec.recalls}
        over = any(self._is_over(name) for name in present)
        offered = {item.id for item in mailbox.spec.offers}
        return not over and {item.id for item in fresh} <= present and {item.id for item in offers} <= offered

    def _is_over(self, name: str) -> bool:
        sent = self._sent.get(name)
        return sent is None or sent.answered_at is not None or self._clock.now() - sent.since > FORGET_S

    def _forget(self, mailbox: IPNode) -> None:
        """What is over and no longer in the mailbox."""
        present = {item.id for item in mailbox.spec.recalls}
        now = self._clock.now()
        for name, sent in list(self._sent.items()):
            settled = sent.answered_at is None or now - sent.answered_at > planner.SETTLE_S
            if sent.recall.node == mailbox.name and name not in present and settled:
                del self._sent[name]
