"""What a pool or a Subnet may not become because of other objects, judged before it is stored. Pure.

Rules about one object are CEL rules of its kind. What is judged here needs to know the others, and others may change at the same instant: so these
answers are a courtesy, and the leader's arbitration (`overlaps`) stays what holds. Therefore an update is refused only for what it makes worse:
objects that overlap already can be edited, shrunk and deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ipam.addresses import Address, Family
from ipam.applications import label_value
from ipam.errors import Problem
from ipam.pools import Pool, pool_problems
from ipam.ranges import RangeSet

SHOWN = 3  # addresses or names that a message lists


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Everything there is, the judged object as stored included; Subnets as `Pool` values (`crds.convert.subnet`).

    `given`: by name of a Subnet and of a pool, the addresses that the leader's record gives to that pool.
    """

    pools: Sequence[Pool] = ()
    subnets: Sequence[Pool] = ()
    given: Mapping[str, Mapping[str, RangeSet]] = field(default_factory=dict)


def judge_pool(
    new: Pool,
    before: Pool | None,
    others: Neighbours,
    uses: Mapping[int, str],
    families: Collection[Family] = tuple(Family),
) -> tuple[Problem, ...]:
    """Why the pool may not be stored as `new`; `before` is None for a new one.

    `uses`: which pod has which address of it, by address value.
    """
    known = set(pool_problems(before, families)) if before is not None else set()
    found = [problem for problem in pool_problems(new, families) if problem not in known]
    same_space = before is not None and before.domain == new.domain
    peers = [pool for pool in others.pools if pool.name != new.name and _share_a_space(pool, new)]
    if not same_space:
        found += _other_cidr("spec.subnet", new, peers, "SpiderIPPool")
    settled = before.usable if before is not None and same_space else RangeSet.empty(new.family)
    if gained := new.usable - settled:
        found += [_overlap(pool, shared) for pool in peers if (shared := gained & pool.usable)]
        found += _outside_subnet(new, gained, others.subnets)
    if before is not None:
        found += _taken_from_pods(before, new, uses)
        found += _edited_by_hand(before, new, others)
    return tuple(found)


def judge_subnet(
    new: Pool, before: Pool | None, others: Neighbours, families: Collection[Family] = tuple(Family)
) -> tuple[Problem, ...]:
    """Why the Subnet may not be stored as `new`; `before` is None for a new one."""
    known = set(pool_problems(before, families)) if before is not None else set()
    found = [problem for problem in pool_problems(new, families) if problem not in known]
    mine = [pool for pool in others.pools if _share_a_space(pool, new)]
    if before is None or before.domain != new.domain:
        found += [
            Problem(
                "spec.subnet",
                f"{new.subnet} overlaps {subnet.subnet} of SpiderSubnet {subnet.name}",
                f"change SpiderSubnet {subnet.name} instead, or choose another network",
            )
            for subnet in others.subnets
            if subnet.name != new.name and _share_a_space(subnet, new) and subnet.subnet.overlaps(new.subnet)
        ]
        found += _other_cidr("spec.subnet", new, mine, "SpiderIPPool")
        before = None
    total = new.ips - new.exclude
    for pool in mine:
        if pool.subnet != new.subnet:
            continue
        has = pool.ips - pool.exclude
        lost = has - total if before is None else (before.ips - before.exclude) - total & has
        if lost:
            why = f"{_some(lost)} of SpiderIPPool {pool.name} {'is' if before is None else 'would be'} outside ips less excludeIPs"
            found.append(Problem("spec.ips", why, f"include it here, or take it from SpiderIPPool {pool.name} first"))
    return tuple(found)


def judge_pool_deletion(pool: str, uses: Collection[str], count: int) -> tuple[Problem, ...]:
    """`uses`: the pods that are known by name, `count`: how many addresses are in use."""
    if not count:
        return ()
    named = f", by {_names(uses)}" if uses else ""
    why = f"SpiderIPPool {pool} has {count} addresses in use{named}"
    fix = "delete these pods first, and scale down StatefulSets that keep addresses; spec.disable: true stops new allocations"
    return (Problem("metadata.name", why, fix),)


def judge_subnet_deletion(subnet: str, pools: Iterable[Pool]) -> tuple[Problem, ...]:
    """A Subnet that pools belong to stays."""
    mine = [pool.name for pool in pools if pool.owner_subnet == label_value(subnet)]
    if not mine:
        return ()
    why = f"SpiderSubnet {subnet} is in use by SpiderIPPool {_names(mine)}"
    return (Problem("metadata.name", why, "delete these pools first, or the applications that they were made for"),)


# Parts ----------------------------------------------------------------------------------------------------------------------------------------


def _share_a_space(one: Pool, other: Pool) -> bool:
    return one.family is other.family and one.domain == other.domain


def _other_cidr(where: str, new: Pool, peers: Iterable[Pool], kind: str) -> list[Problem]:
    """Several pools of one network are normal; networks that overlap without being equal are a mistake."""
    return [
        Problem(
            where,
            f"{new.subnet} overlaps {peer.subnet} of {kind} {peer.name} without being the same network",
            f"write {peer.subnet}, or choose a network that is apart from it",
        )
        for peer in peers
        if peer.subnet != new.subnet and peer.subnet.overlaps(new.subnet)
    ]


def _overlap(other: Pool, shared: RangeSet) -> Problem:
    return Problem(
        "spec.ips",
        f"{_some(shared)} belongs to SpiderIPPool {other.name} too (ips less excludeIPs)",
        f"remove it from ips, list it in excludeIPs, or exclude it in SpiderIPPool {other.name}",
    )


def _outside_subnet(new: Pool, gained: RangeSet, subnets: Iterable[Pool]) -> list[Problem]:
    return [
        Problem(
            "spec.ips",
            f"{_some(outside)} is not among the addresses of SpiderSubnet {subnet.name} (ips less excludeIPs)",
            f"remove it, or add it to spec.ips of SpiderSubnet {subnet.name}",
        )
        for subnet in subnets
        if _share_a_space(subnet, new)
        and subnet.subnet == new.subnet
        and (outside := gained - (subnet.ips - subnet.exclude))
    ]


def _taken_from_pods(before: Pool, new: Pool, uses: Mapping[int, str]) -> list[Problem]:
    """Addresses in use may neither leave `ips` nor be excluded."""
    kept, had = new.ips - new.exclude, before.ips - before.exclude
    lost = sorted(value for value in uses if value in had and value not in kept)
    found: list[Problem] = []
    for name, values in (
        ("ips", [value for value in lost if value not in new.ips]),
        ("excludeIPs", [value for value in lost if value in new.ips]),
    ):
        if values:
            verb = "removes" if name == "ips" else "excludes"
            shown = ", ".join(f"{Address(new.family, value)} (pod {uses[value]})" for value in values[:SHOWN])
            more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
            why = f"{verb} addresses in use: {shown}{more}"
            fix = "keep them until these pods are gone" if name == "ips" else "exclude them once these pods are gone"
            found.append(Problem(f"spec.{name}", why, fix))
    return found


def _edited_by_hand(before: Pool, new: Pool, others: Neighbours) -> list[Problem]:
    """The addresses of an application pool are the leader's: the Subnet's record says them."""
    if new.app is None or not new.owner_subnet or new.ips == before.ips:
        return []
    owner = next((subnet.name for subnet in others.subnets if label_value(subnet.name) == new.owner_subnet), None)
    if owner is None or new.ips == others.given.get(owner, {}).get(new.name):
        return []
    return [
        Problem(
            "spec.ips",
            f"the addresses of this application pool are managed by SpiderSubnet {owner}, for {new.app}",
            "set ipam.spidernet.io/ippool-ip-number on the application, or scale it",
        )
    ]


def _some(addresses: RangeSet) -> str:
    items = addresses.format()
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN} more ranges" if len(items) > SHOWN else "")


def _names(names: Collection[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
