"""`MemoryJournal`: the journal in memory, with faults and crashes on request, for tests and simulation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TypeAlias

from adapters.journal.port import (
    AttachmentRecord,
    DropAttachment,
    DropLease,
    DropOutbox,
    DropSlot,
    DropTombstone,
    JournalLocked,
    JournalState,
    LeaseRecord,
    OutboxRecord,
    PutAttachment,
    PutLease,
    PutMeta,
    PutOutbox,
    PutSlot,
    PutTombstone,
    SlotRecord,
    TombstoneRecord,
    Write,
)
from ipam.errors import JournalFailed

OnCommit: TypeAlias = Callable[[int, Sequence[Write]], None]
"""Called before each commit with its number (from 1); raises JournalFailed to refuse it."""
OnSync: TypeAlias = Callable[[], Awaitable[None]]
"""Called in each sync; may wait, or raise JournalFailed."""


@dataclass(slots=True)
class _Tables:
    meta: dict[str, str] = field(default_factory=dict)
    attachments: dict[tuple[str, str, str, int], AttachmentRecord] = field(default_factory=dict)
    slots: dict[tuple[str, int, int], SlotRecord] = field(default_factory=dict)
    leases: dict[str, LeaseRecord] = field(default_factory=dict)
    tombstones: dict[tuple[str, str, str], TombstoneRecord] = field(default_factory=dict)
    outbox: dict[str, OutboxRecord] = field(default_factory=dict)

    def apply(self, writes: Sequence[Write]) -> None:
        for write in writes:
            self._apply(write)

    def _apply(self, write: Write) -> None:  # noqa: C901  # one case per kind of write
        match write:
            case PutAttachment(r):
                self.attachments[r.network, r.container_id, r.ifname, r.family] = r
            case DropAttachment(network, container_id, ifname, family):
                self.attachments.pop((network, container_id, ifname, family), None)
            case PutSlot(r):
                self.slots[r.domain, r.family, r.value] = r
            case DropSlot(domain, family, value):
                self.slots.pop((domain, family, value), None)
            case PutLease(r):
                self.leases[r.block] = r
            case DropLease(block):
                self.leases.pop(block, None)
            case PutTombstone(network, container_id, ifname, at_wall):
                self.tombstones[network, container_id, ifname] = TombstoneRecord(network, container_id, ifname, at_wall)
            case DropTombstone(network, container_id, ifname):
                self.tombstones.pop((network, container_id, ifname), None)
            case PutOutbox(key, pod_uid):
                self.outbox[key] = OutboxRecord(key, pod_uid)
            case DropOutbox(key, pod_uid):
                if self.outbox.get(key) == OutboxRecord(key, pod_uid):
                    del self.outbox[key]
            case PutMeta(key, value):
                self.meta[key] = value

    def state(self) -> JournalState:
        """In the order of the primary keys, as the real one."""
        return JournalState(
            meta=dict(self.meta),
            attachments=tuple(
                sorted(self.attachments.values(), key=attrgetter("network", "container_id", "ifname", "family"))
            ),
            slots=tuple(sorted(self.slots.values(), key=lambda r: (r.domain, r.family, str(r.value)))),
            leases=tuple(sorted(self.leases.values(), key=attrgetter("block"))),
            tombstones=tuple(sorted(self.tombstones.values(), key=attrgetter("network", "container_id", "ifname"))),
            outbox=tuple(sorted(self.outbox.values(), key=attrgetter("key"))),
        )


class MemoryDisk:
    """What outlives the process: the synced part, and commits the kernel has but the disk may not."""

    def __init__(self) -> None:
        self._durable = _Tables()
        self._unsynced: list[tuple[Write, ...]] = []
        self._flushed = 0
        self._holder: MemoryJournal | None = None

    @property
    def unsynced(self) -> int:
        """Commits that a power loss could take."""
        return len(self._unsynced)

    def open(self, *, on_commit: OnCommit | None = None, on_sync: OnSync | None = None) -> MemoryJournal:
        """Raises JournalLocked while another journal on this disk is open."""
        if self._holder is not None:
            raise JournalLocked("journal is open in another process", "only one agent may run on a node")
        self._holder = MemoryJournal(self, on_commit=on_commit, on_sync=on_sync)
        return self._holder

    def lose_power(self, *, lost_commits: int) -> None:
        """The machine dies, and the last `lost_commits` unsynced commits (all, if fewer) with it; a torn commit counts as lost."""
        keep = max(len(self._unsynced) - lost_commits, 0)
        self.flush(self._flushed + keep)
        self._unsynced.clear()
        self._holder = None

    def released(self) -> None:
        self._holder = None

    def held_by(self, journal: MemoryJournal) -> bool:
        return self._holder is journal

    def append(self, writes: tuple[Write, ...]) -> None:
        self._unsynced.append(writes)

    @property
    def appended(self) -> int:
        """How many commits there have been on this disk."""
        return self._flushed + len(self._unsynced)

    def flush(self, appended: int) -> None:
        """Make the commits up to that number durable."""
        count = max(appended - self._flushed, 0)
        for writes in self._unsynced[:count]:
            self._durable.apply(writes)
        del self._unsynced[:count]
        self._flushed += count

    def tables(self) -> _Tables:
        copy = _Tables()
        for name in _Tables.__slots__:
            getattr(copy, name).update(getattr(self._durable, name))
        for writes in self._unsynced:
            copy.apply(writes)
        return copy


class MemoryJournal:
    """`Journal` on a `MemoryDisk` (its own, if none is given)."""

    def __init__(
        self, disk: MemoryDisk | None = None, *, on_commit: OnCommit | None = None, on_sync: OnSync | None = None
    ) -> None:
        self.disk = disk or MemoryDisk()
        if disk is None:
            self.disk._holder = self
        self.on_commit = on_commit
        self.on_sync = on_sync
        self.commits = 0
        self._tables = self.disk.tables()

    def load(self) -> JournalState:
        return self._tables.state()

    def commit(self, writes: Sequence[Write]) -> None:
        if not writes:
            return
        self._must_be_open()
        self.commits += 1
        if self.on_commit is not None:
            self.on_commit(self.commits, writes)
        self._tables.apply(writes)
        self.disk.append(tuple(writes))

    async def sync(self) -> None:
        self._must_be_open()
        covered = self.disk.appended
        if self.on_sync is not None:
            await self.on_sync()
            self._must_be_open()
        self.disk.flush(covered)

    def close(self) -> None:
        if self.disk.held_by(self):
            self.disk.released()

    def crash(self, *, lost_commits: int = 0) -> MemoryJournal:
        """The process dies now; the journal as its successor opens it.

        With 0, kill -9: all commits are there, those not synced still only in the kernel. Otherwise a power loss that takes so many of them.
        """
        on_commit, on_sync = self.on_commit, self.on_sync
        if lost_commits:
            self.disk.lose_power(lost_commits=lost_commits)
        else:
            self.disk.released()
        return self.disk.open(on_commit=on_commit, on_sync=on_sync)

    def _must_be_open(self) -> None:
        if not self.disk.held_by(self):
            raise JournalFailed("the journal was closed, or its process died")
