"""Addresses taken by force, on a node that cannot probe them: they serve nobody there, and must not be in the way either (I5, I7, I8)."""

from __future__ import annotations

from adapters.frames import MemorySegment
from crds.blocks import block_from_wire, block_to_wire
from crds.nephila import IP_BLOCK
from crds.spiderpool import IP_POOL
from ipam import lease
from ipam.addresses import Network
from ipam.blocks import Block
from ipam.parents import Parent
from ipam.slots import Page
from tests.unit.nodeagent.harness import Lab, add, eventually, failed, http
from tests.unit.nodeagent.test_verification import Host, WireSegment

PAGE = Page.parse("10.6.0.0/26")
TAKEN = 0b11 << 10


async def lab_of_two() -> Lab:
    """A pool of two addresses; both were taken by force from a dead node."""
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.11", default=True)
    await lab.store.create(IP_BLOCK, block_to_wire(Block(PAGE, suspect=TAKEN, epoch=5)))
    return lab


async def block(lab: Lab) -> Block:
    stored = await lab.store.get(IP_BLOCK, PAGE.name)
    assert stored is not None
    return block_from_wire(stored)


async def absolve(lab: Lab, slots: int) -> None:
    """As `nephila release` does."""
    cleared = lease.absolve(await block(lab), slots)
    await lab.store.patch(IP_BLOCK, PAGE.name, {"spec": {"suspect": "", "epoch": cleared.epoch}})


async def test_suspects_that_nothing_here_can_probe_are_not_claimed_and_the_error_names_their_end() -> None:
    lab = await lab_of_two()
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        error = await failed(agent, http("ADD", "c1", pod))
        assert error["code"] == 11
        assert "nephila release 10.6.0.10 --confirm" in error["details"]
        assert "2 were taken by force" in error["details"]
        assert not len(agent.stock)
        assert (await block(lab)).leased == 0


async def test_an_address_that_is_added_to_the_pool_serves_who_waits_beside_suspects() -> None:
    lab = await lab_of_two()
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        await failed(agent, http("ADD", "c1", pod))
        await lab.store.patch(IP_POOL, "v4", {"spec": {"ips": ["10.6.0.10-10.6.0.11", "10.6.0.200"]}})
        await eventually(lambda: agent.world.pools.effective["v4"].size == 3)
        assert await add(agent, "c2", pod) == ["10.6.0.200"]


async def test_suspects_that_an_operator_released_are_handed_out_like_any_other() -> None:
    lab = await lab_of_two()
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        await failed(agent, http("ADD", "c1", pod))
        await absolve(lab, TAKEN)
        assert await add(agent, "c2", pod) in (["10.6.0.10"], ["10.6.0.11"])


async def test_suspects_that_a_node_leased_when_it_could_probe_are_given_back_with_their_mark() -> None:
    lab = await lab_of_two()
    pod = await lab.pod("p", "n1")  # for which this node would keep one, if it served
    wire = MemorySegment()
    for address in ("10.6.0.10", "10.6.0.11"):
        Host(wire, address)  # so that they stay unproven
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        await agent.keeper.claim("v4", "", agent.world.pools.effective["v4"], 2, urgent_for=2)
        assert len(agent.stock) == 2
    assert (await block(lab)).leased == TAKEN
    async with lab.agent("n1") as agent:  # `parent` was removed
        await failed(agent, http("ADD", "c1", pod))
        await eventually(lambda: not len(agent.stock))
    after = await block(lab)
    assert (after.leased, after.suspect) == (0, TAKEN)


async def test_on_a_node_with_segments_only_suspects_behind_one_of_them_are_claimed() -> None:
    lab = await lab_of_two()
    other = Parent("eth1", subnets=(Network.parse("192.0.2.0/24"),))
    async with lab.agent("n1", segment=WireSegment(MemorySegment(), parent=other)) as agent:
        assert await agent.keeper.claim("v4", "", agent.world.pools.effective["v4"], 2, urgent_for=2) == 0
        error = await failed(agent, http("ADD", "c1", await lab.pod("p", "n1")))
        assert "nephila release 10.6.0.10" in error["details"]
    assert (await block(lab)).leased == 0
