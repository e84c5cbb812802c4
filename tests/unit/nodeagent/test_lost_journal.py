"""A journal that is gone: what its node had leased is not used again before a reboot, and nobody's address is given out twice."""

from __future__ import annotations

import asyncio
import copy

import msgspec
import pytest

from adapters.journal.memory import MemoryDisk
from crds.core import POD, Pod
from crds.meta import UNSET
from crds.nephila import IP_BLOCK, IP_NODE
from ipam.stock import State
from tests.unit.nodeagent.harness import FAST, Lab, add, delete, eventually, failed, http
from tests.unit.nodeagent.test_pins import web

BRIEF = msgspec.structs.replace(FAST, wait_s=1.0)


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.40", default=True)
    return lab


async def lose_journal(lab: Lab) -> set[str]:
    """Three pods get addresses, then the journal is deleted; returns the addresses."""
    async with lab.agent("n1") as agent:
        given = {(await add(agent, f"c{i}", await lab.pod(f"p{i}", "n1")))[0] for i in range(3)}
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


async def lose_journal_of_web(lab: Lab) -> tuple[Pod, list[str]]:
    async with lab.agent("n1") as agent:
        former = await web(lab, "n1")
        given = await add(agent, "c0", former)
    lab.disks["n1"] = MemoryDisk()
    return former, given


async def test_a_pinned_address_is_shunned_until_the_del_of_its_former_pod_and_comes_back_to_its_identity(
    lab: Lab,
) -> None:
    """Seed 1195: the agent did not know it at all, so that it would have leaked with the end of its identity. And a former pod that the journal does
    not have was taken for one whose DEL had been seen.
    """
    former, given = await lose_journal_of_web(lab)
    async with lab.agent("n1", lease=BRIEF) as agent:
        assert given[0] in {str(slot) for slot in agent.keeper.shunned}
        anew = await web(lab, "n1")
        refused = await failed(agent, http("ADD", "c1", anew))
        assert "lost its journal" in refused["msg"] and former.uid in refused["msg"]
        await delete(agent, "c0", pod=former)
        await eventually(lambda: given[0] not in {str(slot) for slot in agent.keeper.shunned})
        assert await add(agent, "c1", anew) == given
    async with lab.agent("n1") as agent:
        assert given[0] not in {str(slot) for slot in agent.keeper.shunned}
        assert agent.stock.count("v4", State.ALLOCATED) == 1


async def test_a_del_that_was_spooled_before_the_agent_knew_of_its_loss_counts(lab: Lab) -> None:
    former, given = await lose_journal_of_web(lab)
    async with lab.starting("n1") as (agent, _task):
        await delete(agent, "c0", pod=former)
        await eventually(lambda: not agent.why_closed())
        assert await add(agent, "c1", await web(lab, "n1")) == given


async def test_the_same_pod_gets_its_pinned_address_again_without_a_del(lab: Lab) -> None:
    former, given = await lose_journal_of_web(lab)
    async with lab.agent("n1") as agent:
        assert await add(agent, "c1", former) == given


async def test_a_machine_that_is_emptied_in_its_first_seconds_shuns_nothing_after_its_boot(lab: Lab) -> None:
    """Its first heartbeat was half a minute away, so that nothing said that the boot was another one."""
    async with lab.agent("n1") as agent:
        await add(agent, "c0", await lab.pod("p0", "n1"))
        stored = await lab.store.get(IP_NODE, "n1")
        assert stored is not None and stored.status is not UNSET and stored.status.heartbeat is not UNSET
    lab.disks["n1"] = MemoryDisk()
    async with lab.agent("n1", boot_id="boot-2") as agent:
        assert agent.keeper.shunned == set()


async def test_a_new_node_shuns_nothing(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        assert agent.keeper.shunned == set()
