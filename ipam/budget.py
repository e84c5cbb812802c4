"""Where the addresses of a pool are: what is withheld, what is in use, what is free and where it lies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ipam.blocks import Block
from ipam.pools import Pool
from ipam.ranges import RangeSet


@dataclass(frozen=True, slots=True)
class Budget:
    """Disjoint parts of one pool's addresses, as far as the API tells.

    `effective` = `used` + `pinned` + `disputed` + `free`; of `free`, `warm` is leased by some node, `cooling` and `suspect` need a probe or time,
    and the rest belongs to nobody.
    """

    reserved: RangeSet  # usable, but withheld by SpiderReservedIPs
    lost: RangeSet  # usable, but an older pool also claims them
    effective: RangeSet
    used: RangeSet
    pinned: RangeSet  # for identities that do not run now
    disputed: RangeSet  # seen in use by a station that is not ours
    free: RangeSet
    warm: RangeSet
    cooling: RangeSet
    suspect: RangeSet

    @property
    def unleased(self) -> RangeSet:
        return self.free - self.warm - self.cooling - self.suspect


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the addresses of one family and L2 domain; the sets may hold addresses of other pools too.

    `withheld`: by SpiderReservedIPs. `held`: recorded with pods. `disputed`: seen in use by others. `blocks`: those with addresses of the pool, and
    the mask of its slots there. `wall`: Unix seconds.
    """

    withheld: RangeSet
    held: RangeSet
    disputed: RangeSet
    blocks: Iterable[tuple[Block, int]]
    wall: float


def divide(pool: Pool, effective: RangeSet, seen: Seen) -> Budget:
    """O(blocks of the pool + uses), whatever the pool's size. `effective`: what the pool may hand out."""
    used = seen.held & effective
    parts: dict[str, list[tuple[int, int]]] = {"leased": [], "pinned": [], "suspect": [], "cooling": []}
    for block, mask in seen.blocks:
        masks = {
            "leased": block.leased,
            "pinned": block.pinned,
            "suspect": block.suspect,
            "cooling": block.cooling_at(seen.wall),
        }
        for name, slots in masks.items():
            if slots & mask:
                parts[name] += RangeSet.from_mask(pool.family, block.page.base, slots & mask).spans
    leased, pinned, suspect, cooling = (RangeSet.of(pool.family, parts[name]) for name in parts)
    pinned -= used
    disputed = (seen.disputed & effective) - used - pinned
    free = effective - used - pinned - disputed
    return Budget(
        reserved=pool.usable & seen.withheld,
        lost=pool.usable - seen.withheld - effective,
        effective=effective,
        used=used,
        pinned=pinned,
        disputed=disputed,
        free=free,
        suspect=suspect & free,
        cooling=(cooling & free) - suspect,
        warm=((leased & free) - suspect) - cooling,
    )
