"""What counts as demand: pods that will ask, and none that never will."""

from __future__ import annotations

import asyncio

import pytest

from crds.core import POD, Pod
from ipam.stock import State
from nodeagent.agent import Agent
from tests.unit.nodeagent.harness import FAST, Lab, add, delete, eventually, failed, http

NETWORKS = {"k8s.v1.cni.cncf.io/networks": "kube-system/storage"}


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.node("n2")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.13", default=True)
    return lab


async def runs(lab: Lab, pod: Pod, ip: str, phase: str = "Running") -> Pod:
    status = {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}]}
    await lab.store.patch(POD, pod.name, {"status": status}, namespace="default", subresource="status")
    return pod


def bound(agent: Agent) -> dict[str, int]:
    served = [(item.pod_uid, item.key.ifname, grant.pool) for item in agent.allocator.all() for grant in item.grants]
    return dict(agent.needs.bound(served))


@pytest.mark.parametrize("phase", ["Running", "Pending"])
async def test_pods_whose_only_interface_another_cni_set_up_strand_no_address(lab: Lab, phase: str) -> None:
    """Calico serves their eth0, and nothing else is asked for. Pending with an address: init containers run."""
    for number in range(4):
        await runs(lab, await lab.pod(f"calico-{number}", "n1"), f"192.168.0.{number + 1}", phase)
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        assert bound(one) == {}
        assert one.refill.wanted("v4") == 0
        assert await add(two, "c1", await lab.pod("p", "n2"))


async def test_where_only_further_interfaces_were_asked_for_eth0_is_no_demand(lab: Lab) -> None:
    """Multus, another CNI for eth0 and Nephila for net1: the default pools are none of a starting pod's business there."""
    await lab.pool("storage", "10.7.0.0/24", "10.7.0.10-10.7.0.13")
    conf = {"ipam": {"type": "nephila", "default_ipv4_ippool": ["storage"]}}
    async with lab.agent("n1") as agent:
        first = await runs(lab, await lab.pod("first", "n1", NETWORKS), "192.168.0.1")
        await add(agent, "c1", first, ifname="net1", conf=conf)
        second = await lab.pod("second", "n1", NETWORKS)
        await eventually(lambda: agent.world.pods.get(second.name, "default") is not None)
        assert bound(agent) == {"storage": 2}
        await add(agent, "c0", await lab.pod("third", "n1"))
        await lab.pod("fourth", "n1")
        await eventually(lambda: agent.world.pods.get("fourth", "default") is not None)
        assert bound(agent) == {"storage": 2, "v4": 3}, "an ADD for eth0 has shown that it is served here"


async def test_a_pod_that_waits_for_its_sandbox_is_leased_ahead_for(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        await lab.pod("p", "n1")
        await eventually(lambda: agent.refill.wanted("v4") == 1)
        await eventually(lambda: agent.stock.count("v4", State.READY, State.UNPROVEN) >= 1)


async def test_a_running_pod_of_ours_keeps_its_address_while_its_sandbox_is_replaced(lab: Lab) -> None:
    """It runs, as far as the API says, and another node starves: the address that cools here is still meant for it."""
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        pod = await lab.pod("p", "n1")
        [address] = await add(one, "c1", pod)
        await runs(lab, pod, address)
        await eventually(lambda: one.world.pods.get("p", "default").status.phase == "Running")  # type: ignore[union-attr]
        for number in range(3):
            await add(two, f"d{number}", await lab.pod(f"q{number}", "n2"))
        starving = asyncio.create_task(failed(two, http("ADD", "d3", await lab.pod("q3", "n2"))))
        await eventually(lambda: two.line.waiting("v4") == 1)
        await delete(one, "c1")
        await asyncio.sleep(FAST.cooldown_s + 0.2)
        assert bound(one) == {"v4": 1}
        assert await add(one, "c2", pod) == [address]
        assert (await starving)["code"] == 11
        await lab.store.delete(POD, "p", namespace="default")
        await delete(one, "c2")
        await eventually(lambda: bound(one) == {})
