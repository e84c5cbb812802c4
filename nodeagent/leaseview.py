"""What a node last saw of its leases, and the questions that are answered from it without asking the API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adapters.journal import LeaseRecord
from ipam.blocks import Block, NodeRef, PinOwner
from ipam.slots import Page, SlotId


@dataclass(frozen=True, slots=True)
class Seen:
    """A block as this node last read or wrote it; `resource_version` "" if no object exists."""

    block: Block
    resource_version: str


class LeaseView:
    """`me`: this node. `_mine`: the blocks in which it has a lease; `_recorded`: what the journal says of them."""

    me: NodeRef
    _mine: dict[Page, Seen]
    _recorded: dict[Page, LeaseRecord]

    def leases(self) -> Mapping[Page, Seen]:
        return self._mine

    def pinned_to(self, owner: PinOwner) -> Iterator[SlotId]:
        """The slots of our leases that are pinned to an identity, as last seen."""
        for page, seen in self._mine.items():
            for pin in seen.block.pins:
                if pin.owner.same_identity(owner):
                    yield SlotId(page.domain, page.family, page.base + pin.slot)

    def shared(self) -> list[SlotId]:
        """The slots of our leases whose machines are migrating here, as last seen."""
        return [
            SlotId(page.domain, page.family, page.base + pin.slot)
            for page, seen in self._mine.items()
            for pin in seen.block.pins
            if pin.is_shared and pin.holder is not None and pin.holder.node == self.me.name
        ]

    def is_shared(self, slot: SlotId) -> bool:
        """Whether a live migration is under way, as last seen: the machine's other sandbox may have the address too."""
        seen = self._mine.get(slot.page)
        return seen is not None and seen.block.is_shared(slot.value - slot.page.base)

    def must_leave(self, slot: SlotId) -> bool:
        """Whether a slot may not stay in our stock once its sandbox is gone: it is pinned, or is not in our lease (any more)."""
        seen = self._mine.get(slot.page)
        if seen is None:
            record = self._recorded.get(slot.page)
            return record is None or not record.slots & slot.bit
        current = seen.block.lease_of(self.me)
        return current is None or bool((seen.block.pinned | ~current.slots) & slot.bit)

    def is_pinned(self, slot: SlotId) -> bool:
        """True if the slot is pinned, as last seen; only slots of our leases are known."""
        seen = self._mine.get(slot.page)
        return seen is not None and bool(seen.block.pinned & slot.bit)
