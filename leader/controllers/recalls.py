"""Asks nodes with free addresses to give some back when other nodes have none (I8), through their mailboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.kube.store import Conflict, Stored, Unknown
from crds.meta import UNSET, KubeObject
from crds.nephila import IP_NODE, IPNode
from crds.nephila import Recall as WireRecall
from ipam import planner
from ipam.planner import Outstanding, Snapshot
from leader.sight import Sight
from leader.writing import Writer

log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 4
MAX_OPEN = 32  # recalls in one mailbox; the schema allows 64
FORGET_S = 60.0  # an unanswered recall is withdrawn after this
TIDY_S = 2.0  # an answered one stays so long, unless another write takes it along


@dataclass(slots=True)
class Sent:
    """A recall of this reign, or one that an earlier leader left in a mailbox (then `since` is when we first saw it)."""

    recall: planner.Recall
    since: float
    returned: int = 0
    answered_at: float | None = None


class Recalls:
    """`work` plans and writes; `concerns` says whether a change is a reason to plan at once."""

    def __init__(self, sight: Sight, writer: Writer, clock: Clock, entropy: Entropy, silent_s: float) -> None:
        self._sight = sight
        self._writer = writer
        self._clock = clock
        self._entropy = entropy
        self._silent_s = silent_s
        self._sent: dict[str, Sent] = {}
        self.plan_s = 0.0
        self.total = 0

    def concerns(self, changed: KubeObject) -> bool:
        if not isinstance(changed, IPNode):
            return False
        if changed.spec.recalls or any(report.lacking for report in self._sight.reports.get(changed.name, ())):
            return True
        return any(not sent.answered_at for sent in self._sent.values())

    async def work(self) -> None:
        """One pass. Raises StoreError, Deposed."""
        self._notice()
        began = self._clock.now()
        actions = planner.plan(self.snapshot())
        self.plan_s = self._clock.now() - began
        by_node: dict[str, list[planner.Recall]] = {}
        for action in actions:
            by_node.setdefault(action.node, []).append(action)
        for node in self._untidy():
            by_node.setdefault(node, [])
        await asyncio.gather(*(self._write(node, asked) for node, asked in by_node.items()))

    def snapshot(self) -> Snapshot:
        reports = self._sight.all_reports()
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
        return Outstanding(
            sent.recall.node, sent.recall.pool, sent.recall.count, now - sent.since, sent.returned, answered
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

    async def _write(self, node: str, asked: Iterable[planner.Recall]) -> None:
        """New recalls into a mailbox, and those that are over out of it, by one compare-and-swap."""
        now = self._clock.now()
        fresh: list[WireRecall] = []
        for recall in asked:
            name = f"{self._writer.term}-{self._entropy.bits(48):012x}"
            self._sent[name] = Sent(recall, now)
            fresh.append(WireRecall(id=name, pool=recall.pool, count=recall.count, reason=recall.reason))
        mailbox = self._sight.mailboxes.get(node)
        for _attempt in range(MAX_ATTEMPTS):
            if mailbox is None:
                break
            if self._holds(mailbox, fresh):
                self._forget(mailbox)
                return
            kept = [item for item in mailbox.spec.recalls if not self._is_over(item.id)]
            wanted = (*kept, *fresh)[:MAX_OPEN]
            outcome = await self._writer.patch(
                IP_NODE, mailbox, {"spec": {"recalls": [msgspec.to_builtins(item) for item in wanted]}}
            )
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

    def _holds(self, mailbox: IPNode, fresh: list[WireRecall]) -> bool:
        """Whether an earlier attempt, whose outcome was unknown, was applied after all."""
        present = {item.id for item in mailbox.spec.recalls}
        over = any(self._is_over(name) for name in present)
        return {item.id for item in fresh} <= present and not over

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
