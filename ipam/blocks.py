"""Blocks: who may allocate the slots of one page.

Invariant I1, one owner: a slot is in at most one lease of its block, and (by `Page.name`) an address has exactly one slot. Everything in this
module is a frozen value; `ipam.lease` makes one block from another, and one compare-and-swap on the `IPBlock` object makes it true.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipam.slots import ALL_SLOTS, PAGE_SIZE, Page, format_slots


@dataclass(frozen=True, slots=True)
class NodeRef:
    """A node and the UID of its Node object: a node that is deleted and re-created under the same name is another holder."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The slots of one block that one node may allocate. `epoch`: the block's epoch at the last write that touched this lease."""

    node: NodeRef
    slots: int
    epoch: int


@dataclass(frozen=True, slots=True)
class PinOwner:
    """The identity a slot is reserved for, e.g. StatefulSet pod default/web-0 on eth0. `uid` is that of the pod's controller, "" if unknown."""

    kind: str
    namespace: str
    name: str
    interface: str
    uid: str = ""

    def same_identity(self, other: PinOwner) -> bool:
        """Equal but for the controller's UID: a StatefulSet deleted and created anew keeps its addresses."""
        mine = (self.kind, self.namespace, self.name, self.interface)
        return mine == (other.kind, other.namespace, other.name, other.interface)


@dataclass(frozen=True, slots=True)
class Holder:
    """Where a pinned identity runs now."""

    node: str
    pod_uid: str


@dataclass(frozen=True, slots=True)
class Pin:
    """A slot reserved for one identity (invariant I6). `holder` is None after DEL: then any node may move the pin to itself.

    `source` is set during a live migration only: the pod that the machine comes from, whose sandbox keeps the address until its DEL. The lease is the
    holder's node's; one machine runs in one of the two sandboxes at a time, and nobody else may have the address (I4). `source` equal to `holder`:
    the migration failed, and the machine is where it was, without a lease.
    """

    slot: int
    owner: PinOwner
    holder: Holder | None = None
    source: Holder | None = None

    @property
    def seats(self) -> tuple[Holder, ...]:
        """Every pod that may have the address now."""
        return tuple(dict.fromkeys(seat for seat in (self.holder, self.source) if seat is not None))

    @property
    def is_shared(self) -> bool:
        """Whether two sandboxes of one machine may have the address now: a live migration is under way."""
        return self.source not in (None, self.holder)

    def seats_pod(self, pod_uid: str) -> bool:
        """Whether the pod may have the address."""
        return any(seat.pod_uid == pod_uid for seat in self.seats)


@dataclass(frozen=True, slots=True)
class Cooling:
    """Slots that must not be reused before `until` (Unix seconds): cooldown belongs to the address and travels with it."""

    slots: int
    until: float


@dataclass(frozen=True, slots=True)
class Block:
    """One page's leases, pins and marks. `epoch` grows at every change; `term` is that of the last leader that wrote it."""

    page: Page
    leases: tuple[Lease, ...] = ()
    pins: tuple[Pin, ...] = ()
    suspect: int = 0
    cooling: tuple[Cooling, ...] = ()
    epoch: int = 0
    term: int = 0

    @property
    def leased(self) -> int:
        """Mask of all slots that are in some lease."""
        mask = 0
        for lease in self.leases:
            mask |= lease.slots
        return mask

    @property
    def free(self) -> int:
        """Mask of the slots that are in no lease."""
        return ALL_SLOTS & ~self.leased

    @property
    def pinned(self) -> int:
        mask = 0
        for pin in self.pins:
            mask |= 1 << pin.slot
        return mask

    def cooling_at(self, wall: float) -> int:
        """Mask of the slots that are still cooling at `wall` (Unix seconds)."""
        mask = 0
        for entry in self.cooling:
            if entry.until > wall:
                mask |= entry.slots
        return mask

    def lease_of(self, node: NodeRef) -> Lease | None:
        return next((lease for lease in self.leases if lease.node == node), None)

    def leases_named(self, node: str) -> tuple[Lease, ...]:
        """The leases of every node object of that name, re-created ones included."""
        return tuple(lease for lease in self.leases if lease.node.name == node)

    def pin_at(self, slot: int) -> Pin | None:
        return next((pin for pin in self.pins if pin.slot == slot), None)

    def is_shared(self, slot: int) -> bool:
        """`Pin.is_shared` of the slot's pin, if it has one."""
        pin = self.pin_at(slot)
        return pin is not None and pin.is_shared

    def pin_of(self, owner: PinOwner) -> Pin | None:
        return next((pin for pin in self.pins if pin.owner.same_identity(owner)), None)

    def is_disposable(self, wall: float) -> bool:
        """True if an absent object would say the same: no lease, pin, suspect or still cooling slot."""
        return not (self.leases or self.pins or self.suspect or self.cooling_at(wall))

    def problems(self) -> tuple[str, ...]:
        """What is inconsistent within this block alone, in words; empty if nothing is. The predicate behind I1 and I6."""
        found: list[str] = []
        seen = 0
        for lease in self.leases:
            if overlap := seen & lease.slots:
                found.append(f"I1: slots {format_slots(overlap)} are in two leases, one of them {lease.node.name}'s")
            seen |= lease.slots
            if not lease.slots:
                found.append(f"lease of {lease.node.name} holds no slot")
            if lease.epoch > self.epoch:
                found.append(f"lease of {lease.node.name} has epoch {lease.epoch}, above the block's {self.epoch}")
        if len({lease.node for lease in self.leases}) != len(self.leases):
            found.append("I1: one node has two leases")
        pinned = [pin.slot for pin in self.pins]
        if len(set(pinned)) != len(pinned):
            found.append("I6: one slot is pinned twice")
        if any(pin.source is not None and pin.holder is None for pin in self.pins):
            found.append("I6: a pin has a migration source, but no holder")
        if any(not 0 <= slot < PAGE_SIZE for slot in pinned):
            found.append("a pin names a slot outside 0-63")
        return tuple(found)
