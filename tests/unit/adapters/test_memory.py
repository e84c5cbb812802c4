"""What the fakes can be made to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from adapters.clock import ManualClock
from adapters.journal import Journal, JournalLocked, PutMeta, Write
from adapters.journal.memory import MemoryDisk, MemoryJournal
from adapters.kube.memory import (
    Answered,
    AnswerLost,
    AnswerSlow,
    AppliedLate,
    Call,
    Fault,
    MemoryStore,
    NotSent,
    RequestLost,
)
from adapters.kube.memory_cluster import MemoryCluster
from adapters.kube.store import Conflict, Gone, Refused, Rejected, Stored, StoreError, Unknown, Unreachable
from crds.meta import Kind, KubeObject, ObjectMeta
from crds.nephila import IP_BLOCK, IPBlock, IPBlockSpec
from ipam.errors import JournalFailed


def block(epoch: int = 1) -> IPBlock:
    return IPBlock(metadata=ObjectMeta(name="b"), spec=IPBlockSpec(page="10.6.0.0/26", epoch=epoch, term=0))


@pytest.fixture
async def cluster() -> MemoryCluster:
    made = MemoryCluster(ManualClock())
    await MemoryStore(made).create(IP_BLOCK, block())
    return made


def faulty(cluster: MemoryCluster, fault: Fault) -> MemoryStore:
    async def inject(call: Call) -> Fault | None:
        return fault

    return MemoryStore(cluster, fault=inject)


async def epoch(cluster: MemoryCluster) -> int:
    now = await MemoryStore(cluster).get(IP_BLOCK, "b")
    assert now is not None
    return now.spec.epoch


@pytest.mark.parametrize(
    ("fault", "outcome", "applied"),
    [
        (NotSent(), Refused, 1),
        (RequestLost(), Unknown, 1),
        (AnswerLost(), Unknown, 2),
        (Answered(409), Conflict, 1),
        (Answered(429), Refused, 1),
        (Answered(503), Refused, 1),
        (Answered(500), Unknown, 1),
    ],
)
async def test_a_write_that_meets_a_fault(cluster: MemoryCluster, fault: Fault, outcome: type, applied: int) -> None:
    assert isinstance(await faulty(cluster, fault).patch(IP_BLOCK, "b", {"spec": {"epoch": 2}}), outcome)
    assert await epoch(cluster) == applied


@pytest.mark.parametrize(
    ("fault", "error"),
    [(NotSent(), Unreachable), (AnswerLost(), Unreachable), (Answered(410), Gone), (Answered(500), Rejected)],
)
async def test_a_read_that_meets_a_fault(cluster: MemoryCluster, fault: Fault, error: type[StoreError]) -> None:
    store = faulty(cluster, fault)
    with pytest.raises(error):
        await store.get(IP_BLOCK, "b")
    with pytest.raises(error):
        await store.list(IP_BLOCK)


async def test_a_write_may_be_applied_long_after_its_caller_gave_up(cluster: MemoryCluster) -> None:
    later: list[Callable[[], object]] = []
    store = faulty(cluster, AppliedLate(later.append))
    assert isinstance(await store.patch(IP_BLOCK, "b", {"spec": {"epoch": 2}}), Unknown)
    assert await epoch(cluster) == 1
    later[0]()
    assert await epoch(cluster) == 2


async def test_a_slow_answer_comes_after_the_write_is_seen(cluster: MemoryCluster) -> None:
    release = asyncio.Event()

    async def wait() -> None:
        await release.wait()

    writing = asyncio.ensure_future(faulty(cluster, AnswerSlow(wait)).patch(IP_BLOCK, "b", {"spec": {"epoch": 2}}))
    await asyncio.sleep(0)
    assert await epoch(cluster) == 2
    assert not writing.done()
    release.set()
    assert isinstance(await writing, Stored)


async def test_rules_beyond_the_schema_can_refuse() -> None:
    def grows(kind: Kind[KubeObject], old: KubeObject | None, new: KubeObject) -> str | None:
        assert isinstance(new, IPBlock)
        return "spec.epoch never decreases" if isinstance(old, IPBlock) and new.spec.epoch < old.spec.epoch else None

    cluster = MemoryCluster(ManualClock(), validate=grows)
    store = MemoryStore(cluster)
    await store.create(IP_BLOCK, block(5))
    refused = await store.patch(IP_BLOCK, "b", {"spec": {"epoch": 4}})
    assert refused == Refused(422, "Invalid", "spec.epoch never decreases")
    assert isinstance(await store.patch(IP_BLOCK, "b", {"spec": {"epoch": 6}}), Stored)
    assert store.calls == {("create", "ipblocks"): 1, ("patch", "ipblocks"): 2}


async def test_history_is_bounded_and_older_watches_are_gone() -> None:
    cluster = MemoryCluster(ManualClock(), history_limit=3)
    store = MemoryStore(cluster)
    await store.create(IP_BLOCK, block())
    for number in range(2, 8):
        await store.patch(IP_BLOCK, "b", {"spec": {"epoch": number}})
    with pytest.raises(Gone):
        await anext(aiter(store.watch(IP_BLOCK, resource_version="2", timeout_s=1)))


def meta(journal: Journal) -> dict[str, str]:
    return dict(journal.load().meta)


async def test_a_killed_process_loses_nothing_and_a_power_loss_only_what_was_not_synced() -> None:
    journal = MemoryJournal()
    journal.commit([PutMeta("a", "1")])
    journal = journal.crash()
    assert meta(journal) == {"a": "1"}
    assert journal.disk.unsynced == 1
    await journal.sync()
    journal.commit([PutMeta("b", "1")])
    journal.commit([PutMeta("c", "1")])
    journal = journal.crash(lost_commits=1)
    assert meta(journal) == {"a": "1", "b": "1"}
    journal.commit([PutMeta("d", "1")])
    assert meta(journal.crash(lost_commits=99)) == {"a": "1", "b": "1"}


async def test_the_dead_process_can_write_no_more() -> None:
    disk = MemoryDisk()
    dead = disk.open()
    with pytest.raises(JournalLocked):
        disk.open()
    dead.crash()
    with pytest.raises(JournalFailed):
        dead.commit([PutMeta("a", "1")])


async def test_a_sync_covers_what_was_committed_before_it_began_and_no_more() -> None:
    release = asyncio.Event()

    async def slow() -> None:
        await release.wait()

    journal = MemoryDisk().open(on_sync=slow)
    journal.commit([PutMeta("a", "1")])
    syncing = asyncio.ensure_future(journal.sync())
    await asyncio.sleep(0)
    journal.commit([PutMeta("b", "1")])
    release.set()
    await syncing
    assert meta(journal.crash(lost_commits=99)) == {"a": "1"}


def test_a_refused_commit_leaves_nothing() -> None:
    def full(number: int, writes: Sequence[Write]) -> None:
        if number == 2:
            raise JournalFailed("disk full")

    journal = MemoryDisk().open(on_commit=full)
    journal.commit([PutMeta("a", "1")])
    with pytest.raises(JournalFailed):
        journal.commit([PutMeta("a", "2")])
    journal.commit([PutMeta("b", "1")])
    assert meta(journal.crash()) == {"a": "1", "b": "1"}
