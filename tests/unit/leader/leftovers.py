"""What ends with its pod or identity, made by hand: SpiderEndpoints and pins."""

from __future__ import annotations

from crds.blocks import block_to_wire
from crds.core import STATEFUL_SET
from crds.nephila import IP_BLOCK
from crds.spiderpool import ENDPOINT
from ipam import lease
from ipam.addresses import Address, Family
from ipam.blocks import Holder, NodeRef, PinOwner
from ipam.slots import Page
from tests.unit.nodeagent.harness import Lab

PAGE = Page(Family.V4, Address.parse("10.6.0.0").value)
WEB = PinOwner("StatefulSet", "default", "web-0", "eth0")
VM = PinOwner("VirtualMachineInstance", "default", "vm", "eth0")
CLAIM = PinOwner("IPAMClaim", "default", "vm.net1", "net1", "uid-claim")


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
