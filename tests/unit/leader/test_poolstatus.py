"""What the leader writes on pools: status, conditions, the finalizer."""

from __future__ import annotations

import asyncio
import json

import msgspec

from crds.blocks import block_to_wire
from crds.core import POD
from crds.meta import UNSET, Condition
from crds.nephila import IP_BLOCK, IP_NODE
from crds.spiderpool import FINALIZER, IP_POOL, IPPoolStatus, SpiderIPPool
from ipam import lease
from ipam.blocks import Holder, NodeRef
from tests.unit.leader.harness import leader, until
from tests.unit.leader.leftovers import PAGE, WEB, endpoint, pinned, pins, stateful_set
from tests.unit.nodeagent.harness import Lab, add, delete, eventually


async def pool(lab: Lab, name: str = "v4") -> SpiderIPPool | None:
    return await lab.store.get(IP_POOL, name)


async def status(lab: Lab, name: str = "v4") -> IPPoolStatus:
    stored = await pool(lab, name)
    return stored.status if stored and stored.status is not UNSET else IPPoolStatus()


async def condition(lab: Lab, kind: str, name: str = "v4") -> Condition | None:
    return next((item for item in (await status(lab, name)).conditions if item.type == kind), None)


async def test_pool_status_says_who_has_what(lab: Lab) -> None:
    await lab.pool(
        "v4", "10.6.0.0/24", "10.6.0.10-10.6.0.20", excludeIPs=["10.6.0.20"], gateway="10.6.0.1", default=True
    )
    async with lab.agent("n1") as agent, leader(lab):
        pod = await lab.pod("p", "n1")
        address = (await add(agent, "c1", pod))[0]

        async def told() -> bool:
            return (await status(lab)).allocated_ip_count == 1

        await until(told, 2.0)
        found = await status(lab)
        assert (found.total_ip_count, found.free_ip_count) == (10, 9)
        assert isinstance(found.allocated_ips, str)
        assert json.loads(found.allocated_ips) == {address: {"pod": "default/p", "podUid": pod.uid}}
        await delete(agent, "c1")

        async def empty() -> bool:
            now = await status(lab)
            return now.allocated_ip_count == 0 and now.allocated_ips is UNSET

        await until(empty, 3.0)


async def test_a_status_that_says_it_all_is_not_written_again(lab: Lab) -> None:
    """Every heartbeat that says something new of one pool is a reason to look at all pools of its node: thousands of writes for nothing."""
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.20", default=True)
    await lab.pool("strange", "10.6.0.0/24", "10.9.0.1")
    async with lab.agent("n1"), leader(lab) as boss:

        async def told() -> bool:
            return all([(await status(lab, name)).conditions for name in ("v4", "strange")])

        await until(told, 3.0)
        await asyncio.sleep(1.0)  # what is claimed at the start is told
        assert boss.reign is not None
        rhythm, writes = boss.reign.loop("pools"), boss.reign.pools.writes
        passes = rhythm.passes
        boss.reign.sight.pools_touched.update(("v4", "strange"))
        await eventually(lambda: rhythm.passes > passes + 1)
        assert not boss.reign.sight.pools_touched
        assert boss.reign.pools.writes == writes


async def test_conditions_change_with_the_facts_and_keep_their_times_otherwise(lab: Lab) -> None:
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10", default=True)
    async with lab.agent("n1") as agent, leader(lab):

        async def holds(kind: str, value: str) -> bool:
            found = await condition(lab, kind)
            return found is not None and found.status == value

        await until(lambda: holds("Ready", "True"))
        ready = await condition(lab, "Ready")
        assert await holds("Exhausted", "False")
        await add(agent, "c1", await lab.pod("p", "n1"))
        await until(lambda: holds("Exhausted", "True"))
        again = await condition(lab, "Ready")
        assert ready is not None and again is not None and ready.last_transition_time == again.last_transition_time
        await lab.store.patch(IP_POOL, "v4", {"spec": {"disable": True}})
        await until(lambda: holds("Ready", "False"))
        disabled = await condition(lab, "Ready")
        assert disabled is not None and disabled.reason == "Disabled"


async def test_the_younger_of_two_overlapping_pools_is_told(lab: Lab) -> None:
    await lab.pool("older", "10.6.0.0/24", "10.6.0.10-10.6.0.20")
    await lab.pool("younger", "10.6.0.0/24", "10.6.0.15-10.6.0.30")
    async with leader(lab):

        async def told() -> bool:
            older, younger = (
                await condition(lab, "Overlapping", "older"),
                await condition(lab, "Overlapping", "younger"),
            )
            return (
                older is not None
                and younger is not None
                and (older.reason, younger.reason)
                == (
                    "YoungerPoolLoses",
                    "OlderPoolWins",
                )
            )

        await until(told)
        assert (await status(lab, "younger")).free_ip_count == 10


async def test_an_unreadable_pool_says_why(lab: Lab) -> None:
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.300")
    async with leader(lab):

        async def told() -> bool:
            found = await condition(lab, "Ready")
            return found is not None and found.reason == "Invalid" and "10.6.0.300" in found.message

        await until(told)


async def test_a_conflict_that_a_node_reports_shows_on_the_pool(lab: Lab) -> None:
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.20")
    await lab.create(IP_NODE, metadata={"name": "n1"})
    seen = {"ip": "10.6.0.11", "mac": "02:00:00:00:00:01", "pool": "v4", "seen": "2026-01-01T00:00:00Z"}
    stock = {"name": "v4", "quarantined": 1}
    changes = {"status": {"conflicts": [seen], "pools": [stock]}}
    await lab.store.patch(IP_NODE, "n1", changes, subresource="status")
    async with leader(lab):

        async def told() -> bool:
            found = await condition(lab, "ConflictSeen")
            return found is not None and found.status == "True" and "10.6.0.11" in found.message

        await until(told)
        assert (await status(lab)).quarantined_ip_count == 1


async def test_a_quiet_pool_is_not_written_again(lab: Lab) -> None:
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.20")
    async with leader(lab) as boss:

        async def told() -> bool:
            return (await status(lab)).free_ip_count == 11

        await until(told)
        await asyncio.sleep(0.4)
        assert boss.reign is not None
        before = boss.reign.pools.writes
        await asyncio.sleep(0.4)
        assert before <= 3 and boss.reign.pools.writes == before


async def test_a_deleted_pool_goes_when_its_last_address_is_released(lab: Lab) -> None:
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.20", default=True)
    async with lab.agent("n1") as agent, leader(lab):

        async def held() -> bool:
            stored = await pool(lab)
            return stored is not None and FINALIZER in (stored.metadata.finalizers or ())

        await until(held)
        await add(agent, "c1", await lab.pod("p", "n1"))

        async def counted() -> bool:
            return (await status(lab)).allocated_ip_count == 1

        await until(counted)
        await lab.store.delete(IP_POOL, "v4")
        await asyncio.sleep(2.5)
        assert await pool(lab) is not None
        await delete(agent, "c1")
        await lab.store.delete(POD, "p", namespace="default")

        async def gone() -> bool:
            return await pool(lab) is None

        await until(gone, 8.0)


async def held_and_counted(lab: Lab) -> bool:
    """Our finalizer is on the pool, and its status tells of one of eight addresses."""
    found, now = await pool(lab), await status(lab)
    held = found is not None and FINALIZER in (found.metadata.finalizers or ())
    return held and (now.allocated_ip_count, now.free_ip_count) == (1, 7)


async def test_a_deleted_pool_does_not_wait_for_a_statefulsets_pod_that_waits_for_it() -> None:
    """Its pod gets nothing from a pool that is being deleted, and its record stays for as long as the StatefulSet wants it."""
    lab = Lab()
    await stateful_set(lab, "web", 1)
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.2-10.6.0.9")
    await pinned(lab, holder=False, leased=False)
    await endpoint(lab, "web-0", "gone", owner=("StatefulSet", "web"), ip="10.6.0.2")
    async with leader(lab):
        await until(lambda: held_and_counted(lab))
        await lab.store.delete(IP_POOL, "v4")

        async def gone() -> bool:
            return await pool(lab) is None

        await until(gone, 6.0)
        assert await pins(lab) == 1


async def test_a_deleted_pool_waits_for_a_statefulsets_pod_that_runs(lab: Lab) -> None:
    await stateful_set(lab, "web", 1)
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.2-10.6.0.9")
    pod = await lab.pod("web-0", "n1")
    node = NodeRef("n1", "uid-n1")
    block = lease.pin(lease.claim(lease.new_block(PAGE, 7), node, 0b100), node, 2, WEB, Holder("n1", pod.uid))
    await lab.store.create(IP_BLOCK, block_to_wire(block))
    await endpoint(lab, "web-0", pod.uid, owner=("StatefulSet", "web"), ip="10.6.0.2")
    async with leader(lab):
        await until(lambda: held_and_counted(lab))
        await lab.store.delete(IP_POOL, "v4")
        await asyncio.sleep(2.5)
        assert await pool(lab) is not None


async def test_a_block_that_cannot_be_read_stops_nothing_else(lab: Lab) -> None:
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.20", default=True)
    broken = msgspec.to_builtins(block_to_wire(lease.claim(lease.new_block(PAGE, 7), NodeRef("n9", "u"), 1)))
    broken["spec"]["leases"][0]["slots"] = "9-3"
    await lab.store.create(IP_BLOCK, IP_BLOCK.from_builtins(broken))
    async with leader(lab):

        async def told() -> bool:
            return (await status(lab)).total_ip_count == 11

        await until(told)
