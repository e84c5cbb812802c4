"""Which addresses of a running Spiderpool cluster Nephila takes over, and how. Pure.

Every address that a living pod has becomes a *pin*: a slot of its block that nobody may allocate, with the pod as its holder. Not a lease: a lease
says what a node's agent may hand out, and an agent that did not allocate an address itself would take it for free. Pods are not touched. The leader
ends the pin of a pod that is gone (so do applying the plan again, and `nephila release`); from then on the address is the pool's like any other,
and probed before its first use.

A pod of a StatefulSet keeps its identity, so its address stays with it from then on, also while it does not run. So does a KubeVirt machine that runs
when the plan is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from cli.cluster import ENDPOINT_SOURCE, Cluster, parsed
from cli.output import Record
from crds.convert import ordinals
from crds.core import Pod, StatefulSet
from crds.identities import KUBEVIRT, MACHINE
from crds.meta import UNSET
from ipam.blocks import Block, Holder, Pin, PinOwner
from ipam.owners import is_wanted_ordinal
from ipam.slots import Page, SlotId

FIRST_INTERFACE = "eth0"
POD_IDENTITY = "Pod"


class Adopted(Record):
    """`running` False: kept for a pod of a StatefulSet that does not run now."""

    address: str
    pool: str
    pod: str
    interface: str
    node: str
    identity: str
    running: bool


class Refused(Record):
    """`blocking`: a pool could hand this address out a second time, so nothing is written before it is put right."""

    address: str
    pod: str
    reason: str
    fix: str
    blocking: bool


class Plan(Record):
    """`dropped`: addresses whose pods are gone; they become free. `ended`: pins of an earlier run whose pods are gone.

    `present`: addresses that Nephila knows already. `blocks`: to be written.
    """

    adopted: tuple[Adopted, ...]
    refused: tuple[Refused, ...]
    dropped: tuple[str, ...]
    ended: tuple[str, ...]
    present: int
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """One record that a pod has an address. `interface` "" if the record does not say."""

    slot: SlotId
    pool: str
    namespace: str
    name: str
    uid: str
    interface: str
    source: str

    @property
    def pod(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan, and what each block gains and loses: pins by page."""

    plan: Plan
    pins: Mapping[Page, tuple[Pin, ...]]
    ended: Mapping[Page, tuple[Pin, ...]]


def plan(cluster: Cluster, sets: Sequence[StatefulSet]) -> Planned:
    """What to adopt, from SpiderIPPool.status.allocatedIPs, SpiderEndpoints and podIPs, which must agree."""
    claims: dict[SlotId, list[Claim]] = {}
    unreadable = []
    for item in (*_from_endpoints(cluster), *_from_pools(cluster)):
        if isinstance(item, Refused):
            unreadable.append(item)
        else:
            claims.setdefault(item.slot, []).append(item)
    planner = _Planner(cluster, sets)
    planner.refused += unreadable
    for slot in sorted(claims):
        planner.decide(slot, claims[slot])
    return planner.result()


def merged(block: Block, pins: Sequence[Pin], ended: Sequence[Pin] = ()) -> Block:
    """The block with `pins` and without `ended`, under a new epoch; the same object if it is so already.

    Raises ValueError if the slot of a new pin was taken meanwhile.
    """
    kept = tuple(pin for pin in block.pins if pin not in ended)
    missing = [pin for pin in pins if block.pin_at(pin.slot) is None]
    for pin in missing:
        if block.leased >> pin.slot & 1:
            raise ValueError(f"slot {pin.slot} of {block.page.name} was leased meanwhile")
    for pin in pins:
        present = block.pin_at(pin.slot)
        if present is not None and not present.owner.same_identity(pin.owner):
            raise ValueError(f"slot {pin.slot} of {block.page.name} was pinned to {present.owner.name} meanwhile")
    if not missing and kept == block.pins:
        return block
    every = tuple(sorted((*kept, *missing), key=lambda pin: pin.slot))
    return replace(block, pins=every, epoch=block.epoch + 1)


class _Planner:
    def __init__(self, cluster: Cluster, sets: Sequence[StatefulSet]) -> None:
        self._cluster = cluster
        self._sets = {(item.namespace, item.name): item for item in sets}
        self.adopted: list[Adopted] = []
        self.refused: list[Refused] = []
        self.dropped: list[str] = []
        self.present = 0
        self.pins: dict[Page, list[Pin]] = {}

    def result(self) -> Planned:
        pins = {page: tuple(found) for page, found in sorted(self.pins.items())}
        ended = {page: found for page, block in sorted(self._cluster.blocks.items()) if (found := self._ended(block))}
        texts = [
            f"{SlotId(page.domain, page.family, page.base + pin.slot)} (pod {pin.owner.namespace}/{pin.owner.name} is gone)"
            for page, found in ended.items()
            for pin in found
        ]
        made = Plan(
            adopted=tuple(self.adopted),
            refused=tuple(self.refused),
            dropped=tuple(self.dropped),
            ended=tuple(texts),
            present=self.present,
            blocks=tuple(page.name for page in sorted({*pins, *ended})),
        )
        return Planned(made, pins, ended)

    def _ended(self, block: Block) -> tuple[Pin, ...]:
        """Pins of plain pods, which only a migration makes, whose pods are gone."""
        return tuple(
            pin for pin in block.pins if pin.owner.kind == POD_IDENTITY and not self._cluster.is_alive(pin.owner.uid)
        )

    def decide(self, slot: SlotId, claims: Sequence[Claim]) -> None:
        """One address."""
        living = {claim.uid: claim for claim in reversed(claims) if self._cluster.is_alive(claim.uid)}
        if len(living) > 1:
            pods = " and ".join(sorted(claim.pod for claim in living.values()))
            self._refuse(slot, pods, "two living pods are recorded with it", "delete one of them", blocking=True)
        elif living:
            (claim,) = living.values()
            told = next((other for other in claims if other.uid == claim.uid and other.interface), claim)
            self._running(slot, told, self._cluster.pod_of_uid[claim.uid])
        else:
            self._gone(slot, claims[0])

    def _running(self, slot: SlotId, claim: Claim, pod: Pod) -> None:
        ips = {address.value for item in pod.status.pod_ips or () if (address := parsed(item.ip))}
        interface = claim.interface or (FIRST_INTERFACE if slot.value in ips else "")
        if not interface:
            self._refuse(
                slot,
                claim.pod,
                "no SpiderEndpoint says which interface has it",
                "restart the pod under Spiderpool, or delete the record",
                blocking=True,
            )
        elif interface == FIRST_INTERFACE and ips and slot.value not in ips:
            shown = ", ".join(item.ip for item in pod.status.pod_ips or ())
            fix = "restart the pod under Spiderpool, so that record and pod agree"
            self._refuse(slot, claim.pod, f"the pod runs with {shown} instead", fix, blocking=True)
        elif pod.spec.node_name not in self._cluster.node_of_name:
            reason = f"its node {pod.spec.node_name or '(none)'} is not known to the API"
            self._refuse(slot, claim.pod, reason, "delete the pod, or bring the node back", blocking=True)
        else:
            holder = Holder(pod.spec.node_name, pod.uid)
            self._adopt(slot, claim, interface, self._identity(pod, interface), holder)

    def _gone(self, slot: SlotId, claim: Claim) -> None:
        """No living pod: kept for a StatefulSet that wants the pod, else dropped."""
        for (namespace, name), found in self._sets.items():
            start, replicas = ordinals(found)
            if namespace == claim.namespace and is_wanted_ordinal(
                claim.name, set_name=name, start=start, replicas=replicas
            ):
                interface = claim.interface or FIRST_INTERFACE
                owner = PinOwner("StatefulSet", namespace, claim.name, interface, found.uid)
                self._adopt(slot, claim, interface, owner, None)
                return
        self.dropped.append(f"{slot} (pod {claim.pod} is gone)")

    def _identity(self, pod: Pod, interface: str) -> PinOwner:
        top = pod.controller
        if top is not None and top.kind == "StatefulSet" and top.api_version.startswith("apps/"):
            return PinOwner("StatefulSet", pod.namespace, pod.name, interface, top.uid)
        if top is not None and top.kind == MACHINE and top.api_version.startswith(f"{KUBEVIRT}/"):
            return PinOwner(MACHINE, pod.namespace, top.name, interface, top.uid)
        return PinOwner(POD_IDENTITY, pod.namespace, pod.name, interface, pod.uid)

    def _adopt(self, slot: SlotId, claim: Claim, interface: str, owner: PinOwner, holder: Holder | None) -> None:
        pools = [
            pool.name
            for pool in self._cluster.catalog
            if pool.domain == slot.domain and pool.family is slot.family and slot.value in pool.ips
        ]
        if not pools:
            fix = "add it to spec.ips of a pool, or leave it: nobody hands it out"
            self._refuse(slot, claim.pod, "no pool's spec.ips holds it", fix, blocking=False)
            return
        node = holder.node if holder else ""
        if self._is_known(slot, claim, owner, node):
            return
        pin = Pin(slot.value - slot.page.base, owner, holder)
        self.pins.setdefault(slot.page, []).append(pin)
        self.adopted.append(
            Adopted(
                address=str(slot),
                pool=claim.pool if claim.pool in pools else pools[0],
                pod=claim.pod,
                interface=interface,
                node=node,
                identity=f"{owner.kind} {owner.namespace}/{owner.name}",
                running=holder is not None,
            )
        )

    def _is_known(self, slot: SlotId, claim: Claim, owner: PinOwner, node: str) -> bool:
        """Whether a block speaks of the address already: as this plan would, or in a way that forbids it (then it is refused)."""
        block = self._cluster.blocks.get(slot.page)
        if slot.page.name in self._cluster.block_errors:
            self._refuse(
                slot, claim.pod, f"IPBlock {slot.page.name} cannot be understood", "see `nephila fsck`", blocking=True
            )
            return True
        if block is None:
            return False
        pin = block.pin_at(slot.value - slot.page.base)
        if pin is not None:
            if pin.owner.same_identity(owner):
                self.present += 1
            else:
                other = f"{pin.owner.kind} {pin.owner.namespace}/{pin.owner.name}"
                self._refuse(slot, claim.pod, f"it is pinned to {other}", "delete one of the two pods", blocking=True)
            return True
        lease = next((lease for lease in block.leases if lease.slots & slot.bit), None)
        if lease is None:
            return False
        if lease.node.name == node:
            self.present += 1
        else:
            reason = f"Nephila has leased it to node {lease.node.name} already"
            self._refuse(slot, claim.pod, reason, "drain that node's agent, then plan again", blocking=True)
        return True

    def _refuse(self, slot: SlotId, pod: str, reason: str, fix: str, *, blocking: bool) -> None:
        self.refused.append(Refused(address=str(slot), pod=pod, reason=reason, fix=fix, blocking=blocking))


def _from_endpoints(cluster: Cluster) -> Iterator[Claim]:
    """SpiderEndpoints first, since they name the interface; then podIPs that nothing else records."""
    for holding in cluster.holdings:
        yield Claim(
            holding.slot,
            holding.pool,
            holding.namespace,
            holding.name,
            holding.uid,
            holding.interface,
            holding.source if holding.source == ENDPOINT_SOURCE else "podIPs",
        )


def _from_pools(cluster: Cluster) -> Iterator[Claim | Refused]:
    for stored in cluster.stored_pools:
        text = stored.status.allocated_ips if stored.status is not UNSET else UNSET
        if not text:
            continue
        pool = cluster.catalog.get(stored.name)
        try:
            records: Any = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            records = error
        if pool is None or not isinstance(records, dict):
            why = "the pool cannot be understood" if pool is None else "status.allocatedIPs is not a JSON object"
            yield Refused(address="", pod=f"SpiderIPPool {stored.name}", reason=why, fix="correct it", blocking=True)
            continue
        for ip, record in sorted(records.items()):
            address = parsed(ip)
            pod = str(record.get("pod", "")) if isinstance(record, dict) else ""
            namespace, _, name = pod.partition("/")
            if address is None or not name:
                reason = f"status.allocatedIPs of pool {stored.name} has an entry that says nothing"
                yield Refused(address=ip, pod=pod, reason=reason, fix="correct it", blocking=True)
                continue
            slot = SlotId(pool.domain, address.family, address.value)
            uid = str(record.get("podUid", ""))
            yield Claim(slot, stored.name, namespace, name, uid, "", f"SpiderIPPool {stored.name}")
