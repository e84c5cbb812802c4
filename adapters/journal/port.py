"""The node's durable memory as a port: records, writes and what a journal promises.

`commit` is one transaction. When it returns, the writes survive kill -9 of the process; when it raises
`JournalFailed`, none of them happened. `sync` makes all that was committed so far survive a power loss too. Addresses
are (domain, family 4|6, value).

They are msgspec's structs, which cost a tenth of a dataclass to make: several are made in every ADD.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import msgspec

from ipam.errors import JournalFailed


class JournalLocked(JournalFailed):
    """Another process has the journal open. Two allocators on one journal would give out one address twice (I2)."""


class AttachmentRecord(msgspec.Struct, frozen=True, gc=False):
    """One address of one attachment. `made_at`: Unix seconds."""

    network: str
    container_id: str
    ifname: str
    domain: str
    family: int
    value: int
    pool: str
    namespace: str
    pod: str
    pod_uid: str
    netns: str
    made_at: float


class SlotRecord(msgspec.Struct, frozen=True, gc=False):
    """A slot that is not simply free.

    `state`: cooling, leaving or quarantined; `released_now`: CLOCK_BOOTTIME of this boot; `until_wall`: Unix seconds.
    """

    domain: str
    family: int
    value: int
    state: str
    released_now: float = 0.0
    until_wall: float = 0.0
    evidence: str = ""


class LeaseRecord(msgspec.Struct, frozen=True, gc=False):
    """This node's lease of a block as last written or read.

    The block's page, the lease's epoch, its slots as a mask.
    """

    block: str
    page: str
    domain: str
    epoch: int
    slots: int


class TombstoneRecord(msgspec.Struct, frozen=True, gc=False):
    network: str
    container_id: str
    ifname: str
    at_wall: float


class OutboxRecord(msgspec.Struct, frozen=True, gc=False):
    """`key`: namespace/name of a pod whose SpiderEndpoint is out of date; `pod_uid`: of the pod that changed it."""

    key: str
    pod_uid: str


class JournalState(msgspec.Struct, frozen=True):
    """Everything in the journal. `meta` holds e.g. bootID, nodeUID, mailboxUID, acknowledgedAt."""

    meta: dict[str, str]
    attachments: tuple[AttachmentRecord, ...]
    slots: tuple[SlotRecord, ...]
    leases: tuple[LeaseRecord, ...]
    tombstones: tuple[TombstoneRecord, ...]
    outbox: tuple[OutboxRecord, ...]


class PutAttachment(msgspec.Struct, frozen=True, gc=False):
    record: AttachmentRecord


class DropAttachment(msgspec.Struct, frozen=True, gc=False):
    network: str
    container_id: str
    ifname: str
    family: int


class PutSlot(msgspec.Struct, frozen=True, gc=False):
    record: SlotRecord


class DropSlot(msgspec.Struct, frozen=True, gc=False):
    domain: str
    family: int
    value: int


class PutLease(msgspec.Struct, frozen=True, gc=False):
    record: LeaseRecord


class DropLease(msgspec.Struct, frozen=True, gc=False):
    block: str


class PutTombstone(msgspec.Struct, frozen=True, gc=False):
    network: str
    container_id: str
    ifname: str
    at_wall: float


class DropTombstone(msgspec.Struct, frozen=True, gc=False):
    network: str
    container_id: str
    ifname: str


class PutOutbox(msgspec.Struct, frozen=True, gc=False):
    key: str
    pod_uid: str


class DropOutbox(msgspec.Struct, frozen=True, gc=False):
    """Removes the entry only if it is still about `pod_uid`."""

    key: str
    pod_uid: str


class PutMeta(msgspec.Struct, frozen=True, gc=False):
    key: str
    value: str


Write: TypeAlias = (
    PutAttachment
    | DropAttachment
    | PutSlot
    | DropSlot
    | PutLease
    | DropLease
    | PutTombstone
    | DropTombstone
    | PutOutbox
    | DropOutbox
    | PutMeta
)


class Journal(Protocol):
    def load(self) -> JournalState:
        """Everything that was committed. Called once, at start."""

    def commit(self, writes: Sequence[Write]) -> None:
        """All of the writes, in order, or none. Raises ipam.errors.JournalFailed."""

    async def sync(self) -> None:
        """What was committed before this call survives a power loss once it returns. Raises JournalFailed."""

    def close(self) -> None:
        """Release the lock; commit and sync must not be called afterwards."""
