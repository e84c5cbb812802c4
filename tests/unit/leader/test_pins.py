"""Pins end with their identity; during a live migration, only once both ends are over."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from crds.blocks import block_changes, block_from_wire, block_to_wire
from crds.core import NODE, POD, STATEFUL_SET
from crds.identities import IPAM_CLAIM, VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE
from crds.meta import UNSET, Kind
from crds.nephila import IP_BLOCK
from ipam import lease
from ipam.blocks import Holder, NodeRef, PinOwner
from tests.unit.leader.harness import leader, until
from tests.unit.leader.leftovers import CLAIM, PAGE, VM, WEB, endpoint, pinned, pins, stateful_set
from tests.unit.nodeagent.harness import Lab


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
    await endpoint(lab, "web-0", "uid-of-an-earlier-pod", owner=("StatefulSet", "web"), ip="10.6.0.2")
    await pinned(lab, holder=False, leased=False)
    async with leader(lab):
        await asyncio.sleep(0.5)
        assert await pins(lab) == 1
        await lab.store.delete(STATEFUL_SET, "web", namespace="default")

        async def gone() -> bool:
            return not await pins(lab)

        await until(gone)


@pytest.mark.parametrize("told", ["nothing", "another address", "another interface"])
async def test_a_pin_that_its_identity_cannot_find_ends(lab: Lab, told: str) -> None:
    """An ADD that failed between pinning and telling leaves one; the next pins another address elsewhere."""
    await stateful_set(lab, "web", 1)
    if told == "another address":
        await endpoint(lab, "web-0", "uid-of-an-earlier-pod", owner=("StatefulSet", "web"), ip="10.6.0.9")
    owner = replace(WEB, interface="net1") if told == "another interface" else WEB
    if told == "another interface":
        await endpoint(lab, "web-0", "uid-of-an-earlier-pod", owner=("StatefulSet", "web"), ip="10.6.0.2")
    await pinned(lab, holder=False, leased=False, owner=owner)
    async with leader(lab):

        async def gone() -> bool:
            return not await pins(lab)

        await until(gone)


async def test_a_pin_that_a_pod_has_stays_though_its_record_is_late(lab: Lab) -> None:
    await stateful_set(lab, "web", 1)
    await pinned(lab, holder=True, leased=True)
    async with leader(lab):
        await asyncio.sleep(0.5)
        assert await pins(lab) == 1


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


@pytest.mark.parametrize("kept_by", ["instance", "definition"])
async def test_a_machines_pin_ends_when_neither_instance_nor_definition_is_left(lab: Lab, kept_by: str) -> None:
    kind: Kind[Any] = VIRTUAL_MACHINE_INSTANCE if kept_by == "instance" else VIRTUAL_MACHINE
    await lab.create(kind, metadata={"name": "vm", "namespace": "default"})
    await endpoint(lab, "vm", "uid-vm", owner=("VirtualMachineInstance", "vm"), ip="10.6.0.2")
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
