"""One address in words: its state and why, whose it is, where and since when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from adapters.kube.store import Store, StoreError
from crds.blocks import block_from_wire
from crds.core import POD, Pod
from crds.meta import UNSET
from ipam.addresses import Address
from ipam.blocks import Block
from ipam.errors import BadValue
from ipam.slots import Page, SlotId
from leader.page.facts import State
from leader.page.pictures import Drawn, Pictures
from leader.sight import addresses_of

NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"

WHY = {
    State.ALLOCATED: "a pod has it",
    State.PINNED: "kept for an identity that does not run now",
    State.WARM: "free, and leased ahead by a node: the next pod there gets it at once",
    State.FREE: "free, and in nobody's lease: any node may claim it",
    State.COOLING: "free, but released too recently",
    State.SUSPECT: "free, but taken by force from a silent node: fully probed before its next use",
    State.QUARANTINED: "held back: a station that is not ours uses it",
    State.RESERVED: "not handed out: a reserved address, the gateway, or owned by an older pool",
}


async def details(pictures: Pictures, store: Store, drawn: Drawn, address: Address) -> dict[str, Any]:
    """`mac` asks the API server for one pod where no SpiderEndpoint says it; without an answer it is left out."""
    state = drawn.map.state_of(address.value)
    if state is None:
        return {"address": str(address), "state": "", "why": "not in this pool"}
    pool = drawn.map.pool
    slot = SlotId(pool.domain, address.family, address.value)
    found: dict[str, Any] = {"address": str(address), "pool": pool.name, "state": state.name.lower(), "why": WHY[state]}
    found |= _lease(pictures, slot)
    if (key := drawn.pods.get(address.value)) is not None:
        found |= _holder(pictures, key, address)
        if not found.get("mac") and (mac := await mac_of(store, key, address)):
            found["mac"] = mac
    conflicts = [
        {"mac": item.mac, "node": item.node, "seen": stamp(item.seen), "how": item.how}
        for item in pictures.stations()
        if item.address == address and item.pool in ("", pool.name)
    ]
    return found | ({"conflicts": conflicts} if conflicts else {})


def _holder(pictures: Pictures, key: tuple[str, str], address: Address) -> dict[str, Any]:
    namespace, name = key
    found: dict[str, Any] = {"pod": f"{namespace}/{name}"}
    endpoint = pictures.sight.endpoints.get(name, namespace)
    if endpoint is None or endpoint.status is UNSET:
        pod = pictures.sight.pods.get(name, namespace)
        return found | ({"node": pod.spec.node_name} if pod else {})
    current = endpoint.status.current
    found["node"] = current.node
    if endpoint.metadata.creation_timestamp is not None:
        found["since"] = stamp(endpoint.metadata.creation_timestamp)
    owner = f"{endpoint.status.owner_controller_type} {endpoint.status.owner_controller_name}".strip()
    if owner and not owner.startswith("Pod "):
        found["owner"] = owner
    for item in current.ips:
        if any(given == address for _, given in addresses_of(item)):
            found["interface"] = item.interface
            if item.mac:
                found["mac"] = item.mac
    return found


def _lease(pictures: Pictures, slot: SlotId) -> dict[str, Any]:
    block = block_of(pictures, slot.page)
    if block is None:
        return {}
    found: dict[str, Any] = {"block": block.page.name}
    if (lease := next((lease for lease in block.leases if lease.slots & slot.bit), None)) is not None:
        found["lease"] = lease.node.name
    if (pin := block.pin_at(slot.value - slot.page.base)) is not None:
        owner = pin.owner
        found["pin"] = f"{owner.kind} {owner.namespace}/{owner.name} {owner.interface}"
    if ends := [entry.until for entry in block.cooling if entry.slots & slot.bit]:
        found["coolingUntil"] = stamp(datetime.fromtimestamp(max(ends), UTC))
    return found


def block_of(pictures: Pictures, page: Page) -> Block | None:
    """The page's block, as far as it can be read; None also means that all its addresses are free."""
    stored = pictures.sight.blocks.get(page.name)
    try:
        return block_from_wire(stored) if stored is not None else None
    except BadValue:
        return None


async def mac_of(store: Store, key: tuple[str, str], address: Address) -> str:
    """The MAC of the interface that has the address, as Multus records it on the pod; "" if nobody says."""
    try:
        pod = await store.get(POD, key[1], key[0])
    except StoreError:
        return ""
    return next((mac for mac, given in macs(pod) if given == str(address)), "") if pod is not None else ""


def macs(pod: Pod) -> list[tuple[str, str]]:
    """(MAC, address) of every interface in Multus' network-status annotation."""
    text = pod.annotations.get(NETWORK_STATUS, "")
    try:
        listed: Any = msgspec.json.decode(text) if text else []
    except msgspec.DecodeError:
        return []
    found = []
    for item in listed if isinstance(listed, list) else []:
        if isinstance(item, dict) and isinstance(item.get("mac"), str) and isinstance(item.get("ips"), list):
            found += [(item["mac"].lower(), str(given)) for given in item["ips"]]
    return found


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
