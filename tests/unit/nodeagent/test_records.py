"""The SpiderEndpoint that an ADD leaves behind is, field by field, what Spiderpool documents; owners are the top controllers."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from crds.core import POD
from crds.spiderpool import ENDPOINT
from ipam.errors import PodGone
from tests.unit.leader.harness import until
from tests.unit.leader.workloads import KINDS, pod_of, workload
from tests.unit.nodeagent.harness import Lab, add

IPPOOLS = [
    {"interface": "eth0", "ipv4": ["v4"], "ipv6": ["v6"]},
    {"interface": "net1", "ipv4": ["storage"], "cleangateway": True},
]
ASKS = {
    "ipam.spidernet.io/ippools": json.dumps(IPPOOLS),
    "ipam.spidernet.io/routes": '[{"dst": "10.88.0.0/16", "gw": "10.6.0.9"}]',
    "k8s.v1.cni.cncf.io/networks": "kube-system/storage",
}


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    lab.sandboxes.alive.add("/run/netns/c1")
    await lab.namespace()
    await lab.node("n1")
    await lab.pool(
        "v4", "10.6.0.0/16", "10.6.0.10", gateway="10.6.0.1", routes=[{"dst": "10.99.0.0/16", "gw": "10.6.0.2"}]
    )
    await lab.pool("v6", "fd00:6::/64", "fd00:6::10", gateway="fd00:6::1")
    await lab.pool("storage", "10.7.0.0/16", "10.7.0.10", gateway="10.7.0.1")
    return lab


async def record(lab: Lab, name: str) -> dict[str, Any]:
    stored = await lab.store.get(ENDPOINT, name, "default")
    found: dict[str, Any] = json.loads(msgspec.json.encode(stored)) if stored is not None else {}
    return found


@pytest.mark.parametrize("kind", [*KINDS])
async def test_the_record_of_two_interfaces(lab: Lab, kind: str) -> None:
    owner = await workload(lab, kind, "web", 1, annotations=ASKS)
    async with lab.agent("n1") as agent:
        pod = await pod_of(lab, owner, "web-0", "n1")
        for ifname in ("eth0", "net1"):
            await add(agent, "c1", pod, ifname=ifname)

        async def complete() -> bool:
            current = (await record(lab, "web-0")).get("status", {}).get("current", {})
            return len(current.get("ips", ())) == 2

        await until(complete)
        found = await record(lab, "web-0")
    assert found["status"] == {
        "current": {
            "uid": pod.uid,
            "node": "n1",
            "ips": [
                {
                    "interface": "eth0",
                    "ipv4": "10.6.0.10/16",
                    "ipv4Pool": "v4",
                    "ipv4Gateway": "10.6.0.1",
                    "ipv6": "fd00:6::10/64",
                    "ipv6Pool": "v6",
                    "ipv6Gateway": "fd00:6::1",
                    "routes": [{"dst": "10.99.0.0/16", "gw": "10.6.0.2"}, {"dst": "10.88.0.0/16", "gw": "10.6.0.9"}],
                },
                {
                    "interface": "net1",
                    "ipv4": "10.7.0.10/16",
                    "ipv4Pool": "storage",
                    "ipv4Gateway": "10.7.0.1",
                    "cleanGateway": True,
                },
            ],
        },
        "ownerControllerType": kind,
        "ownerControllerName": "web",
    }
    # Of a StatefulSet it outlives the pod; any other goes with it.
    owners = [(one["kind"], one["name"]) for one in found["metadata"].get("ownerReferences", ())]
    assert owners == ([] if kind == "StatefulSet" else [("Pod", "web-0")])


async def test_a_late_write_for_a_former_pod_leaves_the_record_of_the_present_one(lab: Lab) -> None:
    """Seeds 155 and 374: a node whose watch was behind wrote for the former pod of an identity after the node of the present one had."""
    former = await lab.pod("web-0", "n1", {"ipam.spidernet.io/ippool": '{"ipv4": ["v4"]}'})
    async with lab.agent("n1") as agent:
        await add(agent, "c1", former)

        async def recorded() -> bool:
            return bool((await record(lab, "web-0")).get("status"))

        await until(recorded)
        await lab.store.delete(POD, "web-0", namespace="default")
        present = await lab.pod("web-0", "n2")
        status = (await record(lab, "web-0"))["status"]
        status["current"] |= {"uid": present.uid, "node": "n2"}
        await lab.store.patch(ENDPOINT, "web-0", {"status": status}, namespace="default")
        assert await agent.outbox._write(former, agent.allocator.of_pod(former.uid)) is False
        with pytest.raises(
            PodGone
        ):  # seed 18610: its ADD was answered all the same, with an address that no record names
            await agent.outbox.deliver("default/web-0", former.uid)
        assert (await record(lab, "web-0"))["status"]["current"]["uid"] == present.uid
