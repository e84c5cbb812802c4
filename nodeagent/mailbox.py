"""The agent's side of its `IPNode`: heartbeats by compare-and-swap, the fence, and what the node reports.

`status` is ours, `spec` the leader's. A heartbeat that is refused means that somebody wrote the object since we last saw it, perhaps a fence mark;
so the agent learns of a mark at its first contact, and never clears one that it has not seen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from adapters.clock import Clock
from adapters.journal import Journal, PutMeta
from adapters.kube.store import Conflict, Missing, Store, Stored, StoreError, Unknown
from crds.meta import UNSET, ObjectMeta
from crds.nephila import (
    IP_NODE,
    AuditEntry,
    ConflictSeen,
    GatewayState,
    Heartbeat,
    IPNode,
    PoolStock,
    ProbeState,
    RecallAnswer,
    SegmentState,
)
from ipam.errors import ApiUnreachable
from ipam.fence import Fence, acknowledged, cleared, observed

log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5
ANOTHER_AGENT = "another-agent"  # stands in for a mark: a successor's heartbeat, found in our mailbox
ACKNOWLEDGED, MAILBOX_UID = "acknowledgedAt", "mailboxUID"


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What the heartbeat carries beside itself."""

    pools: tuple[PoolStock, ...] = ()
    recalls: tuple[RecallAnswer, ...] = ()
    conflicts: tuple[ConflictSeen, ...] = ()
    audit: tuple[AuditEntry, ...] = ()
    probe: ProbeState | None = None
    segments: tuple[SegmentState, ...] = ()
    gateways: tuple[GatewayState, ...] = ()
    version: str = ""
    parent: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    node: str
    node_uid: str
    boot_id: str


class Mailbox:
    """Owns the `Fence`. `retake`: writes every lease of this node anew; called when a mark must be answered."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        clock: Clock,
        identity: Identity,
        fence: Fence,
        report: Callable[[], NodeReport],
        retake: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._journal = journal
        self._clock = clock
        self._identity = identity
        self._report = report
        self._retake = retake
        self._sequence = 0
        self._seen: IPNode | None = None
        self._fence = fence
        self.observers: list[Callable[[Fence, Fence], None]] = []

    @property
    def fence(self) -> Fence:
        """Whether this node may hand out. Observers get it before and after every change."""
        return self._fence

    @fence.setter
    def fence(self, after: Fence) -> None:
        before, self._fence = self._fence, after
        for observe in self.observers:
            observe(before, after)

    @property
    def object(self) -> IPNode | None:
        """The mailbox as last read or written."""
        return self._seen

    async def beat(self) -> None:
        """One heartbeat, and the answer to a mark if one stands. Raises ApiUnreachable; the fence then closes by itself in time."""
        for _attempt in range(MAX_ATTEMPTS):
            if self._seen is None:
                await self._read()
            if self.fence.mark:
                await self._answer_mark()
                return
            if await self._write_status(self.fence.mark):
                return
        raise ApiUnreachable(
            "the heartbeat was refused again and again", hint=f"who else writes IPNode {self._identity.node}?"
        )

    async def _answer_mark(self) -> None:
        """Every lease under a new epoch first; the mark's end (or the new mailbox) last, so that a crash in between leaves us fenced."""
        mark = self.fence.mark
        log.warning("fence_mark_found", mark=mark, node=self._identity.node)
        began = self._clock.now()
        await self._retake()
        if self._seen is None:
            outcome = await self._store.create(IP_NODE, self._new_object())
            if not isinstance(outcome, Stored):
                raise ApiUnreachable(
                    f"IPNode {self._identity.node} could not be created: {outcome}", hint="check the agent's RBAC"
                )
            self._seen = outcome.object
        # Into a new mailbox too: its heartbeat tells later boots that this one was before them.
        sent_at = await self._end_mark(mark)
        if self._clock.now() - began > self.fence.lease_s:
            raise ApiUnreachable(
                "the leases were re-taken too long ago: the leader may have taken slots and removed its mark since",
                hint="they are re-taken once more",
            )
        self.fence = cleared(self.fence, mark, self._seen.uid, sent_at)
        self._persist()
        log.info("fence_mark_cleared", mark=mark)

    async def _end_mark(self, mark: str) -> float:
        """Write the mark's end; returns when that was begun. The leader may write recalls and offers meanwhile: as long as the mark is the same, the
        write is tried again at once, or a busy mailbox would keep the node fenced for ever. Raises ApiUnreachable.
        """
        for _attempt in range(MAX_ATTEMPTS):
            if self._seen is None or self.fence.mark != mark:
                break
            sent_at = self._clock.now()
            if await self._write_status(mark if standing_mark(self._seen) == mark else ""):
                return sent_at
        raise ApiUnreachable("the fence mark changed while it was answered", hint="it is tried again at once")

    async def _write_status(self, clears: str) -> bool:
        """False if somebody wrote the object since we saw it (it has been read again). Raises ApiUnreachable."""
        assert self._seen is not None
        sent_at = self._clock.now()
        outcome = await self._store.patch(
            IP_NODE,
            self._identity.node,
            {"status": self._status(clears)},
            resource_version=self._seen.resource_version,
            subresource="status",
        )
        match outcome:
            case Stored(stored):
                self._observe(stored)
                if not clears and not self.fence.mark:
                    self.fence = acknowledged(self.fence, sent_at)
                    self._persist()
                return True
            case Conflict() | Missing() | Unknown():
                await self._read()
                return self._was_applied(sent_at) and not clears
            case refused:
                raise ApiUnreachable(
                    f"IPNode {self._identity.node} refused the heartbeat: {refused}", hint="check the agent's RBAC"
                )

    def _was_applied(self, sent_at: float) -> bool:
        """After an unknown outcome: the object carries the very heartbeat that we sent."""
        beat = self._seen.status.heartbeat if self._seen and self._seen.status is not UNSET else UNSET
        applied = beat is not UNSET and beat.sequence == self._sequence and beat.boot_id == self._identity.boot_id
        if applied and not self.fence.mark:
            self.fence = acknowledged(self.fence, sent_at)
            self._persist()
        return applied

    async def _read(self) -> None:
        try:
            found = await self._store.get(IP_NODE, self._identity.node)
        except StoreError as error:
            raise ApiUnreachable(
                f"IPNode {self._identity.node} could not be read: {error}", hint="check the API server"
            ) from error
        self._observe(found)

    def _observe(self, found: IPNode | None) -> None:
        self._seen = found
        mark = standing_mark(found) if found else ""
        if found is not None and not mark and self._is_foreign(found):
            mark = ANOTHER_AGENT
        self.fence = observed(self.fence, found.uid if found else None, mark)

    def _is_foreign(self, found: IPNode) -> bool:
        """An agent under another Node UID beats in our mailbox: our node was replaced, and the leader may have given our leases away."""
        beat = found.status.heartbeat if found.status is not UNSET else UNSET
        return beat is not UNSET and beat.node_uid != self._identity.node_uid

    def _status(self, clears: str) -> dict[str, Any]:
        self._sequence = max(self._sequence, _sequence_of(self._seen)) + 1
        report = self._report()
        status: dict[str, Any] = {
            "heartbeat": msgspec.to_builtins(self._heartbeat()),
            "pools": msgspec.to_builtins(report.pools),
            "recalls": msgspec.to_builtins(report.recalls),
            "conflicts": msgspec.to_builtins(report.conflicts),
            "audit": msgspec.to_builtins(report.audit),
            "probe": msgspec.to_builtins(report.probe) if report.probe else None,
            "segments": msgspec.to_builtins(report.segments),
            "gateways": msgspec.to_builtins(report.gateways),
            "version": report.version,
            "parent": report.parent,
        }
        if clears:
            status["clearedFence"] = clears
        return status

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            sequence=self._sequence,
            boot_id=self._identity.boot_id,
            node_uid=self._identity.node_uid,
            renew_time=datetime.fromtimestamp(self._clock.wall(), UTC),
        )

    def _new_object(self) -> IPNode:
        return IPNode(metadata=ObjectMeta(name=self._identity.node))

    def _persist(self) -> None:
        """A restart within the lease time may go on without the API server: the clock of the acknowledgement counts through it."""
        self._journal.commit(
            [PutMeta(ACKNOWLEDGED, repr(self.fence.acknowledged_at)), PutMeta(MAILBOX_UID, self.fence.mailbox_uid)]
        )


def standing_mark(mailbox: IPNode) -> str:
    """The id of the fence mark that the node has not answered yet; "" if none stands."""
    mark = mailbox.spec.fence
    answered = mailbox.status.cleared_fence if mailbox.status is not UNSET else ""
    return mark.id if mark is not UNSET and mark.id != answered else ""


def _sequence_of(mailbox: IPNode | None) -> int:
    if mailbox is None or mailbox.status is UNSET or mailbox.status.heartbeat is UNSET:
        return 0
    return mailbox.status.heartbeat.sequence
