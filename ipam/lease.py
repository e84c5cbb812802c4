"""The lease protocol: every change of ownership is one function from a `Block` to a `Block`, made true by one compare-and-swap.

Rules that hold for every function here:

- The result's `epoch` is one above the input's, and the epoch of each lease that was touched equals it. An unchanged block is returned as the
  same object, so `new is old` means that there is nothing to write.
- What may not be done raises `LeaseRefused`: the caller's picture of the block is out of date; it re-reads and decides again.
- A leader's functions take its `term`; a term below the block's is refused here as the API server's CEL rule refuses it there (I9).
- Nothing here knows time, randomness or I/O: `wall` (Unix seconds) and `seed` are arguments.

What this does *not* guarantee: that a holder is alive. Forced reclaim is safe only behind the fence mark and the wait of `ipam.reclaim`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from ipam.blocks import Block, Cooling, Holder, Lease, NodeRef, Pin, PinOwner
from ipam.slots import Page, format_slots, lowest_from

# Of a new block's first epoch: random, so that a re-created block cannot repeat one, and far below 2**53 (JSON).
SEED_BITS = 48


class LeaseRefused(Exception):
    """The change does not fit the block as it is now. Re-read the block, then decide again."""


def new_block(page: Page, seed: int) -> Block:
    """The block of a page that has no object yet: all its addresses are free. `seed`: SEED_BITS random bits."""
    if not 0 <= seed < 1 << SEED_BITS:
        raise ValueError(f"seed {seed} does not fit {SEED_BITS} bits")
    return Block(page=page, epoch=seed)


def choose_free(block: Block, usable: int, count: int, start: int, wall: float) -> int:
    """Up to `count` slots that a node may claim for ordinary demand: usable, free, not pinned, not suspect, not cooling at `wall`."""
    ready = block.free & usable & ~block.pinned & ~block.suspect & ~block.cooling_at(wall)
    return lowest_from(ready, start, count)


def choose_last_resort(block: Block, usable: int, count: int, wall: float, provable: int) -> int:
    """Up to `count` slots for a starving node: cooling ones, oldest first, then suspect ones, each of which needs a full probe before use (I5):
    only those that the node can probe, `provable`.
    """
    open_slots = block.free & usable & ~block.pinned
    chosen = 0
    for entry in sorted(block.cooling, key=lambda entry: entry.until):
        chosen |= lowest_from(
            entry.slots & block.cooling_at(wall) & open_slots & ~block.suspect & ~chosen, 0, count - chosen.bit_count()
        )
    return chosen | lowest_from(block.suspect & provable & open_slots & ~chosen, 0, count - chosen.bit_count())


def claim(block: Block, node: NodeRef, slots: int) -> Block:
    """Move free slots into the node's lease. Refused if one of them is leased or pinned. Suspect and cooling marks stay with the slot."""
    if not slots:
        return block
    if taken := slots & ~block.free:
        raise LeaseRefused(f"slots {format_slots(taken)} of {block.page.name} are leased already")
    if pinned := slots & block.pinned:
        raise LeaseRefused(f"slots {format_slots(pinned)} of {block.page.name} are pinned")
    return _add_to_lease(block, node, slots)


def regain(block: Block, node: NodeRef, slots: int) -> Block:
    """Slots that sandboxes of this node never ceased to use come back into its lease, as far as nobody has them: a leader had taken them by force.

    They are suspect no longer: whom the leader suspected is the node itself, and it had probed them before its sandboxes got them.
    A pinned one comes back if a pod of this node holds the pin, and none migrates.
    """
    own = sum(1 << pin.slot for pin in block.pins if pin.holder and pin.holder.node == node.name and pin.source is None)
    free = slots & block.free & (~block.pinned | own)
    if not free:
        return block
    return _add_to_lease(replace(block, suspect=block.suspect & ~free), node, free)


def give_back(block: Block, node: NodeRef, slots: int, cooling: Iterable[Cooling] = ()) -> Block:
    """Take slots out of the node's lease; those not in it are ignored, so that a repeat after an unknown outcome is harmless.

    The caller has journalled, durably, that it will not allocate them any more. `cooling`: what is left of their cooldown. A pinned slot
    leaves with its pin: the pin stays, without a lease and without this node's pod, until the identity's next node moves it. A pod that a
    machine has migrated away from leaves no more than its seat: the lease is the target's by then.
    """
    lease = block.lease_of(node)
    leaving = slots & lease.slots if lease else 0
    without = _take_from_lease(block, lease, leaving, cooling) if leaving and lease is not None else block
    pins = tuple(_without_node(pin, node.name) if slots >> pin.slot & 1 else pin for pin in block.pins)
    if pins == block.pins:
        return without
    return replace(without, pins=pins) if without is not block else _touch(replace(block, pins=pins), node)


def retake(block: Block, node: NodeRef, former: NodeRef, remembered_epoch: int) -> Block:
    """The holder's answer to a fence mark, or to a changed Node UID: the same slots under a new epoch, so that no older decision fits.

    Refused if the lease is gone or has another epoch than the holder remembers: the leader took slots; the holder must re-read what is left.
    """
    lease = block.lease_of(former)
    if lease is None or lease.epoch != remembered_epoch:
        raise LeaseRefused(
            f"the lease of {former.name} on {block.page.name} is not as remembered (epoch {remembered_epoch})"
        )
    mine = block.lease_of(
        node
    )  # under the present Node UID already, while another is left under the former: they become one
    kept = replace(block, leases=tuple(other for other in block.leases if other not in (lease, mine)))
    return _add_to_lease(kept, node, lease.slots | (mine.slots if mine else 0))


def reclaim(block: Block, lease: Lease, slots: int, term: int) -> Block:
    """The leader takes slots by force from `lease`, as remembered *before* its fence mark was written. They become suspect (I5).

    Refused if the holder has written its lease since (epochs differ: it is alive), or a later leader has written the block. Pinned slots
    lose the holder's lease but keep their pin.
    """
    if term < block.term:
        raise LeaseRefused(f"term {term} is older than the block's {block.term}")
    current = block.lease_of(lease.node)
    if current is None or current.epoch != lease.epoch:
        raise LeaseRefused(f"the lease of {lease.node.name} on {block.page.name} changed since it was remembered")
    taken = slots & current.slots
    if not taken:
        return block
    without = _take_from_lease(block, current, taken, ())
    return replace(without, suspect=without.suspect | taken, term=term)


def clear_suspect(block: Block, node: NodeRef, slots: int) -> Block:
    """The holder has fully probed these suspect slots and found them silent. Only slots of its own lease can be cleared."""
    lease = block.lease_of(node)
    cleared = slots & block.suspect & (lease.slots if lease else 0)
    if not cleared:
        return block
    return _touch(replace(block, suspect=block.suspect & ~cleared), node)


def absolve(block: Block, slots: int) -> Block:
    """An operator states that nobody uses these suspect slots, so that no probe need show it. Pins stay. Refused if one of them is leased: its holder
    may be probing it.
    """
    cleared = slots & block.suspect
    if leased := cleared & block.leased:
        raise LeaseRefused(f"slots {format_slots(leased)} of {block.page.name} are leased")
    return replace(block, suspect=block.suspect & ~cleared, epoch=block.epoch + 1) if cleared else block


def forget_expired(block: Block, wall: float) -> Block:
    """Drop cooling entries that are over. Does not count as a change by itself: writers call it on what they write anyway."""
    cooling = tuple(entry for entry in block.cooling if entry.until > wall)
    return block if len(cooling) == len(block.cooling) else replace(block, cooling=cooling)


def pin(block: Block, node: NodeRef, slot: int, owner: PinOwner, holder: Holder) -> Block:
    """Reserve a slot of the node's own lease for an identity that starts on it now.

    A pin on another slot that an earlier start made and nobody has ends here: an identity has one address. Refused if a pod may still have that one.
    """
    lease = block.lease_of(node)
    if lease is None or not lease.slots >> slot & 1:
        raise LeaseRefused(f"slot {slot} of {block.page.name} is not in {node.name}'s lease")
    present = block.pin_at(slot)
    if present is not None and not present.owner.same_identity(owner):
        raise LeaseRefused(
            f"slot {slot} of {block.page.name} is pinned to {present.owner.namespace}/{present.owner.name}"
        )
    wanted = Pin(slot, owner, holder)
    if present == wanted:
        return block
    for other in block.pins:
        if other.slot != slot and other.owner.same_identity(owner) and other.seats:
            raise LeaseRefused(f"{owner.namespace}/{owner.name} has slot {other.slot} of {block.page.name} already")
    pins = (*(other for other in block.pins if other.slot != slot and not other.owner.same_identity(owner)), wanted)
    return _touch(replace(block, pins=_ordered(pins)), node)


def move_pin(block: Block, owner: PinOwner, node: NodeRef, holder: Holder, displaced: Collection[Holder] = ()) -> Block:
    """Bring an identity's pinned slot to the node where it runs now: holder and lease change together, in one compare-and-swap.

    `displaced`: the pods that the caller has found to be gone (UID gone from the API *and* the address silent). Refused if another pod than
    those and the new one itself may still have the address.
    """
    present = _pin_to_move(block, owner)
    for seat in present.seats:
        if seat not in displaced and seat.pod_uid != holder.pod_uid:
            raise LeaseRefused(
                f"the pin of {owner.namespace}/{owner.name} is held by pod {seat.pod_uid} on {seat.node}"
            )
    return _bring(block, present, node, Pin(present.slot, owner, holder))


def share_pin(block: Block, owner: PinOwner, node: NodeRef, holder: Holder, source: Holder) -> Block:
    """A machine migrates live: its pin and lease move to the target's node as in `move_pin`, and the source keeps a seat until its DEL.

    The caller has found that both pods are of one machine, that the source lives, and that the migration is under way. Refused if the pin is not
    held by `source` any more, or if a third pod still has a seat.
    """
    present = _pin_to_move(block, owner)
    if (present.holder, present.source) == (holder, source):
        return _bring(block, present, node, present)
    if present.holder != source or present.is_shared:
        others = " and ".join(f"pod {seat.pod_uid} on {seat.node}" for seat in present.seats)
        raise LeaseRefused(f"the pin of {owner.namespace}/{owner.name} is held by {others or 'nobody'}")
    if source.node == node.name:
        raise LeaseRefused(f"a machine cannot migrate from {source.node} to itself")
    return _bring(block, present, node, Pin(present.slot, owner, holder, source))


def _pin_to_move(block: Block, owner: PinOwner) -> Pin:
    present = block.pin_of(owner)
    if present is None:
        raise LeaseRefused(f"{owner.namespace}/{owner.name} has no pin on {block.page.name}")
    return present


def _bring(block: Block, present: Pin, node: NodeRef, wanted: Pin) -> Block:
    """The lease's epoch grows even where nothing else changes: who waits for evidence about this seat sees that a start is under way."""
    bit = 1 << present.slot
    moved = block
    for lease in block.leases:
        if lease.slots & bit and lease.node != node:
            moved = _take_from_lease(moved, lease, bit, ())
    mine = moved.lease_of(node)
    if mine is None or not mine.slots & bit:
        moved = _add_to_lease(moved, node, bit)
    pins = (*(other for other in moved.pins if other.slot != present.slot), wanted)
    return _touch(replace(moved, pins=_ordered(pins)), node) if moved is block else replace(moved, pins=_ordered(pins))


def vacate_pin(block: Block, node: NodeRef, slot: int, pod_uid: str) -> Block:
    """The pod is gone from this node: the pin stays, without it. Ignored if only other pods hold it by now."""
    present = block.pin_at(slot)
    if present is None or not present.seats_pod(pod_uid):
        return block
    left = _seated(present, tuple(seat for seat in present.seats if seat.pod_uid != pod_uid))
    pins = tuple(left if other is present else other for other in block.pins)
    return _touch(replace(block, pins=pins), node)


def unpin(block: Block, slot: int, owner: PinOwner, term: int) -> Block:
    """The leader ends a pin whose identity is gone. Ignored if the slot is pinned to someone else or not at all."""
    if term < block.term:
        raise LeaseRefused(f"term {term} is older than the block's {block.term}")
    present = block.pin_at(slot)
    if present is None or not present.owner.same_identity(owner):
        return block
    for seat in present.seats:
        raise LeaseRefused(f"slot {slot} of {block.page.name} is still held by pod {seat.pod_uid}")
    pins = tuple(other for other in block.pins if other is not present)
    return replace(block, pins=pins, epoch=block.epoch + 1, term=term)


def _without_node(pin: Pin, node: str) -> Pin:
    return _seated(pin, tuple(seat for seat in pin.seats if seat.node != node))


def _seated(pin: Pin, seats: tuple[Holder, ...]) -> Pin:
    """The pin with these of its pods. Where the target of a migration is gone, the machine is where it came from, and has no lease there."""
    if seats == pin.seats:
        return pin
    came_back = pin.is_shared and seats == (pin.source,)
    return replace(pin, holder=seats[0] if seats else None, source=pin.source if came_back else None)


def _ordered(pins: Iterable[Pin]) -> tuple[Pin, ...]:
    return tuple(sorted(pins, key=lambda pin: pin.slot))


def _touch(block: Block, node: NodeRef) -> Block:
    """Raise the epoch of the block and of the node's lease, if it has one."""
    epoch = block.epoch + 1
    leases = tuple(replace(lease, epoch=epoch) if lease.node == node else lease for lease in block.leases)
    return replace(block, leases=leases, epoch=epoch)


def _add_to_lease(block: Block, node: NodeRef, slots: int) -> Block:
    epoch = block.epoch + 1
    mine = block.lease_of(node)
    grown = Lease(node, slots | (mine.slots if mine else 0), epoch)
    others = tuple(lease for lease in block.leases if lease is not mine)
    leases = tuple(sorted((*others, grown), key=lambda lease: (lease.node.name, lease.node.uid)))
    return replace(block, leases=leases, epoch=epoch)


def _take_from_lease(block: Block, lease: Lease, slots: int, cooling: Iterable[Cooling]) -> Block:
    epoch = block.epoch + 1
    rest = replace(lease, slots=lease.slots & ~slots, epoch=epoch)
    leases = tuple(rest if other == lease else other for other in block.leases)
    kept = [Cooling(entry.slots & ~slots, entry.until) for entry in block.cooling]
    arriving = [Cooling(entry.slots & slots, entry.until) for entry in cooling]
    return replace(
        block,
        leases=tuple(other for other in leases if other.slots),
        cooling=tuple(sorted((e for e in (*kept, *arriving) if e.slots), key=lambda e: (e.until, e.slots))),
        epoch=epoch,
    )
