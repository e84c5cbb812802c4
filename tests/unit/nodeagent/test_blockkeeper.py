"""What the simulation found: each test names the seed whose run showed the fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import pytest

from adapters.clock import ManualClock
from adapters.entropy import SeededEntropy
from adapters.journal import LeaseRecord, PutSlot, SlotRecord
from adapters.journal.memory import MemoryDisk
from adapters.kube.memory import AppliedLate, Call, MemoryStore, NotSent
from adapters.kube.memory_cluster import MemoryCluster
from crds.blocks import block_from_wire, block_to_wire
from crds.nephila import IP_BLOCK
from ipam import lease
from ipam.addresses import Address, Family
from ipam.blocks import Block, Holder, NodeRef, PinOwner
from ipam.errors import ApiUnreachable
from ipam.ranges import RangeSet
from ipam.slots import Page, SlotId
from ipam.stock import State, Stock, Trust
from nodeagent.blockkeeper import LATE_S, LOOK_AGAIN_S, BlockKeeper
from nodeagent.lastresort import LastResort

PAGE = Page.parse("10.6.0.0/26")
ME, OTHER = NodeRef("n1", "u1"), NodeRef("n2", "u2")


def addresses(count: int) -> RangeSet:
    first = Address.parse("10.6.0.8").value
    return RangeSet.of(Family.V4, [(first, first + count - 1)])


@dataclass
class Node:
    clock: ManualClock = field(default_factory=ManualClock)
    disk: MemoryDisk = field(default_factory=MemoryDisk)
    stock: Stock = field(default_factory=lambda: Stock(Trust.unlimited()))

    def __post_init__(self) -> None:
        self.store = MemoryStore(MemoryCluster(self.clock))
        self.keeper = self.start()

    def start(self) -> BlockKeeper:
        self.stock = Stock(Trust.unlimited())
        journal = self.disk.open()
        keeper = BlockKeeper(
            self.store,
            journal,
            self.clock,
            SeededEntropy(1),
            self.stock,
            ME,
            lambda _slot: "pool",
            LastResort(lambda _slot: True),
            cooldown_s=60.0,
        )
        state = journal.load()
        keeper.restore(state.leases, state.slots)
        return keeper

    async def claim(self, count: int, of: int = 4) -> int:
        return await self.keeper.claim("pool", "", addresses(of), count)

    async def block(self) -> Block:
        stored = await self.store.get(IP_BLOCK, PAGE.name)
        assert stored is not None
        return block_from_wire(stored)

    async def write(self, change: Callable[[Block], Block]) -> None:
        """Another party's compare-and-swap."""
        new = change(await self.block())
        await self.store.delete(IP_BLOCK, PAGE.name)
        await self.store.create(IP_BLOCK, block_to_wire(new))


@pytest.fixture
def node() -> Node:
    return Node()


async def test_what_others_gave_back_is_found_on_a_page_of_ours(node: Node) -> None:
    """Seed 2: a node that held slots of a page decided for ever on the picture in which nothing was free."""
    await node.claim(1)
    await node.write(lambda block: lease.claim(block, OTHER, block.free))
    node.clock._now += 10
    assert await node.claim(1) == 0
    await node.write(lambda block: lease.give_back(block, OTHER, block.leased))
    node.clock._now += 10
    assert await node.claim(2) == 2


async def test_a_block_is_remembered_through_a_power_loss_before_it_is_claimed(node: Node) -> None:
    """Seed 237: the journal's note of a first claim was lost with the power, and the lease leaked."""
    await node.claim(2)
    node.disk.lose_power(lost_commits=100)
    node.keeper = node.start()
    await node.keeper.retake_all([ME])
    assert len(node.stock) == 2


async def test_slots_leave_only_when_they_are_at_rest(node: Node) -> None:
    """The next node tests an address at once; probes of ours that were still on the wire were taken for somebody about to use it."""
    await node.claim(2)
    slots = [held.slot for held in node.stock]
    over = asyncio.Event()
    asked: list[SlotId] = []

    async def at_rest(leaving: Collection[SlotId]) -> None:
        asked.extend(leaving)
        await over.wait()

    node.keeper.at_rest = at_rest
    leaving = asyncio.create_task(node.keeper.give_back(slots))
    await asyncio.sleep(0.01)
    assert sorted(asked) == sorted(slots) and (await node.block()).lease_of(ME) is not None
    assert not node.stock.count("pool", State.READY), "nobody gets them meanwhile"
    over.set()
    assert await leaving == 2
    assert await node.store.get(IP_BLOCK, PAGE.name) is None


async def test_a_claim_that_arrives_late_is_found(node: Node) -> None:
    """Seed 237: the write was applied after the read that seemed to settle it."""
    late: list[Callable[[], object]] = []

    async def lose(call: Call) -> AppliedLate | None:
        return AppliedLate(late.append) if call.verb == "create" and not late else None

    node.store.fault = lose
    node.disk.lose_power(lost_commits=0)
    node.keeper = node.start()
    await node.keeper.change(PAGE, lambda block: block)
    wanted = iter([True])  # wanted once; when the answer does not come, not any more
    await node.keeper.change(PAGE, lambda block: lease.claim(block, ME, 3) if next(wanted, False) else block)
    assert len(node.stock) == 0
    late[0]()
    node.clock._now += LOOK_AGAIN_S + 1
    await node.keeper.look_again()
    assert len(node.stock) == 2
    node.clock._now += LATE_S
    await node.keeper.look_again()
    assert not node.keeper._unsure


async def test_suspect_slots_stay_suspect_through_a_restart(node: Node) -> None:
    """Seed 29: after a restart a slot once taken by force was handed out without a probe."""
    await node.claim(2)
    await node.write(lambda block: lease.clear_suspect(_suspect(block), OTHER, 0))
    node.disk.released()
    node.keeper = node.start()
    await node.keeper.reload()
    assert all(held.suspect for held in node.stock)
    assert node.stock.pick("pool", node.clock.now()) is None


async def test_what_a_leader_took_by_force_rests_at_its_new_holder_also_through_a_restart(node: Node) -> None:
    """Seed 712: a node behind a partition ended a pod; the leader took the address, and a second later another pod had it."""
    await node.claim(1)
    (first,) = [held.slot for held in node.stock]
    await node.write(lambda block: lease.reclaim(block, block.leases[0], block.leased, term=1))
    await node.keeper.refresh(first.page)
    assert not len(node.stock) and await node.keeper.claim("pool", "", addresses(1), 1, urgent_for=1) == 1
    for _incarnation in range(2):
        (held,) = node.stock
        assert held.state is State.COOLING and held.cool_until > node.clock.now() + 50.0
        node.disk.released()
        node.keeper = node.start()
        await node.keeper.reload()


async def test_a_pin_is_not_forgotten_while_its_block_cannot_be_read(node: Node) -> None:
    """Seed 3041: a claim found nothing free in the last picture and could not read the block; at that moment the pinned pod's DEL came, and its
    address stayed here, cooling down for anybody."""
    await node.claim(1)
    (held,) = node.stock
    owner = PinOwner("StatefulSet", "default", "set-0", "eth0", "set-uid")
    bit = held.slot.value - PAGE.base
    await node.keeper.change(PAGE, lambda block: lease.pin(block, ME, bit, owner, Holder("n1", "pod")))
    assert node.keeper.must_leave(held.slot)

    async def cut(_call: Call) -> NotSent:
        return NotSent()

    node.store.fault = cut
    with pytest.raises(ApiUnreachable):
        await node.keeper.claim("pool", "", addresses(1), 1)
    assert node.keeper.must_leave(held.slot) and node.keeper.is_pinned(held.slot)


async def test_a_second_give_back_of_a_slot_does_not_take_it_away_again_after_it_came_back(node: Node) -> None:
    """Seed 4005: the sweep of pins and the refill finished the same slot; in between its pin had come back, and its pod had it."""
    await node.claim(2)
    (first, second) = list(node.stock)
    node.stock.leave([first.slot])
    slots = {first.slot: float("-inf")}
    page = first.slot.page
    turn = node.keeper._turn(page)
    await turn.acquire()  # both wait for their turn
    once, again = (asyncio.ensure_future(node.keeper.finish_leaving(slots)) for _ in range(2))
    await asyncio.sleep(0)
    turn.release()
    assert await once == 1
    node.stock.hold(first.slot, "pool", node.clock.now())
    node.stock.allocate(first.slot)
    await node.write(lambda block: lease.claim(block, ME, first.slot.bit))
    assert await again == 0
    mine = (await node.block()).lease_of(ME)
    assert mine is not None and mine.slots == first.slot.bit | second.slot.bit


async def test_what_was_looked_at_is_what_the_next_decision_is_made_on(node: Node) -> None:
    """Seed 875: a second pin of an identity was to end on a page of ours; our older picture did not show it, so nothing was ever written."""
    await node.claim(1)
    owner = PinOwner("StatefulSet", "default", "set-0", "eth0", "set-uid")
    await node.write(lambda block: lease.claim(block, OTHER, 0b1 << 40))
    await node.write(lambda block: lease.pin(block, OTHER, 40, owner, Holder("n2", "pod")))
    await node.write(lambda block: lease.vacate_pin(block, OTHER, 40, "pod"))
    assert (await node.keeper.look(PAGE)).pin_at(40) is not None
    await node.keeper.change(PAGE, lambda block: lease.unpin(block, 40, owner, block.term))
    assert (await node.block()).pin_at(40) is None


def _suspect(block: Block) -> Block:
    return replace(block, suspect=block.leased, epoch=block.epoch + 1)


async def test_a_stepped_wall_clock_cannot_make_an_address_rest_for_an_hour(node: Node) -> None:
    """Seed 77: the clock went back by an hour between release and restart."""
    journal = node.disk
    await node.claim(1)
    slot = next(iter(node.stock)).slot
    journal.released()
    with_cooling = journal.open()
    with_cooling.commit(
        [PutSlot(SlotRecord(slot.domain, slot.family, slot.value, "cooling", 0.0, node.clock.wall() + 60.0))]
    )
    with_cooling.close()
    node.clock.step_wall(-3600.0)
    node.keeper = node.start()
    held = node.stock.get(slot)
    assert held is not None and held.state is State.COOLING
    assert held.cool_until <= node.clock.now() + 60.0


def test_a_cooling_slot_is_not_given_away_before_its_least_rest() -> None:
    """Seed 48: another node's wall clock was an hour ahead, so the rest that travels with a slot meant nothing there."""
    stock = Stock(Trust.unlimited())
    slot = SlotId("", Family.V4, 1)
    stock.hold(slot, "pool", 0.0)
    stock.allocate(slot)
    stock.release(slot, 100.0, 60.0)
    assert stock.rested("pool", 1, 109.0, early_s=50.0) == ()
    assert stock.rested("pool", 1, 110.0, early_s=50.0) == (slot,)


async def test_records_without_slots_are_looked_at_again_after_a_restart(node: Node) -> None:
    record = LeaseRecord(PAGE.name, PAGE.cidr, PAGE.domain, 0, 0)
    node.keeper.restore([record], [])
    assert PAGE in node.keeper._unsure


async def test_a_claim_counts_its_own_slots_though_others_leave_meanwhile(node: Node) -> None:
    """A recall is served while a claim waits for its answer: the stock did not grow, and the claim passed for one that had got nothing."""
    await node.claim(2, of=4)
    leaving = [held.slot for held in node.stock]
    elsewhere = Page.parse("10.6.0.64/26")
    base = Address.parse("10.6.0.64").value

    async def recalled(call: Call) -> None:
        if call.kind is IP_BLOCK and call.name == elsewhere.name and leaving:
            slots = [leaving.pop(), leaving.pop()]
            assert await node.keeper.give_back(slots) == 2

    node.store.fault = recalled
    assert await node.keeper.claim("other", "", RangeSet.of(Family.V4, [(base, base + 9)]), 2) == 2


async def test_a_starving_claim_reads_a_full_page_once(node: Node) -> None:
    """Then it would look for cooling slots: whether there are any was seen already."""
    await node.claim(4, of=4)
    await node.write(lambda block: replace(block, leases=(replace(block.leases[0], node=OTHER),)))
    await node.keeper.reload()
    reads: list[str] = []

    async def counted(call: Call) -> None:
        if call.verb == "get" and call.kind is IP_BLOCK:
            reads.append(call.name)

    node.store.fault = counted
    assert await node.keeper.claim("pool", "", addresses(4), 1, urgent_for=1) == 0
    assert reads == [PAGE.name]
