"""A node that was cut off finds its addresses taken by force, while its pods went on living."""

from __future__ import annotations

import pytest

from ipam import lease
from nodeagent.blockkeeper import LOOK_AGAIN_S
from nodeagent.lostslots import LostSlots
from tests.unit.nodeagent.test_blockkeeper import ME, OTHER, Node


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
