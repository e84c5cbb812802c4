"""An `IPAMClaim` keeps its addresses, whichever pod refers to it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.kube.memory import Answered, Call, Fault, MemoryStore
from crds.core import POD, Pod
from crds.identities import IPAM_CLAIM, ClaimStatus
from crds.spiderpool import ENDPOINT
from ipam.stock import State
from nodeagent.agent import Agent
from tests.unit.nodeagent.harness import Lab, add, delete, eventually, failed, http
from tests.unit.nodeagent.machines import claim, launcher, machine, migrated, migration, pins, stop

NETWORKS = "k8s.v1.cni.cncf.io/networks"


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    lab.sandboxes.alive |= {f"/run/netns/c{i}" for i in range(20)}
    await lab.namespace()
    for name in ("n1", "n2"):
        await lab.node(name)
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.19", gateway="10.6.0.1", default=True)
    await lab.pool("v6", "fd00:6::/64", "fd00:6::10-fd00:6::1f", default=True)
    return lab


def refers(name: str = "vm.net1") -> dict[str, str]:
    return {NETWORKS: json.dumps([{"name": "extra", "interface": "net1", "ipam-claim-reference": name}])}


async def pod(lab: Lab, name: str, node: str, **notes: Any) -> Pod:
    await lab.store.delete(POD, name, namespace="default")
    return await lab.pod(name, node, annotations=refers(**notes))


async def status(lab: Lab, name: str = "vm.net1") -> ClaimStatus:
    found = await lab.store.get(IPAM_CLAIM, name, "default")
    assert found is not None
    return found.status


async def gone(agent: Agent, container: str) -> None:
    for ifname in ("eth0", "net1"):
        await delete(agent, container, ifname=ifname)
    await eventually(lambda: not any(held.state is State.LEAVING for held in agent.stock))


async def test_the_claim_has_the_address_and_says_so_before_the_reply(lab: Lab) -> None:
    await claim(lab)
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        first = await add(one, "c1", await pod(lab, "a", "n1"), ifname="net1")
        assert len(first) == 2
        said = await status(lab)
        assert said.ips == (f"{first[0]}/24", f"{first[1]}/64")
        assert said.owner_pod is not None and said.owner_pod.name == "a"
        assert {pin.owner.kind for pin in (await pins(lab)).values()} == {"IPAMClaim"}
        await gone(one, "c1")
        await stop(lab, await pod(lab, "a", "n1"))
        assert await add(two, "c2", await pod(lab, "b", "n2"), ifname="net1") == first
        assert (await status(lab)).owner_pod.name == "b"  # type: ignore[union-attr]


async def test_only_the_interface_that_refers_to_it_is_the_claims(lab: Lab) -> None:
    await claim(lab)
    async with lab.agent("n1") as one:
        mine = await pod(lab, "a", "n1")
        eth0, net1 = await add(one, "c1", mine), await add(one, "c1", mine, ifname="net1")
        assert set(await pins(lab)) == set(net1) and not set(eth0) & set(net1)
        await eventually(lambda: one.outbox.depth == 0)
        stored = await lab.store.get(ENDPOINT, "a", "default")
        assert stored is not None and stored.metadata.owner_references, "the record is the pod's, and goes with it"


async def test_two_pods_do_not_share_a_claim(lab: Lab) -> None:
    await claim(lab)
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        await add(one, "c1", await pod(lab, "a", "n1"), ifname="net1")
        error = await failed(two, http("ADD", "c2", await pod(lab, "b", "n2"), ifname="net1"))
        assert error["code"] == 11 and "still exists" in error["msg"]


@pytest.mark.parametrize("what", ["missing", "of another network"])
async def test_a_reference_that_leads_nowhere_fails_the_pod_with_the_reason(lab: Lab, what: str) -> None:
    if what != "missing":
        await claim(lab, network="another")
    async with lab.agent("n1") as one:
        error = await failed(one, http("ADD", "c1", await pod(lab, "a", "n1"), ifname="net1"))
    if what == "missing":
        assert error["code"] == 11 and "IPAMClaim default/vm.net1" in error["msg"] and "does not exist" in error["msg"]
    else:
        assert error["code"] == 101 and "is for network 'another', but net1 is on 'underlay'" in error["msg"]


async def test_an_add_whose_claim_cannot_be_told_fails_and_its_repeat_tells_first(lab: Lab) -> None:
    await claim(lab)
    broken = True

    async def fault(call: Call) -> Fault | None:
        return Answered(503) if broken and call.kind is IPAM_CLAIM and call.verb == "patch" else None

    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=fault)) as one:
        made = await pod(lab, "a", "n1")
        assert (await failed(one, http("ADD", "c1", made, ifname="net1")))["code"] == 11
        broken = False
        got = await add(one, "c1", made, ifname="net1")
        assert [text.split("/")[0] for text in (await status(lab)).ips or ()] == got


async def test_a_machine_migrates_with_its_claim(lab: Lab) -> None:
    await claim(lab)
    vmi = await machine(lab)
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        source = await launcher(lab, vmi, "n1", refers())
        first = await add(one, "c1", source, ifname="net1")
        target = await launcher(lab, vmi, "n2", refers(), migration=await migration(lab, vmi))
        assert await add(two, "c2", target, ifname="net1") == first
        assert (await status(lab)).owner_pod.name == source.name  # type: ignore[union-attr]
        await migrated(lab, "move", "Succeeded")
        await gone(one, "c1")
        await eventually(lambda: not two.pins.migrating and two.outbox.depth == 0)
        assert (await status(lab)).owner_pod.name == target.name  # type: ignore[union-attr]
        stored = await lab.store.get(ENDPOINT, "vm", "default")
        assert stored is not None and stored.status and stored.status.current.uid == target.uid
