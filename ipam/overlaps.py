"""Which pools claim the same addresses, and who gets them.

Two pools made at the same instant can both pass every check at admission, so overlap is a state to live with: an
address claimed by several pools of one L2 domain belongs to the oldest, even if that one is disabled or being deleted
(its pods may still use the address). Work is O(n log n) in the number of spans, plus the overlaps found.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush

from ipam.addresses import Family
from ipam.pools import Pool
from ipam.ranges import RangeSet, Span

# A span with the age rank of its pool: (low, high, rank), rank 0 being the oldest pool of the group.
_Claim = tuple[int, int, int]


def _groups(pools: Iterable[Pool]) -> Iterator[list[Pool]]:
    """Pools that share an address space, oldest first."""
    found: dict[tuple[str, Family], list[Pool]] = {}
    for pool in pools:
        found.setdefault((pool.domain, pool.family), []).append(pool)
    for group in found.values():
        yield sorted(group, key=lambda pool: pool.seniority)


def _claims(group: list[Pool]) -> list[_Claim]:
    return sorted((low, high, rank) for rank, pool in enumerate(group) for low, high in pool.usable.spans)


def overlaps(pools: Iterable[Pool]) -> list[tuple[Pool, Pool, RangeSet]]:
    """Every pair (older, younger) with usable addresses in common, and those addresses; sorted by age of both."""
    found: list[tuple[Pool, Pool, RangeSet]] = []
    for group in _groups(pools):
        shared: dict[tuple[int, int], list[Span]] = {}
        open_claims: list[tuple[int, int]] = []  # (high, rank), sorted: those that end first come first
        for low, high, rank in _claims(group):
            ended = next((n for n, (end, _) in enumerate(open_claims) if end >= low), len(open_claims))
            del open_claims[:ended]
            for end, other in open_claims:
                shared.setdefault((min(rank, other), max(rank, other)), []).append((low, min(high, end)))
            insort(open_claims, (high, rank))
        for (older, younger), spans in sorted(shared.items()):
            found.append((group[older], group[younger], RangeSet.of(group[older].family, spans)))
    return found


def subnet_overlaps(pools: Iterable[Pool]) -> list[tuple[Pool, Pool]]:
    """Every pair (older, younger) whose subnets overlap without being equal; several pools of one subnet are normal."""
    found: list[tuple[Pool, Pool]] = []
    for group in _groups(pools):
        # CIDRs are nested or disjoint: sorted by base, then widest first, the open ones are a stack that gets narrower.
        stack: list[Pool] = []
        for pool in sorted(group, key=lambda pool: (pool.subnet.base, pool.subnet.prefix)):
            while stack and not stack[-1].subnet.covers(pool.subnet):
                stack.pop()
            for wider in stack:
                if wider.subnet != pool.subnet:
                    older, younger = sorted((wider, pool), key=lambda pool: pool.seniority)
                    found.append((older, younger))
            stack.append(pool)
    return sorted(found, key=lambda pair: (pair[0].seniority, pair[1].seniority))


def arbitrate(pools: Iterable[Pool], reserved: Mapping[Family, RangeSet]) -> dict[str, RangeSet]:
    """What each pool may hand out: no address appears under two pools of one L2 domain, and no reserved one at all."""
    result: dict[str, RangeSet] = {}
    for group in _groups(pools):
        won: list[list[Span]] = [[] for _ in group]
        for low, high, rank in _winners(_claims(group)):
            won[rank].append((low, high))
        for pool, spans in zip(group, won, strict=True):
            withheld = reserved.get(pool.family) or RangeSet.empty(pool.family)
            result[pool.name] = RangeSet.of(pool.family, spans) - withheld
    return result


def _winners(claims: list[_Claim]) -> Iterator[_Claim]:
    """Cut sorted claims into disjoint pieces, each with the lowest rank that claims it."""
    waiting: list[tuple[int, int]] = []  # heap of (rank, high) of the claims that have begun
    position = 0
    index = 0
    while index < len(claims) or waiting:
        if not waiting:
            position = max(position, claims[index][0])
        while index < len(claims) and claims[index][0] <= position:
            _, high, rank = claims[index]
            heappush(waiting, (rank, high))
            index += 1
        rank, high = waiting[0]
        if high < position:
            heappop(waiting)
            continue
        # The piece ends where its claim does, or just before the next claim begins, whose pool may be older.
        end = min(high, claims[index][0] - 1) if index < len(claims) else high
        yield position, end, rank
        position = end + 1
