"""The election's shell and a reign's begin and end, with several candidates over one in-memory API."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from adapters.clock import SystemClock
from adapters.kube.memory import AnswerLost, Call, MemoryStore, NotSent
from crds.blocks import block_changes, block_from_wire, block_to_wire
from crds.nephila import IP_BLOCK, LEADER_LOCK
from ipam import lease
from ipam.addresses import Family
from ipam.blocks import NodeRef
from ipam.slots import Page
from leader.elector import LOCK
from leader.writing import Deposed, Writer
from tests.unit.leader.harness import leader
from tests.unit.nodeagent.harness import Lab, add, eventually


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.250", default=True)
    return lab


async def lock(lab: Lab) -> Any:
    stored = await lab.store.get(LEADER_LOCK, LOCK)
    assert stored is not None
    return stored.spec


class Cut:
    """A connection that can be cut: every request is refused."""

    def __init__(self, lab: Lab) -> None:
        self.now = False
        self.store = MemoryStore(lab.cluster, fault=self._fault)

    async def _fault(self, _call: Call) -> NotSent | None:
        return NotSent() if self.now else None


async def test_the_second_takes_over_at_once_after_a_clean_exit(lab: Lab) -> None:
    async with AsyncExitStack() as standing, AsyncExitStack() as leading:
        first = await leading.enter_async_context(leader(lab, "n1", seed=1))
        second = await standing.enter_async_context(leader(lab, "n2", seed=2, wait=False))
        await asyncio.sleep(0.3)
        assert second.reign is None and first.elector.term == 1
        began = time.monotonic()
        await leading.aclose()
        await eventually(lambda: second.reign is not None)
        assert time.monotonic() - began < 0.5  # nobody waits for the lease time
        assert second.elector.term == 3  # 2 was nobody's: the lock was released
        assert (await lock(lab)).holder == second.elector.candidate.identity


async def test_failover_when_the_leader_is_cut_off(lab: Lab) -> None:
    cut = Cut(lab)
    async with leader(lab, "n1", store=cut.store, seed=1) as first, leader(lab, "n2", seed=2, wait=False) as second:
        term = first.elector.term
        cut.now = True
        began = time.monotonic()
        both = 0
        while second.reign is None:
            both += sum(one.elector.is_leading for one in (first, second)) > 1
            await asyncio.sleep(0.005)
        took = time.monotonic() - began
        assert not both
        assert not first.elector.is_leading
        assert first.reign is None
        assert second.elector.term == term + 1
        assert 0.5 < took < 2.0  # the lease is 1 s
        cut.now = False
        await asyncio.sleep(0.5)
        assert second.elector.is_leading and not first.elector.is_leading  # it stays with who has it


async def test_add_is_served_while_nobody_leads(lab: Lab) -> None:
    cut = Cut(lab)
    async with lab.agent("n1") as agent, leader(lab, "n1", store=cut.store):
        cut.now = True
        for number in range(5):
            assert await add(agent, f"c{number}", await lab.pod(f"p{number}", "n1"))


async def test_a_stale_leaders_write_is_refused(lab: Lab) -> None:
    """By its own reckoning, by resourceVersion, and by term."""
    cut = Cut(lab)
    page = Page(Family.V4, 0x0A060040)
    block = lease.claim(lease.new_block(page, 5), NodeRef("n1", "u"), 1)
    await lab.store.create(IP_BLOCK, block_to_wire(block))
    async with leader(lab, "n1", store=cut.store, seed=1) as first, leader(lab, "n2", seed=2, wait=False) as second:
        mine = Writer(lab.store, SystemClock(), _Frozen(first.elector.term))
        cut.now = True
        await eventually(lambda: second.reign is not None)
        with pytest.raises(Deposed):
            first.elector.check()
        theirs = Writer(lab.store, SystemClock(), second.elector)
        one = block.leases[0]
        changed = await theirs.change_block(page, lambda b: lease.reclaim(b, one, 1, second.elector.term))
        assert changed is not None and changed[1].term == second.elector.term
        # The paused leader wakes up, believes that it leads, and decides on what it remembers.
        assert await mine.change_block(page, lambda b: lease.reclaim(b, one, 1, 1)) is None
        stored = await lab.store.get(IP_BLOCK, page.name)
        assert stored is not None and block_from_wire(stored).term == second.elector.term


class _Frozen:
    """A leader that was paused between looking at its clock and writing."""

    def __init__(self, term: int) -> None:
        self.term = term

    def check(self) -> None:
        pass


async def test_an_answer_that_is_lost_does_not_cost_the_leadership(lab: Lab) -> None:
    lost = 0

    async def fault(call: Call) -> AnswerLost | None:
        nonlocal lost
        if call.kind is LEADER_LOCK and call.verb in ("create", "patch") and lost < 3:
            lost += 1
            return AnswerLost()
        return None

    async with leader(lab, store=MemoryStore(lab.cluster, fault=fault)) as boss:
        await eventually(lambda: lost == 3)
        await asyncio.sleep(0.3)
        assert boss.elector.is_leading and (await lock(lab)).term == 1


async def test_a_lock_deleted_by_hand_does_not_let_terms_fall(lab: Lab) -> None:
    page = Page(Family.V4, 0x0A060040)
    block = lease.claim(lease.new_block(page, 5), NodeRef("n1", "u"), 1)
    stored = await lab.store.create(IP_BLOCK, block_to_wire(block))
    await lab.store.patch(IP_BLOCK, page.name, {"spec": {**block_changes(block)["spec"], "term": 41}})
    assert stored
    async with leader(lab) as boss:
        assert boss.elector.term == 42
        await lab.store.delete(LEADER_LOCK, LOCK)
        await eventually(lambda: boss.elector.candidate.reign not in (None, 42))
        assert boss.elector.term > 42


async def test_a_cold_standby_reads_nothing_but_the_lock(lab: Lab) -> None:
    cold = MemoryStore(lab.cluster)
    async with leader(lab, "n1", seed=1), leader(lab, "n2", seed=2, store=cold, warm_standby=False, wait=False):
        await asyncio.sleep(0.5)
        assert {kind for _verb, kind in cold.calls} == {"leaderlocks"}


async def test_a_reign_that_crashes_ends_the_process_and_releases_the_lock(lab: Lab) -> None:
    async with leader(lab) as boss:

        async def broken() -> None:
            raise ZeroDivisionError

        assert boss.reign is not None
        boss.reign.loop("recalls")._work = broken
        boss.reign.loop("recalls").kick()
        await eventually(lambda: not boss.elector.is_leading)

        async def released() -> bool:
            return bool((await lock(lab)).holder == "")

        for _ in range(100):
            if await released():
                break
            await asyncio.sleep(0.02)
        assert await released()


async def test_candidates_never_share_an_identity(lab: Lab) -> None:
    async with leader(lab, "n1", seed=1, wait=False) as one, leader(lab, "n1", seed=2, wait=False) as two:
        assert one.elector.candidate.identity != two.elector.candidate.identity
        await eventually(lambda: one.reign is not None or two.reign is not None)
        assert not (one.elector.is_leading and two.elector.is_leading)
