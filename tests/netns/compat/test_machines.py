"""KubeVirt's machines and IPAMClaims in real network namespaces, by the objects that their controllers write. IPv4: see docs/promises.md for IPv6."""

from __future__ import annotations

import json
from typing import Any

import pytest

from e2e.lab import checks, fabric
from e2e.lab.objects import Object
from tests.netns.compat.site import NETWORKS, Owner, Site, notes

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the lab

KUBEVIRT = "kubevirt.io/v1"
JOB = "kubevirt.io/migrationJobName"


async def machine(site: Site) -> Owner:
    """A running VirtualMachine."""
    await site.apply(KUBEVIRT, "VirtualMachine", "vm", site.namespace, spec={"running": True})
    return await boot(site)


async def boot(site: Site) -> Owner:
    """Its instance, anew."""
    await site.lab.api.delete("VirtualMachineInstance", "vm", site.namespace)
    made = await site.apply(KUBEVIRT, "VirtualMachineInstance", "vm", site.namespace, spec={})
    return Owner("VirtualMachineInstance", "vm", made["metadata"]["uid"], KUBEVIRT)


async def migration(site: Site, name: str) -> dict[str, str]:
    """The annotation of its target's pod."""
    kind = "VirtualMachineInstanceMigration"
    await site.apply(KUBEVIRT, kind, name, site.namespace, spec={"vmiName": "vm"})
    return {JOB: name}


async def record(site: Site) -> Object:
    current: Object = (await site.lab.api.get("SpiderEndpoint", "vm", site.namespace))["status"]["current"]
    return current


async def pins(site: Site) -> list[Any]:
    blocks, _ = await site.lab.api.list("IPBlock")
    found = [pin for block in blocks for pin in block["spec"].get("pins") or ()]
    return [pin for pin in found if pin["owner"]["namespace"] == site.namespace]


async def conflicts(site: Site) -> list[str]:
    nodes, _ = await site.lab.api.list("IPNode")
    seen = [item["ip"] for node in nodes for item in (node.get("status") or {}).get("conflicts") or ()]
    return [ip for ip in seen if ip.startswith(f"10.6.{site.band}.")]


@pytest.mark.case("F00001", "F00003")
async def test_a_machine_restarts_on_another_node_with_its_addresses(site: Site) -> None:
    first, second = await site.pool("a", 1, 3), await site.pool("b", 11, 13)
    items = [{"interface": "eth0", "ipv4": [first]}, {"interface": "net1", "ipv4": [second]}]
    asks = {NETWORKS: "default/extra", **notes(ippools=items)}
    await site.pod("virt-launcher-vm-aaaaa", "node-1", owner=await machine(site), annotations=asks)
    (before,) = await site.running("virt-launcher-vm-aaaaa")
    await site.gone("virt-launcher-vm-aaaaa")
    await site.pod("virt-launcher-vm-bbbbb", "node-2", owner=await boot(site), annotations=asks)
    (after,) = await site.running("virt-launcher-vm-bbbbb")
    assert dict(after.interfaces) == dict(before.interfaces) and after.node == "node-2"
    current = await record(site)
    assert (current["uid"], current["node"]) == (after.uid, "node-2")
    assert await site.reaches(after, fabric.GATEWAY_V4)


@pytest.mark.case("F00002")
async def test_a_machine_migrates_live_with_its_address_on_both_nodes_meanwhile(site: Site) -> None:
    asks = notes(ippool={"ipv4": [await site.pool("a", 1, 3)]})
    owner = await machine(site)
    await site.pod("virt-launcher-vm-aaaaa", "node-1", owner=owner, annotations=asks)
    (source,) = await site.running("virt-launcher-vm-aaaaa")
    await site.pod(
        "virt-launcher-vm-bbbbb", "node-2", owner=owner, annotations={**asks, **await migration(site, "move")}
    )
    source, target = await site.running("virt-launcher-vm-aaaaa", "virt-launcher-vm-bbbbb")
    assert [*source.addresses] == [*target.addresses] == [site.v4(1)]
    assert (await record(site))["uid"] == source.uid
    (pin,) = await pins(site)
    assert (pin["holder"]["podUID"], pin["source"]["podUID"]) == (target.uid, source.uid)
    others = await site.pod("bystander", "node-1", annotations=asks)
    (bystander,) = await site.running("bystander")
    assert others and [*bystander.addresses] != [*source.addresses]
    await site.gone("virt-launcher-vm-aaaaa")

    async def is_told() -> bool:
        return bool((await record(site))["uid"] == target.uid)

    await site.until(is_told, "the target is told of when the source has left")
    (target,) = await site.running("virt-launcher-vm-bbbbb")
    assert [*target.addresses] == [site.v4(1)] and await site.reaches(target, fabric.GATEWAY_V4)
    assert await conflicts(site) == [], "the two ends were no conflict to either node's watcher"
    assert "source" not in (await pins(site))[0]
    assert checks.unique([target, bystander]) == []


@pytest.mark.case("F00002")
async def test_a_failed_migration_leaves_the_machine_where_it_was(site: Site) -> None:
    asks = notes(ippool={"ipv4": [await site.pool("a", 1, 3)]})
    owner = await machine(site)
    await site.pod("virt-launcher-vm-aaaaa", "node-1", owner=owner, annotations=asks)
    await site.running("virt-launcher-vm-aaaaa")
    await site.pod(
        "virt-launcher-vm-bbbbb", "node-2", owner=owner, annotations={**asks, **await migration(site, "move")}
    )
    source, _target = await site.running("virt-launcher-vm-aaaaa", "virt-launcher-vm-bbbbb")
    await site.gone("virt-launcher-vm-bbbbb")

    async def is_back() -> bool:
        (pin,) = await pins(site)
        return bool(pin["holder"]["podUID"] == pin["source"]["podUID"] == source.uid)

    await site.until(is_back, "the source holds the pin again once the target's interface is surely gone")
    current = await record(site)
    assert (current["uid"], current["node"]) == (source.uid, "node-1")
    (source,) = await site.running("virt-launcher-vm-aaaaa")
    assert [*source.addresses] == [site.v4(1)]


async def test_a_claim_keeps_its_address_from_pod_to_pod_and_ends_with_it(site: Site) -> None:
    first, second = await site.pool("a", 1, 3), await site.pool("b", 11, 13)
    items = [{"interface": "eth0", "ipv4": [first]}, {"interface": "net1", "ipv4": [second]}]
    reference = [{"name": "extra", "namespace": "default", "interface": "net1", "ipam-claim-reference": "mine"}]
    asks = {NETWORKS: json.dumps(reference), **notes(ippools=items)}
    version = "k8s.cni.cncf.io/v1alpha1"
    await site.apply(version, "IPAMClaim", "mine", site.namespace, spec={"network": "extra", "interface": "net1"})
    await site.pod("one", "node-1", annotations=asks)
    (one,) = await site.running("one")
    status = (await site.lab.api.get("IPAMClaim", "mine", site.namespace))["status"]
    assert status["ips"] == list(one.interfaces["net1"]) and status["ownerPod"] == {"name": "one"}
    await site.gone("one")
    await site.pod("two", "node-2", annotations=asks)
    (two,) = await site.running("two")
    assert two.interfaces["net1"] == one.interfaces["net1"]
    await site.gone("two")
    await site.lab.api.delete("IPAMClaim", "mine", site.namespace)

    async def is_free() -> bool:
        return await pins(site) == []

    await site.until(is_free, "the claim's pin ends")
