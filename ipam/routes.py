"""The routes of a CNI result: which win, and what an object or a pod may ask for.

Precedence by destination: subnet < pool < application. The pool's gateway counts as the pool's default route.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ipam.addresses import Address, Network
from ipam.errors import BadValue, Problem


@dataclass(frozen=True, slots=True)
class Route:
    """A route of one family: `dst` by way of `gw`."""

    dst: Network
    gw: Address

    @classmethod
    def parse(cls, dst: str, gw: str) -> Route:
        """Raises BadValue (field `dst` or `gw`) unless both are of one family and `dst` is a CIDR in network form."""
        try:
            network = Network.parse(dst)
        except BadValue as error:
            raise error.within("dst") from None
        try:
            gateway = Address.parse(gw)
        except BadValue as error:
            raise error.within("gw") from None
        if gateway.family is not network.family:
            raise BadValue("gw", f"{gw} and dst {dst} are of different families", "write both as IPv4 or both as IPv6")
        return cls(network, gateway)

    def __str__(self) -> str:
        return f"{self.dst} via {self.gw}"


def default_route(gateway: Address) -> Route:
    """The route to everywhere of the gateway's family."""
    return Route(Network(gateway.family, 0, 0), gateway)


def result_routes(
    subnet: Network,
    *,
    gateway: Address | None,
    clean_gateway: bool,
    pool_routes: Sequence[Route] = (),
    pod_routes: Sequence[Route] = (),
    subnet_routes: Sequence[Route] = (),
) -> tuple[Route, ...]:
    """The routes for one address of `subnet`: one per destination, that of the highest precedence.

    `clean_gateway` leaves out the default route by way of `gateway`, but not one that the pod asks for. Pod routes with
    a gw outside `subnet` belong to another interface and are left out. Order: as first named, the gateway's first.
    """
    chosen: dict[Network, Route] = {}
    if gateway is not None and not clean_gateway:
        route = default_route(gateway)
        chosen[route.dst] = route
    for route in (*subnet_routes, *pool_routes):
        chosen[route.dst] = route
    for route in pod_routes:
        if route.gw in subnet:
            chosen[route.dst] = route
    return tuple(chosen.values())


def route_problems(routes: Sequence[Route], subnet: Network, field: str = "spec.routes") -> tuple[Problem, ...]:
    """What an object of `subnet` may not say in its routes, in list order."""
    found: list[Problem] = []
    seen: set[Network] = set()
    for index, route in enumerate(routes):
        where = f"{field}[{index}]"
        if route.dst.family is not subnet.family:
            found.append(Problem(f"{where}.dst", f"{route.dst} is not of the family of subnet {subnet}", "remove it"))
        elif route.dst.is_default:
            found.append(Problem(f"{where}.dst", f"{route.dst} is the default route", "specify gateway instead"))
        if route.dst in seen:
            found.append(Problem(f"{where}.dst", f"{route.dst} is listed twice", "keep one of the two"))
        if route.gw not in subnet:
            found.append(Problem(f"{where}.gw", f"{route.gw} is outside subnet {subnet}", "name a router inside it"))
        seen.add(route.dst)
    return tuple(found)
