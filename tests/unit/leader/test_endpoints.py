"""SpiderEndpoints whose pod or identity is gone are removed, and no others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from adapters.kube.memory import Answered, Call, Fault, MemoryStore
from crds.core import STATEFUL_SET
from crds.identities import VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE
from crds.meta import Kind
from crds.spiderpool import ENDPOINT
from tests.unit.leader.harness import leader, until
from tests.unit.leader.leftovers import VM, endpoint, pinned, pins, stateful_set
from tests.unit.nodeagent.harness import Lab


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
