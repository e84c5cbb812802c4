"""A node that was cut off finds its addresses taken by force, while its pods went on living."""

from __future__ import annotations

import pytest

from crds.blocks import block_from_wire, block_to_wire
from crds.nephila import IP_BLOCK
from ipam import lease
from ipam.blocks import Holder, NodeRef, PinOwner
from nodeagent.blockkeeper import LOOK_AGAIN_S
from nodeagent.lostslots import LostSlots
from tests.unit.nodeagent.harness import Lab, add
from tests.unit.nodeagent.test_blockkeeper import ME, OTHER, PAGE, Node


@pytest.fixture
def node() -> Node:
    return Node()


async def _lose(node: Node) -> LostSlots:
    """Two addresses are leased, the first of them is used by a sandbox; then a leader takes both."""
    await node.claim(2)
    first = next(iter(node.stock))
    node.stock.allocate(first.slot)
    await node.write(lambda block: lease.reclaim(block, block.leases[0], block.leased, term=1))
    await node.keeper.refresh(first.slot.page)
    assert [held.slot for held in node.stock] == [first.slot] and node.keeper.lost == {first.slot}
    return LostSlots(node.keeper, node.stock, node.clock)


async def test_an_address_in_use_is_leased_again(node: Node) -> None:
    """Seed 633 of the worlds with probes: a Node object was deleted and made again while its pods lived on."""
    lost = await _lose(node)
    await lost.regain()
    block, used = await node.block(), next(iter(node.stock)).slot
    mine = block.lease_of(ME)
    assert mine is not None and mine.slots == used.bit and not block.suspect & used.bit
    assert not node.keeper.lost and not node.keeper.must_leave(used)


async def test_an_address_that_another_node_has_is_asked_for_again_later(node: Node) -> None:
    lost = await _lose(node)
    used = next(iter(node.stock)).slot
    await node.write(lambda block: lease.claim(block, OTHER, used.bit))
    await lost.regain()
    assert node.keeper.lost == {used} and (await node.block()).lease_of(ME) is None
    await node.write(lambda block: lease.give_back(block, OTHER, used.bit))
    await lost.regain()
    assert node.keeper.lost == {used}, "not all the time"
    node.clock._now += LOOK_AGAIN_S
    await lost.regain()
    assert (await node.block()).lease_of(ME) is not None


async def test_an_address_whose_sandbox_has_ended_is_not_wanted_back(node: Node) -> None:
    lost = await _lose(node)
    used = next(iter(node.stock)).slot
    assert node.keeper.must_leave(used)
    node.stock.retire(used, node.clock.now(), 1.0)
    await lost.regain()
    assert not node.keeper.lost and (await node.block()).lease_of(ME) is None


async def test_a_pinned_address_of_a_pod_of_ours_is_leased_again_and_not_given_up_meanwhile(node: Node) -> None:
    """Seed 121: the pin keeps everybody else away, so the pod goes on with it, but the lease was gone for good."""
    await node.claim(1)
    held = next(iter(node.stock))
    owner, ordinal = PinOwner("StatefulSet", "default", "set-0", "eth0"), held.slot.value - PAGE.base
    node.stock.set_aside(held.slot)
    await node.keeper.change(PAGE, lambda block: lease.pin(block, ME, ordinal, owner, Holder(ME.name, "pod-1")))
    node.stock.allocate(held.slot)
    await node.write(lambda block: lease.reclaim(block, block.leases[0], block.leased, term=1))
    await node.keeper.refresh(PAGE)
    assert node.keeper.unleased == {held.slot} and not node.keeper.lost
    await LostSlots(node.keeper, node.stock, node.clock).regain()
    block = await node.block()
    mine = block.lease_of(ME)
    assert mine is not None and mine.slots == held.slot.bit and not block.suspect and not node.keeper.unleased


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.8-10.6.0.40", default=True)
    return lab


async def _take_all(lab: Lab, heir: NodeRef | None = None) -> None:
    """The leader takes what the node, which is away, leases; then the heir, if there is one, has it all."""
    stored = await lab.store.get(IP_BLOCK, PAGE.name)
    assert stored is not None
    block = block_from_wire(stored)
    all_of_it = block.leased
    block = lease.reclaim(block, block.leases[0], all_of_it, term=1)
    if heir is not None:
        block = lease.claim(block, heir, all_of_it)
    await lab.store.delete(IP_BLOCK, PAGE.name)
    await lab.store.create(IP_BLOCK, block_to_wire(block))


async def test_after_a_reboot_a_pod_gets_another_address_for_the_one_that_was_taken(lab: Lab) -> None:
    """Seed 29: the machine was off and its Node object gone, or an operator had said so; a pod that tolerates that keeps its UID."""
    pod = await lab.pod("p", "n1")
    async with lab.agent("n1") as agent:
        (before,) = await add(agent, "c0", pod)
    await _take_all(lab)
    async with lab.agent("n1", boot_id="boot-2") as agent:
        (after,) = await add(agent, "c1", pod)
        assert after != before and not agent.keeper.lost
        stored = await lab.store.get(IP_BLOCK, PAGE.name)
        assert stored is not None
        slot = next(slot for slot in PAGE.slot_ids(block_from_wire(stored).suspect) if str(slot.address) == before)
        assert agent.allocator.holder_of(slot) is None, "nobody answered for it, so it is to be probed first"


async def test_the_next_sandbox_of_a_pod_gets_another_address_while_somebody_else_has_the_old_one(lab: Lab) -> None:
    pod = await lab.pod("p", "n1")
    async with lab.agent("n1") as agent:
        (before,) = await add(agent, "c0", pod)
    await _take_all(lab, heir=OTHER)
    async with lab.agent("n1") as agent:
        assert await add(agent, "c0", pod) == [before], "the sandbox that lives keeps it"
        (after,) = await add(agent, "c1", pod)
        assert after != before
