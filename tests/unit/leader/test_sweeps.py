"""Orphaned SpiderEndpoints and pins, pool status, finalizers, and the check when a reign begins."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from adapters.kube.memory import Answered, Call, Fault, MemoryStore
from crds.blocks import block_changes, block_from_wire, block_to_wire
from crds.core import NODE, POD, STATEFUL_SET
from crds.identities import IPAM_CLAIM, VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE
from crds.meta import UNSET, Condition, Kind
from crds.nephila import IP_BLOCK, IP_NODE
from crds.spiderpool import ENDPOINT, FINALIZER, IP_POOL, IPPoolStatus, SpiderIPPool
from ipam import lease
from ipam.addresses import Address, Family
from ipam.blocks import Holder, NodeRef, PinOwner
from ipam.slots import Page
from tests.unit.leader.harness import Heard, leader
from tests.unit.nodeagent.harness import Lab, add, delete, eventually

PAGE = Page(Family.V4, Address.parse("10.6.0.0").value)


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    return lab


async def until(condition: Any, timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.02)


async def endpoint(
    lab: Lab, name: str, uid: str, *, owner: tuple[str, str] = ("Pod", ""), ip: str = "10.6.0.9"
) -> None:
    await lab.create(
        ENDPOINT,
        metadata={"name": name, "namespace": "default"},
        status={
            "current": {
                "uid": uid,
                "node": "n1",
                "ips": [{"interface": "eth0", "ipv4": f"{ip}/24", "ipv4Pool": "v4"}],
            },
            "ownerControllerType": owner[0],
            "ownerControllerName": owner[1] or name,
        },
    )


async def stateful_set(lab: Lab, name: str, replicas: int, start: int = 0) -> None:
    await lab.create(
        STATEFUL_SET,
        metadata={"name": name, "namespace": "default"},
        spec={"replicas": replicas, "ordinals": {"start": start}},
    )


async def pool(lab: Lab, name: str = "v4") -> SpiderIPPool | None:
    return await lab.store.get(IP_POOL, name)


async def status(lab: Lab, name: str = "v4") -> IPPoolStatus:
    stored = await pool(lab, name)
    return stored.status if stored and stored.status is not UNSET else IPPoolStatus()


async def condition(lab: Lab, kind: str, name: str = "v4") -> Condition | None:
    return next((item for item in (await status(lab, name)).conditions if item.type == kind), None)


# SpiderEndpoints -------------------------------------------------------------------------------------------------------------------------


async def test_the_endpoint_of_a_gone_pod_goes_and_that_of_a_living_one_stays(lab: Lab) -> None:
    alive = await lab.pod("alive", "n1")
    await endpoint(lab, "alive", alive.uid)
    await endpoint(lab, "gone", "uid-gone")
    async with leader(lab):

        async def removed() -> bool:
            return await lab.store.get(ENDPOINT, "gone", "default") is None

        await until(removed)
        assert await lab.store.get(ENDPOINT, "alive", "default") is not None


async def test_one_observation_is_not_enough(lab: Lab) -> None:
    """The pod object may only have been missed: its endpoint is removed after a while, and not if the pod turns up."""
    await endpoint(lab, "late", "00000000-0000-4000-8000-000000000005")
    async with leader(lab) as boss:
        assert boss.reign is not None
        await asyncio.sleep(0.1)
        assert await lab.store.get(ENDPOINT, "late", "default") is not None


async def test_a_stateful_sets_endpoint_stays_as_long_as_its_ordinal_is_wanted(lab: Lab) -> None:
    await stateful_set(lab, "web", 2, start=1)
    for number in range(4):
        await endpoint(lab, f"web-{number}", f"uid-{number}", owner=("StatefulSet", "web"), ip=f"10.6.0.{number + 9}")
    async with leader(lab):

        async def left() -> bool:
            names = {item.name for item in (await lab.store.list(ENDPOINT)).items}
            return names == {"web-1", "web-2"}

        await until(left)
        await asyncio.sleep(0.4)
        assert await left()
        await lab.store.patch(STATEFUL_SET, "web", {"spec": {"replicas": 1}}, namespace="default")

        async def scaled() -> bool:
            return {item.name for item in (await lab.store.list(ENDPOINT)).items} == {"web-1"}

        await until(scaled)


@pytest.mark.parametrize("kept_by", ["instance", "definition"])
async def test_the_record_of_a_machine_is_kept_while_anything_of_it_is_left(lab: Lab, kept_by: str) -> None:
    kind: Kind[Any] = VIRTUAL_MACHINE_INSTANCE if kept_by == "instance" else VIRTUAL_MACHINE
    await lab.create(kind, metadata={"name": "vm", "namespace": "default"})
    await endpoint(lab, "vm", "uid-vm", owner=("VirtualMachineInstance", "vm"))
    async with leader(lab):
        await asyncio.sleep(0.5)
        assert await lab.store.get(ENDPOINT, "vm", "default") is not None
        await lab.store.delete(kind, "vm", namespace="default")

        async def gone() -> bool:
            return await lab.store.get(ENDPOINT, "vm", "default") is None

        await until(gone)


async def test_where_the_kind_is_not_served_nothing_ends(lab: Lab) -> None:
    async def fault(call: Call) -> Fault | None:
        return Answered(404) if call.kind is VIRTUAL_MACHINE_INSTANCE else None

    await endpoint(lab, "vm", "uid-vm", owner=("VirtualMachineInstance", "vm"))
    await pinned(lab, holder=False, leased=False, owner=VM)
    async with leader(lab, store=MemoryStore(lab.cluster, fault=fault)):
        await asyncio.sleep(0.5)
        assert await lab.store.get(ENDPOINT, "vm", "default") is not None and await pins(lab) == 1


# Pins ------------------------------------------------------------------------------------------------------------------------------------


WEB = PinOwner("StatefulSet", "default", "web-0", "eth0")
VM = PinOwner("VirtualMachineInstance", "default", "vm", "eth0")
CLAIM = PinOwner("IPAMClaim", "default", "vm.net1", "net1", "uid-claim")


async def pinned(lab: Lab, *, holder: bool, leased: bool, owner: PinOwner = WEB) -> None:
    node = NodeRef("n1", "uid-n1")
    block = lease.claim(lease.new_block(PAGE, 7), node, 0b1100)
    block = lease.pin(block, node, 2, owner, Holder("n1", "uid-pod"))
    if not holder:
        block = lease.vacate_pin(block, node, 2, "uid-pod")
    if not leased:
        block = lease.give_back(block, node, 0b1100)
    await lab.store.create(IP_BLOCK, block_to_wire(block))


async def pins(lab: Lab) -> int:
    stored = await lab.store.get(IP_BLOCK, PAGE.name)
    return len(stored.spec.pins) if stored else 0


@pytest.mark.parametrize("holder", [False, True])
async def test_a_pin_ends_with_its_identity(lab: Lab, holder: bool) -> None:  # noqa: FBT001
    await pinned(lab, holder=holder, leased=False)
    async with leader(lab):

        async def gone() -> bool:
            return not await pins(lab)

        await until(gone)
        assert await lab.store.get(IP_BLOCK, PAGE.name) is None  # nothing else was in it


async def test_a_pin_of_a_wanted_identity_stays(lab: Lab) -> None:
    await stateful_set(lab, "web", 1)
    await pinned(lab, holder=False, leased=False)
    async with leader(lab):
        await asyncio.sleep(0.5)
        assert await pins(lab) == 1
        await lab.store.delete(STATEFUL_SET, "web", namespace="default")

        async def gone() -> bool:
            return not await pins(lab)

        await until(gone)


async def test_a_pin_whose_holder_may_live_is_left_to_its_node(lab: Lab) -> None:
    await pinned(lab, holder=True, leased=True)
    async with leader(lab):
        await asyncio.sleep(0.5)
        assert await pins(lab) == 1


async def test_an_adopted_address_of_a_plain_pod_ends_with_that_pod(lab: Lab) -> None:
    pod = await lab.pod("adopted", "n1")
    node = NodeRef("n1", "")
    owner = PinOwner("Pod", "default", "adopted", "eth0", pod.uid)
    block = lease.pin(lease.claim(lease.new_block(PAGE, 7), node, 0b100), node, 2, owner, Holder("n1", pod.uid))
    await lab.store.create(IP_BLOCK, block_to_wire(lease.give_back(block, node, 0b100)))
    async with leader(lab):
        await asyncio.sleep(0.5)
        assert await pins(lab) == 1
        await lab.store.delete(POD, "adopted", namespace="default")

        async def gone() -> bool:
            return not await pins(lab)

        await until(gone)


# Pools -----------------------------------------------------------------------------------------------------------------------------------


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


# The check at the beginning -----------------------------------------------------------------------------------------------------------------


async def test_a_reign_begins_with_a_check_and_tells_what_is_wrong(lab: Lab) -> None:
    for name in ("a", "b"):
        pod = await lab.pod(name, "n1")
        await endpoint(lab, name, pod.uid)
    heard = Heard()
    async with leader(lab, heard=heard) as boss:
        assert boss.reign is not None
        check = boss.reign.consistency
        await eventually(lambda: bool(check.found))
        assert [item.invariant for item in check.found] == ["I4"]
        await eventually(lambda: bool(heard.told))
        assert any(reason == "InvariantViolated" and "I4" in note for _, reason, note in heard.told)


async def test_a_block_that_cannot_be_read_stops_nothing_else(lab: Lab) -> None:
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.20", default=True)
    broken = msgspec.to_builtins(block_to_wire(lease.claim(lease.new_block(PAGE, 7), NodeRef("n9", "u"), 1)))
    broken["spec"]["leases"][0]["slots"] = "9-3"
    await lab.store.create(IP_BLOCK, IP_BLOCK.from_builtins(broken))
    async with leader(lab):

        async def told() -> bool:
            return (await status(lab)).total_ip_count == 11

        await until(told)


@pytest.mark.parametrize("kept_by", ["instance", "definition"])
async def test_a_machines_pin_ends_when_neither_instance_nor_definition_is_left(lab: Lab, kept_by: str) -> None:
    kind: Kind[Any] = VIRTUAL_MACHINE_INSTANCE if kept_by == "instance" else VIRTUAL_MACHINE
    await lab.create(kind, metadata={"name": "vm", "namespace": "default"})
    await pinned(lab, holder=False, leased=False, owner=VM)
    async with leader(lab):
        await asyncio.sleep(0.5)
        assert await pins(lab) == 1
        await lab.store.delete(kind, "vm", namespace="default")

        async def gone() -> bool:
            return not await pins(lab)

        await until(gone)


async def test_a_claims_pin_ends_with_the_claim_even_if_another_has_its_name_by_now(lab: Lab) -> None:
    made = await lab.create(IPAM_CLAIM, metadata={"name": "vm.net1", "namespace": "default"})
    await pinned(lab, holder=False, leased=False, owner=replace(CLAIM, uid=made.uid))
    async with leader(lab):
        await asyncio.sleep(0.5)
        assert await pins(lab) == 1
        await lab.store.delete(IPAM_CLAIM, "vm.net1", namespace="default")
        await lab.create(IPAM_CLAIM, metadata={"name": "vm.net1", "namespace": "default"})

        async def gone() -> bool:
            return not await pins(lab)

        await until(gone)


async def migrating(lab: Lab) -> None:
    """vm has come from n1 to n2, and n1 has not said goodbye."""
    one, two = NodeRef("n1", "uid-n1"), NodeRef("n2", "uid-n2")
    block = lease.pin(lease.claim(lease.new_block(PAGE, 7), one, 0b100), one, 2, VM, Holder("n1", "uid-s"))
    block = lease.share_pin(block, VM, two, Holder("n2", "uid-t"), Holder("n1", "uid-s"))
    await lab.store.create(IP_BLOCK, block_to_wire(block))


async def seats(lab: Lab) -> list[tuple[bool, bool]]:
    stored = await lab.store.get(IP_BLOCK, PAGE.name)
    return [(pin.holder is not UNSET, pin.source is not UNSET) for pin in stored.spec.pins] if stored else []


@pytest.mark.parametrize("end", ["removed", "tainted"])
async def test_the_seat_of_a_source_whose_node_is_over_is_emptied_and_no_other(lab: Lab, end: str) -> None:
    await lab.create(VIRTUAL_MACHINE_INSTANCE, metadata={"name": "vm", "namespace": "default"})
    await migrating(lab)
    async with leader(lab):
        await asyncio.sleep(0.5)
        assert await seats(lab) == [(True, True)], "its node lives, or may"
        if end == "removed":
            await lab.store.delete(NODE, "n1")
        else:
            out = {"key": "node.kubernetes.io/out-of-service", "value": "x", "effect": "NoExecute"}
            await lab.store.patch(NODE, "n1", {"spec": {"taints": [out]}})

        async def emptied() -> bool:
            return await seats(lab) == [(True, False)]

        await until(emptied)


async def test_a_machine_that_is_deleted_while_it_migrates_keeps_its_pin_until_both_ends_are_over(lab: Lab) -> None:
    await migrating(lab)
    stored = await lab.store.get(IP_BLOCK, PAGE.name)
    assert stored is not None
    back = lease.give_back(block_from_wire(stored), NodeRef("n2", "uid-n2"), 0b100)
    await lab.store.patch(IP_BLOCK, PAGE.name, block_changes(back))
    async with leader(lab):
        await asyncio.sleep(0.5)
        assert await seats(lab) == [(True, True)], "the source has no lease any more, but its sandbox may live"
        await lab.store.delete(NODE, "n1")

        async def gone() -> bool:
            return not await pins(lab)

        await until(gone)
