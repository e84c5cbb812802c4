"""What the page shows of one pool: a state for every address, counts, and windows of the grid as compact runs. Pure.

The grid of a pool is `ips` less `excludeIPs`, numbered from 0 in ascending order (ordinals), so that it has no holes. Each address is in exactly
one state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ipam.addresses import Address
from ipam.budget import Budget
from ipam.pools import Pool, pool_problems
from ipam.ranges import RangeSet

WARNING, DANGER = 0.75, 0.9
MAX_WINDOW = 65_536
_EXACT = 1 << 53  # what a browser can count


class State(Enum):
    """The value is the letter in a window's text."""

    ALLOCATED = "a"
    PINNED = "p"
    WARM = "w"
    FREE = "f"
    COOLING = "c"
    SUSPECT = "s"
    QUARANTINED = "q"
    RESERVED = "r"


@dataclass(frozen=True, slots=True)
class Reported:
    """Sums of what all nodes report of a pool: how many of the leased addresses are resting, how many are lacking, and how many nodes share it."""

    cooling: int = 0
    lacking: int = 0
    nodes: int = 0

    def plus(self, cooling: int, lacking: int) -> Reported:
        """With the report of one more node."""
        return Reported(self.cooling + cooling, self.lacking + lacking, self.nodes + 1)


@dataclass(frozen=True, slots=True)
class Map:
    """One pool's grid divided into states; `parts` are disjoint and their union is the grid."""

    pool: Pool
    grid: RangeSet
    parts: Mapping[State, RangeSet]
    effective: RangeSet

    def state_of(self, value: int) -> State | None:
        """None if the address is not in the grid."""
        return next((state for state, addresses in self.parts.items() if value in addresses), None)


def divided(pool: Pool, budget: Budget, held: RangeSet) -> Map:
    """`held`: every address of the family and L2 domain that is recorded with a pod, also those that were reserved only later."""
    grid = pool.ips - pool.exclude
    allocated = held & grid
    parts = {
        State.ALLOCATED: allocated,
        State.PINNED: budget.pinned,
        State.WARM: budget.warm,
        State.FREE: budget.unleased,
        State.COOLING: budget.cooling,
        State.SUSPECT: budget.suspect,
        State.QUARANTINED: budget.disputed,
        State.RESERVED: grid - budget.effective - allocated,
    }
    return Map(pool, grid, parts, budget.effective)


def summary(picture: Map, reported: Reported, overlapped: str = "") -> dict[str, Any]:
    """One pool as a bar. `overlapped`: names of older pools that own addresses of it.

    Which of its leased addresses rest, only a node knows: their number is taken from `warm`, while the grid shows them as warm (`restingOnNodes`).
    """
    pool = picture.pool
    counts = {state: picture.parts[state].size for state in State}
    resting = min(reported.cooling, counts[State.WARM])
    counts[State.WARM] -= resting
    counts[State.COOLING] += resting
    usable = picture.effective.size
    taken = usable - sum(counts[state] for state in (State.WARM, State.FREE, State.COOLING, State.SUSPECT))
    share = taken / usable if usable else 1.0
    state, why = _standing(picture, taken, usable, overlapped)
    return {
        "name": pool.name,
        "family": int(pool.family),
        "subnet": str(pool.subnet),
        "domain": pool.domain,
        "default": pool.default,
        "total": number(picture.grid.size),
        "available": number(usable - taken),
        **{state.name.lower(): number(count) for state, count in counts.items()},
        "restingOnNodes": resting,
        "lacking": reported.lacking,
        "nodes": reported.nodes,
        "utilisation": round(share, 4),
        "level": level_of(share),
        "state": state,
        "why": why,
    }


def unreadable(name: str, error: str) -> dict[str, Any]:
    """A pool that exists but means nothing: shown with the reason, never left out."""
    return {"name": name, "state": "Invalid", "why": error, "total": 0, "level": "danger", "utilisation": 0.0}


def level_of(share: float) -> str:
    return "danger" if share >= DANGER else "warning" if share >= WARNING else "ok"


def _standing(picture: Map, taken: int, usable: int, overlapped: str) -> tuple[str, str]:
    pool = picture.pool
    if problems := pool_problems(pool):
        return "Invalid", str(problems[0])
    if pool.deleting:
        return "Deleting", "waits until its addresses are released"
    if pool.disable:
        return "Disabled", "spec.disable is true: no new allocation"
    if not usable:
        return "Exhausted", "no address is left after reserved addresses, the gateway and older pools"
    if taken >= usable:
        return "Exhausted", "no free address"
    if overlapped:
        return "Overlapping", f"older pools own some of these addresses: {overlapped}"
    return "Ready", ""


def window(picture: Map, first: int, count: int) -> dict[str, Any]:
    """`count` addresses of the grid from ordinal `first` on (clipped to the grid; at most `MAX_WINDOW`).

    `spans`: [first address, how many] of each unbroken stretch; `states`: a letter per run of equal states, followed by its length unless that is 1.
    Ordinals are text: an IPv6 pool has more addresses than a browser can count.
    """
    total = picture.grid.size
    first = max(0, min(first, total - 1))
    wanted = max(1, min(count, MAX_WINDOW))
    count = max(0, min(wanted, total - first))
    spans = tuple(_slice(picture.grid, first, count))
    view = RangeSet(picture.grid.family, spans)
    return {
        "name": picture.pool.name,
        "first": str(first),
        "count": count,
        "size": str(total),
        "previous": str(max(first - wanted, 0)) if first else None,
        "next": str(first + count) if first + count < total else None,
        "spans": [[str(Address(picture.grid.family, low)), high - low + 1] for low, high in spans],
        "states": _encoded(picture, view),
    }


def ordinal(grid: RangeSet, value: int) -> int:
    """Where an address of the grid stands in it. Raises ValueError for any other."""
    before = 0
    for low, high in grid.spans:
        if low <= value <= high:
            return before + value - low
        before += high - low + 1
    raise ValueError(f"{value:#x} is not in the grid")


def runs(grid: RangeSet, chosen: RangeSet, limit: int) -> list[tuple[int, int]]:
    """`chosen` as (ordinal, how many) within the grid; at most `limit` of them."""
    return [(ordinal(grid, low), high - low + 1) for low, high in (chosen & grid).spans[:limit]]


def number(value: int) -> int | float:
    """As JSON can carry it: beyond 2^53 a browser rounds anyway."""
    return value if value < _EXACT else float(value)


def _slice(grid: RangeSet, first: int, count: int) -> Iterator[tuple[int, int]]:
    for low, high in grid.spans:
        if count <= 0:
            return
        length = high - low + 1
        if first >= length:
            first -= length
            continue
        taken = min(length - first, count)
        yield low + first, low + first + taken - 1
        count -= taken
        first = 0


def _encoded(picture: Map, view: RangeSet) -> str:
    pieces = sorted(
        (low, high, state.value) for state, addresses in picture.parts.items() for low, high in (addresses & view).spans
    )
    merged: list[tuple[str, int]] = []
    for low, high, letter in pieces:
        if merged and merged[-1][0] == letter:
            merged[-1] = (letter, merged[-1][1] + high - low + 1)
        else:
            merged.append((letter, high - low + 1))
    return "".join(letter if length == 1 else f"{letter}{length}" for letter, length in merged)
