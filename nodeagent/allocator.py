"""The hot path: which slots are bound to which attachment of which pod, durable before visible (I3).

Every public method that changes something commits to the journal first and changes memory only if that succeeded; the caller replies after it
returns. So a crash at any point leaves either nothing, or a journalled allocation that the runtime's retry or its DEL will find:

- ADD repeated for the same key gets the same answer; for the same pod UID and interface under a new container id, `adopt` moves the address to
  the new container, and the old container's late DEL finds nothing to free.
- DEL leaves a tombstone: a late ADD of that container is refused, however the two raced.

Durability argument: SQLite in WAL mode with synchronous=NORMAL survives kill -9 of the agent. A power loss may take back the last commits, but it
also took every sandbox of the node; after a change of boot id every lease is re-taken by compare-and-swap before use.

No I/O but the journal's one commit, no await, no work that grows with a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from adapters.clock import Clock
from adapters.journal import (
    AttachmentRecord,
    DropAttachment,
    DropSlot,
    DropTombstone,
    Journal,
    JournalState,
    PutAttachment,
    PutOutbox,
    PutSlot,
    PutTombstone,
    SlotRecord,
    Write,
)
from ipam.addresses import Family
from ipam.slots import SlotId
from ipam.stock import Held, Stock

TOMBSTONE_AGE_S = 3600.0
MAX_TOMBSTONES = 4096


class Key(msgspec.Struct, frozen=True):
    """What CNI identifies an attachment by (specification section 2, "Parameters"; several networks may share one container)."""

    network: str
    container_id: str
    ifname: str


class Grant(msgspec.Struct, frozen=True):
    """One address of an attachment. `pool` is its name when the address was given out; the pool may be edited or gone since."""

    slot: SlotId
    pool: str


class Attachment(msgspec.Struct, frozen=True):
    """One interface of one sandbox with its addresses. `made_at`: Unix seconds."""

    key: Key
    namespace: str
    pod: str
    pod_uid: str
    netns: str
    grants: tuple[Grant, ...]
    made_at: float


class Allocator:
    """The node's attachments over its stock. One event loop owns it."""

    def __init__(
        self, journal: Journal, clock: Clock, stock: Stock, cooldown_s: float, is_pinned: Callable[[SlotId], bool]
    ) -> None:
        self._is_pinned = is_pinned
        self._journal = journal
        self._clock = clock
        self._stock = stock
        self._cooldown_s = cooldown_s
        self._attachments: dict[Key, Attachment] = {}
        self._by_pod: dict[str, dict[Key, Attachment]] = {}
        self._by_slot: dict[SlotId, Key] = {}
        self._tombstones: dict[Key, float] = {}
        self._dirty: list[tuple[str, str]] = []

    # What is there -------------------------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Attachment | None:
        return self._attachments.get(key)

    def all(self) -> tuple[Attachment, ...]:
        return tuple(self._attachments.values())

    def of_pod(self, pod_uid: str) -> tuple[Attachment, ...]:
        return tuple(self._by_pod.get(pod_uid, {}).values())

    def holder_of(self, slot: SlotId) -> Attachment | None:
        key = self._by_slot.get(slot)
        return self._attachments[key] if key else None

    def is_buried(self, key: Key) -> bool:
        """True if a DEL for this container came already."""
        return key in self._tombstones

    def adoptable(self, network: str, ifname: str, pod_uid: str) -> Attachment | None:
        """The pod's attachment of an earlier container: a retried sandbox keeps its address."""
        for attachment in self._by_pod.get(pod_uid, {}).values():
            if attachment.key.network == network and attachment.key.ifname == ifname:
                return attachment
        return None

    def take_dirty(self) -> list[tuple[str, str]]:
        """(namespace/name, UID) of pods whose addresses changed since the last call; the journal's outbox has them too."""
        taken, self._dirty = self._dirty, []
        return taken

    # Changes: journal first, then memory -----------------------------------------------------------------------------------------------

    def grant(self, wanted: Attachment, picks: Sequence[Held]) -> Attachment:
        """Bind the picked slots: all of them or, if the journal fails, none. Raises JournalFailed."""
        attachment = msgspec.structs.replace(
            wanted, grants=tuple(Grant(held.slot, held.pool) for held in picks), made_at=self._clock.wall()
        )
        writes: list[Write] = [PutAttachment(record) for record in _records(attachment)]
        writes += [
            DropSlot(held.slot.domain, held.slot.family, held.slot.value)
            for held in picks
            if held.released_at > float("-inf")
        ]
        writes.append(_outbox(attachment))
        self._journal.commit(writes)
        for held in picks:
            self._stock.allocate(held.slot)
        self._remember(attachment)
        return attachment

    def adopt(self, present: Attachment, container_id: str, netns: str) -> Attachment:
        """Give an existing attachment to the pod's new container. Raises JournalFailed."""
        adopted = msgspec.structs.replace(
            present, key=msgspec.structs.replace(present.key, container_id=container_id), netns=netns
        )
        writes: list[Write] = [_drop(record) for record in _records(present)]
        writes += [PutAttachment(record) for record in _records(adopted)]
        writes.append(_outbox(adopted))
        self._journal.commit(writes)
        self._forget(present)
        self._remember(adopted)
        return adopted

    def release(self, key: Key) -> Attachment | None:
        """DEL: free what this very container holds, and refuse its ADD from now on. Repeats are harmless. Raises JournalFailed.

        A pinned address does not become free here: it leaves the node's leases, which vacates its pin.
        """
        present = self._attachments.get(key)
        now, wall = self._clock.now(), self._clock.wall()
        pinned: set[SlotId] = set()
        writes: list[Write] = [PutTombstone(key.network, key.container_id, key.ifname, wall)]
        if present is not None:
            writes += [_drop(record) for record in _records(present)]
            pinned = {grant.slot for grant in present.grants if self._is_pinned(grant.slot)}
            writes += [
                PutSlot(self._resting(grant.slot, "leaving" if grant.slot in pinned else "cooling", now, wall))
                for grant in present.grants
            ]
            writes.append(_outbox(present))
        writes += self._expired_tombstones(wall)
        self._journal.commit(writes)
        for write in writes:
            if isinstance(write, DropTombstone):
                self._tombstones.pop(Key(write.network, write.container_id, write.ifname), None)
        self._tombstones[key] = wall
        if present is not None:
            self._forget(present)
            for grant in present.grants:
                end = self._stock.retire if grant.slot in pinned else self._stock.release
                end(grant.slot, now, self._cooldown_s)
        return present

    def restore(self, state: JournalState) -> tuple[Attachment, ...]:
        """Rebuild memory from the journal at start. The stock must hold the slots already; returns what was found."""
        for group in _grouped(state.attachments):
            first = group[0]
            attachment = Attachment(
                key=Key(first.network, first.container_id, first.ifname),
                namespace=first.namespace,
                pod=first.pod,
                pod_uid=first.pod_uid,
                netns=first.netns,
                grants=tuple(Grant(SlotId(r.domain, Family(r.family), r.value), r.pool) for r in group),
                made_at=first.made_at,
            )
            self._remember(attachment)
        for stone in state.tombstones:
            self._tombstones[Key(stone.network, stone.container_id, stone.ifname)] = stone.at_wall
        self._dirty.clear()  # what was not delivered stands in the journal's outbox
        return self.all()

    # Inside --------------------------------------------------------------------------------------------------------------------------

    def _remember(self, attachment: Attachment) -> None:
        self._attachments[attachment.key] = attachment
        self._dirty.append((f"{attachment.namespace}/{attachment.pod}", attachment.pod_uid))
        self._by_pod.setdefault(attachment.pod_uid, {})[attachment.key] = attachment
        for grant in attachment.grants:
            self._by_slot[grant.slot] = attachment.key

    def _forget(self, attachment: Attachment) -> None:
        del self._attachments[attachment.key]
        self._dirty.append((f"{attachment.namespace}/{attachment.pod}", attachment.pod_uid))
        of_pod = self._by_pod[attachment.pod_uid]
        del of_pod[attachment.key]
        if not of_pod:
            del self._by_pod[attachment.pod_uid]
        for grant in attachment.grants:
            del self._by_slot[grant.slot]

    def _resting(self, slot: SlotId, state: str, now: float, wall: float) -> SlotRecord:
        return SlotRecord(
            domain=slot.domain,
            family=slot.family,
            value=slot.value,
            state=state,
            released_now=now,
            until_wall=wall + self._cooldown_s,
        )

    def _expired_tombstones(self, wall: float) -> list[DropTombstone]:
        """Oldest first, at most a few a call, so that the table stays bounded without a scan."""
        expired: list[DropTombstone] = []
        for key, buried_at in self._tombstones.items():
            too_many = len(self._tombstones) - len(expired) > MAX_TOMBSTONES
            if len(expired) == 8 or not (too_many or wall - buried_at > TOMBSTONE_AGE_S):
                break
            expired.append(DropTombstone(key.network, key.container_id, key.ifname))
        return expired


def _records(attachment: Attachment) -> list[AttachmentRecord]:
    """One journal row per address."""
    key = attachment.key
    return [
        AttachmentRecord(
            network=key.network,
            container_id=key.container_id,
            ifname=key.ifname,
            domain=grant.slot.domain,
            family=grant.slot.family,
            value=grant.slot.value,
            pool=grant.pool,
            namespace=attachment.namespace,
            pod=attachment.pod,
            pod_uid=attachment.pod_uid,
            netns=attachment.netns,
            made_at=attachment.made_at,
        )
        for grant in attachment.grants
    ]


def _drop(record: AttachmentRecord) -> DropAttachment:
    return DropAttachment(record.network, record.container_id, record.ifname, record.family)


def _outbox(attachment: Attachment) -> PutOutbox:
    """The pod's SpiderEndpoint must be written or removed; what it should say is derived when it is sent."""
    return PutOutbox(f"{attachment.namespace}/{attachment.pod}", attachment.pod_uid)


def _grouped(records: Iterable[AttachmentRecord]) -> Iterable[list[AttachmentRecord]]:
    groups: dict[tuple[str, str, str], list[AttachmentRecord]] = {}
    for record in records:
        groups.setdefault((record.network, record.container_id, record.ifname), []).append(record)
    return groups.values()
