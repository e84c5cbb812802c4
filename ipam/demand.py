"""How many addresses of a pool a node should hold leased: a pure function of what is observed, without memory.

`target = B·ceil(mf + d/B)`: d live pods are bound to the node, B is the batch, mf the least free fraction of a batch. At B = 1 there is no
warm stock: the target is what the bound pods need.
"""

from __future__ import annotations

from math import ceil

BATCHES = (16, 8, 4, 2, 1)
LEAST_FREE_FRACTION = 0.25
UNKNOWN_NODE_COUNT = 16  # until a leader has published how many nodes share the pool


def batch(free: int, nodes: int) -> int:
    """The largest batch of which every node of the pool could take two and still leave addresses free; 1 if none fits.

    `free`: addresses of the pool that a pod could get, leased ahead or not; `nodes`: nodes that hold or want some (at least 1 is assumed).
    """
    return next((size for size in BATCHES if 2 * size * max(nodes, 1) <= free), 1)


def target(bound: int, size: int) -> int:
    """Addresses, used and free together, that a node with `bound` pods of the pool should hold leased at batch `size`."""
    if size == 1:
        return bound
    return size * ceil(LEAST_FREE_FRACTION + bound / size)


def missing(needed: int, used: int, usable: int, size: int) -> int:
    """How many addresses to claim now: none while enough are left, then up to the target at once.

    `needed`: addresses that the node's bound pods use or will ask for; `used`: of those, given out; `usable`: free here and neither cooling
    nor leaving. Claiming only below the least free fraction makes one write serve about a batch of pods.
    """
    least = ceil(LEAST_FREE_FRACTION * size) if size > 1 else 0
    if usable >= max(needed - used, 0) + least:
        return 0
    return max(target(needed, size) - used - usable, needed - used - usable, 0)


def surplus(needed: int, used: int, usable: int, size: int) -> int:
    """How many usable addresses to give back: what exceeds the target by more than a batch, so that small swings cost no writes.

    At batch 1 all that exceeds it: one address kept on each node would be as many as a scarce pool lacks.
    """
    slack = size if size > 1 else 0
    return max(min(used + usable - target(needed, size) - slack, usable), 0)


def resting_surplus(needed: int, used: int, usable: int, cooling: int, size: int) -> int:
    """How many cooling addresses to give back where no warm stock is kept: nobody can wait for another's cooldown, so the address takes it along.

    Never a usable one instead: what a pod is about to get would leave because another, which serves nobody yet, makes the sum too large.
    """
    if size > 1:
        return 0
    return max(min(used + usable + cooling - needed, cooling), 0)
