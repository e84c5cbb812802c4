"""Where the addresses of a pool are: what is withheld, what is in use, what is free and where it lies."""

from __future__ import annotations

from dataclasses import dataclass

from cli.cluster import Cluster, parsed
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


def budget(cluster: Cluster, pool: Pool) -> Budget:
    """O(blocks of the pool + uses), whatever the pool's size."""
    effective = cluster.effective[pool.name]
    withheld = cluster.reserved[pool.family]
    used = cluster.held_in(pool.family, pool.domain) & effective
    parts: dict[str, list[tuple[int, int]]] = {"leased": [], "pinned": [], "suspect": [], "cooling": []}
    for block, mask in cluster.blocks_of_pool.get(pool.name, ()):
        masks = {
            "leased": block.leased,
            "pinned": block.pinned,
            "suspect": block.suspect,
            "cooling": block.cooling_at(cluster.wall),
        }
        for name, slots in masks.items():
            parts[name] += RangeSet.from_mask(pool.family, block.page.base, slots & mask).spans
    leased, pinned, suspect, cooling = (RangeSet.of(pool.family, parts[name]) for name in parts)
    pinned -= used
    disputed = (_disputed(cluster, pool) & effective) - used - pinned
    free = effective - used - pinned - disputed
    return Budget(
        reserved=pool.usable & withheld,
        lost=pool.usable - withheld - effective,
        effective=effective,
        used=used,
        pinned=pinned,
        disputed=disputed,
        free=free,
        suspect=suspect & free,
        cooling=(cooling & free) - suspect,
        warm=((leased & free) - suspect) - cooling,
    )


def _disputed(cluster: Cluster, pool: Pool) -> RangeSet:
    spans = []
    for conflict in cluster.conflicts:
        address = parsed(conflict.seen.ip)
        if address is not None and address.family is pool.family and conflict.seen.pool in ("", pool.name):
            spans.append((address.value, address.value))
    return RangeSet.of(pool.family, spans)
