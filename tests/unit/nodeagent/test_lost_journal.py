"""A journal that is gone: what its node had leased is not used again before a reboot, and nobody's address is given out twice."""

from __future__ import annotations

import asyncio
import copy

import pytest

from adapters.journal.memory import MemoryDisk
from crds.core import POD
from crds.nephila import IP_BLOCK
from ipam.stock import State
from tests.unit.nodeagent.harness import Lab, add, delete, eventually
from tests.unit.nodeagent.test_pins import web


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.40", default=True)
    return lab


async def lose_journal(lab: Lab) -> set[str]:
    """Three pods get addresses, the node says that it lives, then the journal is deleted; returns the addresses."""
    async with lab.agent("n1") as agent:
        given = {(await add(agent, f"c{i}", await lab.pod(f"p{i}", "n1")))[0] for i in range(3)}
        assert agent.mailbox is not None
        await agent.mailbox.beat()
    lab.disks["n1"] = MemoryDisk()
    return given


async def test_addresses_of_forgotten_pods_are_not_given_out_again(lab: Lab) -> None:
    given = await lose_journal(lab)
    async with lab.agent("n1") as agent:
        assert {str(slot) for slot in agent.keeper.shunned} >= given
        fresh = {(await add(agent, f"d{i}", await lab.pod(f"q{i}", "n1")))[0] for i in range(20)}
        assert not fresh & given
        await delete(agent, "c0")  # a DEL of a forgotten pod succeeds and frees nothing
        assert not {str(held.slot) for held in agent.stock} & given


async def test_they_stay_shunned_over_restarts_and_come_back_with_a_reboot(lab: Lab) -> None:
    given = await lose_journal(lab)
    async with lab.agent("n1"):
        pass
    async with lab.agent("n1") as agent:
        assert {str(slot) for slot in agent.keeper.shunned} >= given
    async with lab.agent("n1", boot_id="boot-2") as agent:
        assert agent.keeper.shunned == set()
        page = next(iter(agent.keeper.leases()))
        await eventually(
            lambda: agent.keeper.leases()[page].block.lease_of(agent.keeper.me).slots.bit_count() == len(agent.stock)  # type: ignore[union-attr]
        )


async def test_a_journal_lost_in_a_power_cut_costs_no_address_since_no_pod_outlived_it(lab: Lab) -> None:
    given = await lose_journal(lab)
    async with lab.agent("n1", boot_id="boot-2") as agent:
        assert agent.keeper.shunned == set()
        assert {str(held.slot) for held in agent.stock} >= given
        assert not any(held.slot in agent.keeper.lost for held in agent.stock)
        fresh = {(await add(agent, f"d{i}", await lab.pod(f"q{i}", "n1")))[0] for i in range(20)}
    async with lab.agent("n1", boot_id="boot-2") as agent:  # from the journal that was written since
        assert agent.keeper.shunned == set()
        assert {str(held.slot) for held in agent.stock} >= fresh


async def test_leases_that_a_power_cut_took_from_the_journals_end_are_found_after_the_boot(lab: Lab) -> None:
    """Seed 2652: the disk had lied about `fsync`; nobody looked for a lease that the rest of the journal did not know."""
    await lab.pool("late", "10.6.1.0/24", "10.6.1.10-10.6.1.12")
    async with lab.agent("n1") as agent:
        await add(agent, "c0", await lab.pod("p0", "n1"))
    synced = copy.deepcopy(lab.disks["n1"])
    async with lab.agent("n1") as agent:
        chosen = {"ipam.spidernet.io/ippool": '{"ipv4": ["late"]}'}
        given = await add(agent, "c1", await lab.pod("p1", "n1", annotations=chosen))
        assert given[0].startswith("10.6.1.")
    lab.disks["n1"] = synced
    await lab.store.delete(
        POD, "p1", namespace="default"
    )  # else the node would look for more of its pool, and come across the lease
    async with lab.agent("n1", boot_id="boot-2"), asyncio.timeout(5.0):
        while (block := await lab.store.get(IP_BLOCK, "ip4-10-6-1-0")) is not None and block.spec.leases:
            await asyncio.sleep(0.02)  # nothing here needs it, so it is given back


async def test_a_pinned_address_is_shunned_until_its_identity_comes_for_it(lab: Lab) -> None:
    """Seed 1195: the agent did not know it at all, so that it would have leaked with the end of its identity."""
    async with lab.agent("n1") as agent:
        given = await add(agent, "c0", await web(lab, "n1"))
        assert agent.mailbox is not None
        await agent.mailbox.beat()
    lab.disks["n1"] = MemoryDisk()
    async with lab.agent("n1") as agent:
        assert given[0] in {str(slot) for slot in agent.keeper.shunned}
        assert await add(agent, "c1", await web(lab, "n1")) == given
        assert given[0] not in {str(slot) for slot in agent.keeper.shunned}
    async with lab.agent("n1") as agent:
        assert given[0] not in {str(slot) for slot in agent.keeper.shunned}
        assert agent.stock.count("v4", State.ALLOCATED) == 1


async def test_a_new_node_shuns_nothing(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        assert agent.keeper.shunned == set()
