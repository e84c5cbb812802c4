"""Pools: addresses of one subnet with the rules who may use them, and what one pool may say about itself.

`usable` = ips − excludeIPs − gateway; effective = usable − reserved, less what an older pool also claims
(`overlaps.arbitrate`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from ipam.addresses import Address, Family, Network
from ipam.applications import AppOwner, foreign_keys
from ipam.errors import Problem
from ipam.ranges import RangeSet
from ipam.routes import Route, route_problems
from ipam.selectors import LabelSelector


@dataclass(frozen=True, slots=True)
class Pool:
    """A `SpiderIPPool` as the domain sees it.

    `created` orders pools by age (the RFC 3339 text of the object's creation sorts correctly). `app` is set for
    application pools; `app_interface` and `owner_subnet` then say for which interface and from which SpiderSubnet.
    `multus_names` are as written, with or without namespace. `domain` is the L2 domain: only pools of one domain can
    overlap.
    """

    name: str
    family: Family
    subnet: Network
    ips: RangeSet
    exclude: RangeSet
    uid: str = ""
    created: str = ""
    gateway: Address | None = None
    routes: tuple[Route, ...] = ()
    pod_affinity: LabelSelector | None = None
    namespace_affinity: LabelSelector | None = None
    namespace_names: tuple[str, ...] = ()
    node_affinity: LabelSelector | None = None
    node_names: tuple[str, ...] = ()
    multus_names: tuple[str, ...] = ()
    default: bool = False
    disable: bool = False
    deleting: bool = False
    app: AppOwner | None = None
    app_interface: str = ""
    owner_subnet: str = ""
    domain: str = ""
    # Derived once: both are read for every ADD.
    usable: RangeSet = field(init=False, compare=False, repr=False)
    rank: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        usable = self.ips - self.exclude
        if self.gateway is not None and self.gateway.family is self.family:
            usable -= RangeSet(self.family, ((self.gateway.value, self.gateway.value),))
        object.__setattr__(self, "usable", usable)
        object.__setattr__(self, "rank", _rank(self))

    @property
    def seniority(self) -> tuple[str, str]:
        """Sorts the older pool first; creation times have whole seconds, so the name decides between equals."""
        return self.created, self.name

    @property
    def total_count(self) -> int:
        """`status.totalIPCount`: ips less excludeIPs; neither gateway nor reserved addresses are subtracted."""
        return (self.ips - self.exclude).size

    def effective(self, reserved: RangeSet) -> RangeSet:
        """What may be handed out as far as this pool alone is concerned."""
        return self.usable - reserved


def _rank(pool: Pool) -> int:
    """Higher is tried first: podAffinity, nodeName, nodeAffinity, namespaceName, namespaceAffinity, multusName."""
    rank = 0
    for is_set in (
        pool.pod_affinity is not None or pool.app is not None,
        bool(pool.node_names),
        pool.node_affinity is not None,
        bool(pool.namespace_names),
        pool.namespace_affinity is not None,
        bool(pool.multus_names),
    ):
        rank = rank << 1 | is_set
    return rank


def pool_problems(pool: Pool, families: Collection[Family] = tuple(Family)) -> tuple[Problem, ...]:
    """Every rule that this one object breaks, whatever else exists; `families` are those that are switched on.

    Rules that need other objects (overlap, addresses in use) are not judged here; malformed text never becomes a Pool.
    """
    found: list[Problem] = []
    if pool.family is not pool.subnet.family:
        found.append(
            Problem(
                "spec.ipVersion",
                f"{int(pool.family)} does not fit subnet {pool.subnet}",
                f"write {int(pool.subnet.family)}, or leave it out",
            )
        )
        return tuple(found)
    if pool.family not in families:
        found.append(
            Problem("spec.ipVersion", f"IPv{int(pool.family)} is switched off", "enable it in Nephila's configuration")
        )
    whole = RangeSet.of_network(pool.subnet)
    for name, listed in (("ips", pool.ips), ("excludeIPs", pool.exclude)):
        if outside := listed - whole:
            found.append(Problem(f"spec.{name}", f"{outside} is outside subnet {pool.subnet}", "remove it"))
    found += _gateway_problems(pool)
    found += route_problems(pool.routes, pool.subnet)
    found += _affinity_problems(pool)
    return tuple(found)


def _gateway_problems(pool: Pool) -> list[Problem]:
    gateway = pool.gateway
    if gateway is None:
        return []
    if gateway not in pool.subnet:
        return [Problem("spec.gateway", f"{gateway} is outside subnet {pool.subnet}", "name a router inside it")]
    if gateway.value in pool.ips - pool.exclude:
        return [Problem("spec.ips", f"conflicts with gateway {gateway}", "remove it from ips, or add it to excludeIPs")]
    return []


def _affinity_problems(pool: Pool) -> list[Problem]:
    selector = pool.pod_affinity
    if selector is None:
        return []
    if selector.is_empty:
        return [Problem("spec.podAffinity", "the selector is empty", "name labels, or remove podAffinity")]
    if pool.app is not None and (extra := foreign_keys(selector)):
        return [
            Problem(
                "spec.podAffinity",
                f"an application pool may not also ask for {', '.join(extra)}",
                "remove what is beyond the five app-* labels",
            )
        ]
    return []
