"""`ipam.budget` of one pool, from the cluster as the CLI read it."""

from __future__ import annotations

from cli.cluster import Cluster, parsed
from ipam.budget import Budget, Seen, divide
from ipam.pools import Pool
from ipam.ranges import RangeSet

__all__ = ["Budget", "budget"]


def budget(cluster: Cluster, pool: Pool) -> Budget:
    """O(blocks of the pool + uses), whatever the pool's size."""
    seen = Seen(
        withheld=cluster.reserved[pool.family],
        held=cluster.held_in(pool.family, pool.domain),
        disputed=_disputed(cluster, pool),
        blocks=cluster.blocks_of_pool.get(pool.name, ()),
        wall=cluster.wall,
    )
    return divide(pool, cluster.effective[pool.name], seen)


def _disputed(cluster: Cluster, pool: Pool) -> RangeSet:
    spans = []
    for conflict in cluster.conflicts:
        address = parsed(conflict.seen.ip)
        if address is not None and address.family is pool.family and conflict.seen.pool in ("", pool.name):
            spans.append((address.value, address.value))
    return RangeSet.of(pool.family, spans)
