"""What a node may claim when its ADDs would starve: cooling addresses, and those taken by force that it can prove (I5).

A suspect address that no interface of this node is on the segment of would serve nobody here, and keep it from a node that can prove it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ipam import lease
from ipam.blocks import Block
from ipam.ranges import RangeSet
from ipam.slots import SlotId


class LastResort:
    """`can_prove`: whether a probe from this node can find the slot silent."""

    def __init__(self, can_prove: Callable[[SlotId], bool]) -> None:
        self.can_prove = can_prove
        self._passed_over: dict[str, tuple[SlotId, ...]] = {}

    def choose(self, block: Block, usable: int, count: int, _start: int, wall: float) -> int:
        """Up to `count` slots, as a bitmap; see `lease.choose_last_resort`."""
        provable = sum(slot.bit for slot in block.page.slot_ids(block.suspect) if self.can_prove(slot))
        return lease.choose_last_resort(block, usable, count, wall, provable)

    def note(self, pool: str, addresses: RangeSet, blocks: Iterable[Block]) -> None:
        """A claim for starving ADDs got nothing of these blocks: what it left where it is, for want of a probe."""
        self._passed_over[pool] = tuple(
            slot
            for block in blocks
            for slot in block.page.slot_ids(
                block.suspect & block.free & ~block.pinned & addresses.mask(block.page.base)
            )
            if not self.can_prove(slot)
        )

    def passed_over(self, pool: str) -> tuple[SlotId, ...]:
        """The suspect slots of the pool that the last claim in vain found free, and that nothing here can prove."""
        return self._passed_over.get(pool, ())


def release_command(slot: SlotId) -> str:
    """What an operator says who knows that nobody uses a suspect address: its end where nobody can probe it."""
    domain = f" --domain {slot.domain}" if slot.domain else ""
    return f"nephila release {slot.address}{domain} --confirm"
