"""What every `Journal` guarantees."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from adapters.journal import (
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
from tests.contract.journal.conftest import Open

ATTACHMENT = AttachmentRecord("net", "c1", "eth0", "", 6, 2**128 - 1, "pool", "ns", "pod", "uid", "/proc/1/ns/net", 1.5)
SLOT = SlotRecord("rack1", 4, 167_772_160, "quarantined", 12.25, 1_700_000_000.5, "02:00:00:00:00:01")
LEASE = LeaseRecord("ip4-10-6-0-0", "10.6.0.0/26", "", 2**48 - 1, 2**64 - 1)
EVERYTHING: list[Write] = [
    PutAttachment(ATTACHMENT),
    PutSlot(SLOT),
    PutLease(LEASE),
    PutTombstone("net", "c0", "eth0", 7.0),
    PutOutbox("ns/pod", "uid"),
    PutMeta("bootID", "b"),
]
STATE = JournalState(
    meta={"bootID": "b"},
    attachments=(ATTACHMENT,),
    slots=(SLOT,),
    leases=(LEASE,),
    tombstones=(TombstoneRecord("net", "c0", "eth0", 7.0),),
    outbox=(OutboxRecord("ns/pod", "uid"),),
)
EMPTY = JournalState({}, (), (), (), (), ())


def test_a_new_journal_is_empty(open_journal: Open) -> None:
    assert open_journal().load() == EMPTY


def test_what_is_committed_is_there_at_the_next_start(open_journal: Open) -> None:
    first = open_journal()
    first.commit(EVERYTHING)
    assert first.load() == STATE
    first.close()
    assert open_journal().load() == STATE


def test_drops_remove_exactly_their_key(open_journal: Open) -> None:
    journal = open_journal()
    other = replace(ATTACHMENT, family=4, value=5)
    journal.commit(
        [*EVERYTHING, PutAttachment(other), PutSlot(replace(SLOT, value=1)), PutLease(replace(LEASE, block="x"))]
    )
    journal.commit(
        [
            DropAttachment("net", "c1", "eth0", 6),
            DropSlot("rack1", 4, 167_772_160),
            DropLease("ip4-10-6-0-0"),
            DropTombstone("net", "c0", "eth0"),
            DropOutbox("ns/pod", "uid"),
        ]
    )
    left = journal.load()
    assert left.attachments == (other,)
    assert left.slots == (replace(SLOT, value=1),)
    assert left.leases == (replace(LEASE, block="x"),)
    assert (left.tombstones, left.outbox) == ((), ())


def test_a_put_replaces_and_dropping_nothing_is_fine(open_journal: Open) -> None:
    journal = open_journal()
    journal.commit(EVERYTHING)
    journal.commit([PutAttachment(replace(ATTACHMENT, pod_uid="new")), PutMeta("bootID", "c"), DropLease("none")])
    assert journal.load().attachments == (replace(ATTACHMENT, pod_uid="new"),)
    assert journal.load().meta == {"bootID": "c"}


def test_writes_of_one_commit_are_applied_in_order(open_journal: Open) -> None:
    journal = open_journal()
    journal.commit([PutMeta("k", "1"), PutLease(LEASE), DropLease(LEASE.block), PutMeta("k", "2")])
    assert journal.load().meta == {"k": "2"}
    assert journal.load().leases == ()


def test_an_outbox_entry_about_a_newer_pod_is_not_dropped_by_the_older_ones_delivery(open_journal: Open) -> None:
    journal = open_journal()
    journal.commit([PutOutbox("ns/pod", "old")])
    journal.commit([PutOutbox("ns/pod", "new")])
    journal.commit([DropOutbox("ns/pod", "old")])
    assert journal.load().outbox == (OutboxRecord("ns/pod", "new"),)


def test_an_empty_commit_is_nothing(open_journal: Open) -> None:
    journal = open_journal()
    journal.commit([])
    assert journal.load() == EMPTY


def test_only_one_may_have_it_open(open_journal: Open) -> None:
    first = open_journal()
    with pytest.raises(JournalLocked):
        open_journal()
    first.commit(EVERYTHING)
    first.close()
    first.close()
    assert open_journal().load() == STATE


async def test_sync_returns_for_everybody(open_journal: Open) -> None:
    journal = open_journal()
    await journal.sync()

    async def work(number: int) -> None:
        journal.commit([PutMeta(f"k{number}", "v")])
        await journal.sync()

    async with asyncio.timeout(10):
        await asyncio.gather(*(work(number) for number in range(50)))
    assert len(journal.load().meta) == 50


async def test_a_caller_that_gives_up_does_not_take_the_others_sync_with_it(open_journal: Open) -> None:
    journal = open_journal()
    journal.commit([PutMeta("k", "v")])
    impatient = asyncio.create_task(journal.sync())
    patient = asyncio.create_task(journal.sync())
    await asyncio.sleep(0)
    impatient.cancel()
    async with asyncio.timeout(10):
        await patient
