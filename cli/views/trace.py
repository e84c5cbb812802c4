"""`nephila trace`: everything the cluster says about one address, pod or MAC."""

from __future__ import annotations

from typing import Any

import msgspec

from cli.cluster import Cluster, Holding, parsed
from cli.output import Record, facts
from cli.views.nodes import state_of as node_state
from cli.words import age, since, some
from ipam.addresses import Address
from ipam.blocks import Block
from ipam.pools import Pool
from ipam.slots import SlotId

NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"


class AddressStory(Record):
    """One address of one L2 domain. `state` is one word; `usable`: whether a pod could get it now, and `why` says why (not)."""

    address: str
    domain: str
    state: str
    usable: bool
    why: str
    pools: tuple[str, ...]
    pod: str
    pod_uid: str
    interface: str
    recorded_by: str
    node: str
    block: str
    slot: int
    lease: str
    pin: str
    marks: tuple[str, ...]
    conflicts: tuple[str, ...]


def trace_ip(cluster: Cluster, address: Address) -> tuple[AddressStory, ...]:
    """One story per L2 domain that knows the address; at least one."""
    stories = [_story(cluster, SlotId(domain, address.family, address.value)) for domain in cluster.domains]
    known = [story for story in stories if story.state != "unknown"]
    return tuple(known or stories[:1])


def trace_pod(cluster: Cluster, namespace: str, name: str) -> tuple[AddressStory, ...]:
    """The stories of a pod's addresses, and of those that are pinned to it; empty if it has none."""
    slots = {holding.slot for holding in cluster.holdings if (holding.namespace, holding.name) == (namespace, name)}
    slots |= {slot for _, slot in cluster.pins_of.get((namespace, name), ())}
    return tuple(_story(cluster, slot) for slot in sorted(slots))


class MacSeen(Record):
    """Where a MAC address is known from. `whose`: a pod (`namespace/name interface`) or `not ours`."""

    mac: str
    whose: str
    addresses: tuple[str, ...]
    known_from: str


def trace_mac(cluster: Cluster, mac: str) -> tuple[MacSeen, ...]:
    """Pods by Multus' network-status and SpiderEndpoints, and strangers by the conflicts that nodes saw."""
    wanted = mac.lower().replace("-", ":")
    found: list[MacSeen] = []
    for pod in cluster.pods:
        for network in _network_status(pod.annotations.get(NETWORK_STATUS, "")):
            if str(network.get("mac", "")).lower() == wanted:
                whose = f"{pod.namespace}/{pod.name} {network.get('interface', '')}".rstrip()
                addresses = tuple(str(ip) for ip in network.get("ips") or ())
                found.append(MacSeen(mac=wanted, whose=whose, addresses=addresses, known_from=NETWORK_STATUS))
    for endpoint in cluster.endpoints:
        for item in endpoint.status.current.ips if endpoint.status else ():
            if item.mac and item.mac.lower() == wanted:
                listed = tuple(text for text in (item.ipv4, item.ipv6) if text)
                whose = f"{endpoint.namespace}/{endpoint.name} {item.interface}"
                found.append(MacSeen(mac=wanted, whose=whose, addresses=listed, known_from="SpiderEndpoint"))
    for conflict in cluster.conflicts:
        if conflict.seen.mac.lower() == wanted:
            known = f"conflict seen by {conflict.node} {since(conflict.seen.seen, cluster.wall)} ago"
            found.append(MacSeen(mac=wanted, whose="not ours", addresses=(conflict.seen.ip,), known_from=known))
    return tuple(found)


def _network_status(text: str) -> list[dict[str, Any]]:
    try:
        listed: Any = msgspec.json.decode(text) if text else []
    except msgspec.DecodeError:
        return []
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _story(cluster: Cluster, slot: SlotId) -> AddressStory:
    block = cluster.blocks.get(slot.page)
    holders = sorted(cluster.holders.get(slot, ()), key=lambda holding: not holding.alive)
    holding = holders[0] if holders else None
    conflicts = tuple(
        f"{conflict.seen.mac} seen by {conflict.node} {since(conflict.seen.seen, cluster.wall)} ago"
        + (f" ({conflict.seen.how})" if conflict.seen.how else "")
        for conflict in cluster.conflicts
        if parsed(conflict.seen.ip) == slot.address
    )
    lease = next((lease for lease in block.leases if lease.slots & slot.bit), None) if block else None
    state, usable, why = _judge(cluster, slot, block, holders, conflicts)
    return AddressStory(
        address=str(slot.address),
        domain=slot.domain,
        state=state,
        usable=usable,
        why=why,
        pools=tuple(_pool_line(cluster, pool, slot) for pool in _claimants(cluster, slot)),
        pod=holding.pod if holding else "",
        pod_uid=holding.uid if holding else "",
        interface=holding.interface if holding else "",
        recorded_by=holding.source if holding else "",
        node=holding.node if holding else "",
        block=block.page.name if block else "",
        slot=slot.value - slot.page.base,
        lease=f"{lease.node.name} ({node_state(cluster, lease.node.name)}), epoch {lease.epoch}" if lease else "",
        pin=_pin_line(block, slot),
        marks=_marks(cluster, block, slot),
        conflicts=conflicts,
    )


def _claimants(cluster: Cluster, slot: SlotId) -> list[Pool]:
    return [
        pool
        for pool in cluster.catalog
        if pool.domain == slot.domain and pool.family is slot.family and slot.value in pool.ips
    ]


def _pool_line(cluster: Cluster, pool: Pool, slot: SlotId) -> str:
    return f"{pool.name}{_exclusion(cluster, pool, slot)}"


def _exclusion(cluster: Cluster, pool: Pool, slot: SlotId) -> str:
    """Why this pool does not hand the address out, in brackets; "" if it does."""
    if slot.value in cluster.effective[pool.name]:
        return ""
    if slot.value in pool.exclude:
        return " (in its excludeIPs)"
    if pool.gateway == slot.address:
        return " (its gateway)"
    reservers = _reservers(cluster, slot)
    if reservers:
        return f" (reserved by SpiderReservedIP {some(reservers)})"
    return " (an older pool owns it)"


def _reservers(cluster: Cluster, slot: SlotId) -> list[str]:
    return [
        name
        for name, addresses in sorted(cluster.reserved_by_name.items())
        if addresses.family is slot.family and slot.value in addresses
    ]


def _pin_line(block: Block | None, slot: SlotId) -> str:
    pin = block.pin_at(slot.value - slot.page.base) if block else None
    if pin is None:
        return ""
    where = f"held by pod UID {pin.holder.pod_uid} on {pin.holder.node}" if pin.holder else "does not run now"
    if pin.is_shared and pin.source is not None:
        where += f", migrating from pod UID {pin.source.pod_uid} on {pin.source.node}"
    return f"{pin.owner.kind} {pin.owner.namespace}/{pin.owner.name} {pin.owner.interface} ({where})"


def _marks(cluster: Cluster, block: Block | None, slot: SlotId) -> tuple[str, ...]:
    if block is None:
        return ()
    found = []
    ends = [entry.until for entry in block.cooling if entry.slots & slot.bit and entry.until > cluster.wall]
    if ends:
        found.append(f"cooling for {age(max(ends) - cluster.wall)}")
    if block.suspect & slot.bit:
        found.append(
            "suspect: taken by force, fully probed before its next use, unless `nephila release` says that nobody uses it"
        )
    return tuple(found)


def _judge(
    cluster: Cluster, slot: SlotId, block: Block | None, holders: list[Holding], conflicts: tuple[str, ...]
) -> tuple[str, bool, str]:
    """(state, usable, why)."""
    if holders:
        return _judge_held(holders)
    if block is not None and (pin := _pin_line(block, slot)):
        return "pinned", False, f"it is kept for {pin}"
    pool = cluster.coverage.pool_of(slot)
    if not pool:
        return _judge_outside(cluster, slot)
    owner = cluster.catalog.get(pool)
    if owner is not None and (owner.disable or owner.deleting):
        return "free", False, f"its pool {pool} is {'being deleted' if owner.deleting else 'disabled'}"
    if conflicts:
        return "conflict", False, f"another station uses it: {conflicts[0]}"
    marks = _marks(cluster, block, slot)
    lease = next((lease for lease in block.leases if lease.slots & slot.bit), None) if block else None
    if lease is not None:
        return (
            "leased",
            True,
            (
                f"no pod is recorded with it: {lease.node.name} holds it ready, and gives it back when another node needs it"
            ),
        )
    if marks:
        return marks[0].partition(" ")[0].rstrip(":"), True, f"nobody has it; {'; '.join(marks)}"
    return "free", True, f"nobody has it: any node may lease it for pool {pool}"


def _judge_held(holders: list[Holding]) -> tuple[str, bool, str]:
    first = holders[0]
    if len({holding.uid for holding in holders if holding.alive}) > 1:
        return "double", False, f"several pods are recorded with it: {', '.join(holding.pod for holding in holders)}"
    if first.alive:
        return "allocated", False, f"pod {first.pod} has it"
    return "leftover", False, f"{first.source} {first.pod} names it, but that pod is gone (see `nephila release`)"


def _judge_outside(cluster: Cluster, slot: SlotId) -> tuple[str, bool, str]:
    claimants = _claimants(cluster, slot)
    if reservers := _reservers(cluster, slot):
        return "reserved", False, f"SpiderReservedIP {some(reservers)} withholds it"
    for pool in claimants:
        if why := _exclusion(cluster, pool, slot):
            return "excluded", False, f"pool {pool.name} does not hand it out{why}"
    for pool in cluster.catalog:
        if pool.domain == slot.domain and slot.address in pool.subnet:
            if pool.gateway == slot.address:
                return "gateway", False, f"it is the gateway of pool {pool.name}"
            return "outside", False, f"it is not in spec.ips of any pool of subnet {pool.subnet}"
    return "unknown", False, "no pool and no subnet of a pool contains it"


def story_text(story: AddressStory) -> str:
    """For people."""
    domain = f" in L2 domain {story.domain}" if story.domain else ""
    pod = f"{story.pod} {story.interface}, UID {story.pod_uid}" if story.pod else ""
    return f"{story.address}{domain}: {story.state}\n" + facts(
        [
            ("why", story.why),
            ("pod", pod),
            ("node", story.node),
            ("recorded by", story.recorded_by),
            ("pool", ", ".join(story.pools)),
            ("block", f"{story.block}, slot {story.slot}" if story.block else ""),
            ("lease", story.lease),
            ("pin", story.pin),
            ("marks", "; ".join(story.marks)),
            ("conflict", "; ".join(story.conflicts)),
            ("usable", "yes" if story.usable else "no"),
        ]
    )


def mac_text(seen: MacSeen) -> str:
    """For people."""
    listed = ", ".join(seen.addresses)
    return f"{seen.mac}: {seen.whose}\n" + facts([("addresses", listed), ("known from", seen.known_from)])
