"""The node's durable memory as a port: what it gave out, holds back and still has to tell the API.

Port and records in `port.py`; `sqlite.SqliteJournal` is the real one, `memory.MemoryJournal` the fake.
"""

from adapters.journal.port import (
    AttachmentRecord,
    DropAttachment,
    DropLease,
    DropOutbox,
    DropSlot,
    DropTombstone,
    Journal,
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

__all__ = [
    "AttachmentRecord",
    "DropAttachment",
    "DropLease",
    "DropOutbox",
    "DropSlot",
    "DropTombstone",
    "Journal",
    "JournalLocked",
    "JournalState",
    "LeaseRecord",
    "OutboxRecord",
    "PutAttachment",
    "PutLease",
    "PutMeta",
    "PutOutbox",
    "PutSlot",
    "PutTombstone",
    "SlotRecord",
    "TombstoneRecord",
    "Write",
]
