"""Leaks: what is freed, and above all what is not."""

from __future__ import annotations

import asyncio

import pytest

from adapters.kube.memory import Call, MemoryStore, NotSent
from crds.core import POD
from tests.unit.nodeagent.harness import FAST, Lab, add, eventually


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.50", default=True)
    return lab


async def test_a_pod_that_is_gone_with_its_sandbox_leaks_nothing(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        await add(agent, "c1", pod)
        await lab.store.delete(POD, "p", namespace="default")
        await eventually(lambda: agent.allocator.all() == ())
        assert agent.reconciler.released == 1


async def test_a_force_deleted_pod_whose_sandbox_lives_keeps_its_address(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        lab.sandboxes.alive.add("/run/netns/c1")
        await add(agent, "c1", pod)
        await lab.store.delete(POD, "p", namespace="default")
        await asyncio.sleep(0.8)
        assert len(agent.allocator.all()) == 1
        lab.sandboxes.alive.clear()
        await eventually(lambda: agent.allocator.all() == ())


async def test_a_living_pod_keeps_its_address_even_without_a_sandbox(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        address = await add(agent, "c1", pod)
        await asyncio.sleep(0.8)
        assert await add(agent, "c2", pod) == address


async def test_a_pod_of_a_final_phase_is_freed_whatever_its_restart_policy_and_a_crashed_one_is_not(lab: Lab) -> None:
    """The kubelet starts no pod again whose phase is final. An evicted pod of a Deployment is Failed, and its object lingers for days."""
    ends = {
        "job": ("Never", {"phase": "Succeeded"}),
        "evicted": ("Always", {"phase": "Failed", "reason": "Evicted"}),
        "overdue": ("OnFailure", {"phase": "Failed", "reason": "DeadlineExceeded"}),
        "shutdown": ("Always", {"phase": "Succeeded"}),
        "crashed": ("Always", {"phase": "Running"}),
    }
    async with lab.agent("n1") as agent:
        for name, (policy, status) in ends.items():
            pod = await lab.create(
                POD,
                metadata={"name": name, "namespace": "default"},
                spec={"nodeName": "n1", "restartPolicy": policy},
            )
            await add(agent, f"c-{name}", pod)
            await lab.store.patch(POD, name, {"status": status}, namespace="default", subresource="status")
        await eventually(lambda: [a.pod for a in agent.allocator.all()] == ["crashed"])
        await asyncio.sleep(2 * FAST.leak_confirm_s)
        assert agent.reconciler.candidates == 0


async def test_an_evicted_pod_whose_sandbox_lives_keeps_its_address(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        lab.sandboxes.alive.add("/run/netns/c1")
        await add(agent, "c1", pod)
        evicted = {"status": {"phase": "Failed", "reason": "Evicted"}}
        await lab.store.patch(POD, "p", evicted, namespace="default", subresource="status")
        await asyncio.sleep(4 * FAST.leak_confirm_s)
        assert len(agent.allocator.all()) == 1
        lab.sandboxes.alive.clear()
        await eventually(lambda: agent.allocator.all() == ())


async def test_a_pod_recreated_under_its_name_does_not_shield_the_old_ones_address(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        old = await lab.pod("p", "n1")
        await add(agent, "c1", old)
        await lab.store.delete(POD, "p", namespace="default")
        new = await lab.pod("p", "n1")
        await add(agent, "c2", new)
        await eventually(lambda: [a.pod_uid for a in agent.allocator.all()] == [new.uid])


async def test_an_api_server_that_does_not_answer_proves_nothing(lab: Lab) -> None:
    silent = False

    async def fault(call: Call) -> NotSent | None:
        return NotSent() if silent and call.verb == "get" else None

    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=fault)) as agent:
        pod = await lab.pod("p", "n1")
        await add(agent, "c1", pod)
        silent = True
        await lab.store.delete(POD, "p", namespace="default")
        await eventually(lambda: agent.reconciler.candidates == 1)
        await asyncio.sleep(0.6)
        assert len(agent.allocator.all()) == 1
        silent = False
        await eventually(lambda: agent.allocator.all() == ())
