"""`IPBlock` objects ↔ `ipam.blocks.Block` values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from crds import nephila as wire
from crds.meta import UNSET, ObjectMeta, UnsetType
from ipam.blocks import Block, Cooling, Holder, Lease, NodeRef, Pin, PinOwner
from ipam.errors import BadValue
from ipam.slots import Page, format_slots, parse_slots


def block_from_wire(stored: wire.IPBlock) -> Block:
    """The domain value of a stored block.

    Raises BadValue naming the field if the object was edited into something that means nothing, or that breaks I1: nobody may allocate
    from a block that cannot be read.
    """
    spec = stored.spec
    try:
        block = Block(
            page=Page.parse(spec.page, spec.domain),
            leases=tuple(
                Lease(NodeRef(entry.node, entry.node_uid), parse_slots(entry.slots), entry.epoch)
                for entry in spec.leases
            ),
            pins=tuple(_pin_from_wire(entry) for entry in spec.pins),
            suspect=parse_slots(spec.suspect),
            cooling=tuple(Cooling(parse_slots(entry.slots), entry.until.timestamp()) for entry in spec.cooling),
            epoch=spec.epoch,
            term=spec.term,
        )
    except BadValue as error:
        raise error.within(f"IPBlock {stored.name}") from error
    if stored.name != block.page.name:
        raise BadValue(
            f"IPBlock {stored.name}", f"its page {spec.page} belongs to {block.page.name}", "delete the misnamed object"
        )
    if problems := block.problems():
        raise BadValue(f"IPBlock {stored.name}", "; ".join(problems), "see `nephila fsck`")
    return block


def block_to_wire(block: Block) -> wire.IPBlock:
    """A new object for a block, to be created."""
    return wire.IPBlock(metadata=ObjectMeta(name=block.page.name), spec=_spec(block))


def block_changes(block: Block) -> dict[str, Any]:
    """A merge patch that makes the stored block equal `block`. Fields of `spec` that this version does not know stay."""
    spec: dict[str, Any] = {"leases": [], "pins": [], "suspect": "", "cooling": []}
    spec.update(msgspec.to_builtins(_spec(block)))
    del spec["page"]
    spec.pop("domain", None)
    return {"spec": spec}


def _spec(block: Block) -> wire.IPBlockSpec:
    return wire.IPBlockSpec(
        page=block.page.cidr,
        domain=block.page.domain,
        epoch=block.epoch,
        term=block.term,
        leases=tuple(
            wire.LeaseEntry(
                node=lease.node.name, node_uid=lease.node.uid, slots=format_slots(lease.slots), epoch=lease.epoch
            )
            for lease in block.leases
        ),
        pins=tuple(_pin_to_wire(pin) for pin in block.pins),
        suspect=format_slots(block.suspect),
        cooling=tuple(
            wire.CoolingEntry(slots=format_slots(entry.slots), until=datetime.fromtimestamp(entry.until, UTC))
            for entry in block.cooling
        ),
    )


def _pin_from_wire(entry: wire.PinEntry) -> Pin:
    owner = entry.owner
    named = PinOwner(owner.kind, owner.namespace, owner.name, owner.interface, owner.uid)
    return Pin(entry.slot, named, _seat_from_wire(entry.holder), _seat_from_wire(entry.source))


def _seat_from_wire(seat: wire.PinHolder | UnsetType) -> Holder | None:
    return None if seat is UNSET else Holder(seat.node, seat.pod_uid)


def _seat_to_wire(seat: Holder | None) -> wire.PinHolder | UnsetType:
    return UNSET if seat is None else wire.PinHolder(node=seat.node, pod_uid=seat.pod_uid)


def _pin_to_wire(pin: Pin) -> wire.PinEntry:
    owner = pin.owner
    return wire.PinEntry(
        slot=pin.slot,
        owner=wire.PinOwner(
            kind=owner.kind, namespace=owner.namespace, name=owner.name, interface=owner.interface, uid=owner.uid
        ),
        holder=_seat_to_wire(pin.holder),
        source=_seat_to_wire(pin.source),
    )
