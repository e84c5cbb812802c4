"""The annotations by which pods and namespaces ask for addresses: text in, values out, or BadAnnotation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ipam.addresses import Family
from ipam.applications import PoolNumber
from ipam.errors import BadAnnotation, BadValue
from ipam.jsontext import items, names, optional_bool, optional_string, parse_json, shape
from ipam.multus import FIRST_INTERFACE
from ipam.routes import Route

SUBNETS = "ipam.spidernet.io/subnets"
SUBNET = "ipam.spidernet.io/subnet"
IPPOOLS = "ipam.spidernet.io/ippools"
IPPOOL = "ipam.spidernet.io/ippool"
ROUTES = "ipam.spidernet.io/routes"
IPPOOL_NUMBER = "ipam.spidernet.io/ippool-ip-number"
IPPOOL_RECLAIM = "ipam.spidernet.io/ippool-reclaim"
NAMESPACE_POOLS: Mapping[Family, str] = {
    Family.V4: "ipam.spidernet.io/default-ipv4-ippool",
    Family.V6: "ipam.spidernet.io/default-ipv6-ippool",
}

# Go's strconv.ParseBool.
_BOOLEANS = {word: True for word in ("1", "t", "T", "TRUE", "true", "True")}
_BOOLEANS |= {word: False for word in ("0", "f", "F", "FALSE", "false", "False")}
_MAX_NUMBER_DIGITS = 9
_PATTERN_MARKS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class NicRequest:
    """What an annotation asks for one interface: names of pools or subnets by family, in order of trying.

    `interface` "" means that the item names none (its position counts); `clean_gateway` None means not stated.
    """

    interface: str
    names: Mapping[Family, tuple[str, ...]]
    clean_gateway: bool | None = None


def is_pattern(name: str) -> bool:
    """Whether a pool name is a shell pattern (`*`, `?`, `[…]`); no object name can hold these characters."""
    return not _PATTERN_MARKS.isdisjoint(name)


def parse_subnets(text: str) -> tuple[NicRequest, ...]:
    """`subnets`: at least one item, each with an interface of its own (default `eth0`), no subnet named twice."""
    parsed = tuple(
        _nic_request(item, field, optional_string(item, "interface", field) or FIRST_INTERFACE)
        for field, item in items(parse_json(text, SUBNETS), SUBNETS)
    )
    _require_items(parsed, SUBNETS)
    _refuse_repeated((request.interface for request in parsed), SUBNETS, "interface")
    _refuse_repeated(_first_names(parsed), SUBNETS, "subnet")
    return parsed


def parse_subnet(text: str) -> NicRequest:
    """`subnet`: one interface, `eth0` unless named."""
    item = shape(parse_json(text, SUBNET), SUBNET)
    request = _nic_request(item, SUBNET, optional_string(item, "interface", SUBNET) or FIRST_INTERFACE)
    _refuse_repeated(_first_names((request,)), SUBNET, "subnet")
    return request


def parse_ippools(text: str) -> tuple[NicRequest, ...]:
    """`ippools`: at least one item; either every item names its interface, each another one, or none does."""
    parsed = tuple(
        _pools_request(item, field, optional_string(item, "interface", field))
        for field, item in items(parse_json(text, IPPOOLS), IPPOOLS)
    )
    _require_items(parsed, IPPOOLS)
    named = [request.interface for request in parsed if request.interface]
    if named and len(named) != len(parsed):
        raise BadAnnotation(IPPOOLS, "some items name their interface and some do not", "name all of them, or none")
    _refuse_repeated(named, IPPOOLS, "interface")
    return parsed


def parse_ippool(text: str) -> NicRequest:
    """`ippool`: the pools of whichever interface is set up; it names no interface."""
    return _pools_request(shape(parse_json(text, IPPOOL), IPPOOL), IPPOOL, "")


def parse_namespace_pools(annotations: Mapping[str, str]) -> Mapping[Family, tuple[str, ...]] | None:
    """The default pools of a namespace by family, or None if it names none."""
    found: dict[Family, tuple[str, ...]] = {}
    for family, key in NAMESPACE_POOLS.items():
        text = annotations.get(key)
        if text is not None:
            found[family] = names(parse_json(text, key), key)
            _refuse_repeated_literals(found[family], key)
    return _without_empty(found) or None


def parse_pool_number(text: str) -> PoolNumber:
    """`ippool-ip-number`: `"5"` is a fixed total, `"+2"` two more than replicas."""
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_NUMBER_DIGITS):
        raise BadAnnotation(IPPOOL_NUMBER, f"{text!r} is not a number of addresses", 'write "5" or "+2"')
    return PoolNumber(extra=int(digits)) if text.startswith("+") else PoolNumber(fixed=int(digits))


def parse_reclaim(text: str) -> bool:
    """`ippool-reclaim`: any boolean word that Go's ParseBool takes."""
    if text not in _BOOLEANS:
        raise BadAnnotation(IPPOOL_RECLAIM, f"{text!r} is not a boolean word", 'write "true" or "false"')
    return _BOOLEANS[text]


def parse_routes(text: str) -> tuple[Route, ...]:
    """`routes`: both families may be listed; which interface a route belongs to follows from its gw."""
    routes: list[Route] = []
    for field, item in items(parse_json(text, ROUTES), ROUTES):
        try:
            routes.append(Route.parse(optional_string(item, "dst", field), optional_string(item, "gw", field)))
        except BadAnnotation:
            raise
        except BadValue as error:
            raise BadAnnotation(f"{field}.{error.field}", error.problem, error.hint) from None
    return tuple(routes)


def _nic_request(item: Mapping[str, object], field: str, interface: str) -> NicRequest:
    found = _without_empty(
        {
            Family.V4: names(item.get("ipv4"), f"{field}.ipv4"),
            Family.V6: names(item.get("ipv6"), f"{field}.ipv6"),
        }
    )
    if not found:
        raise BadAnnotation(field, "names nothing", "name something in ipv4, ipv6 or both")
    return NicRequest(interface, found, optional_bool(item, "cleangateway", field))


def _pools_request(item: Mapping[str, object], field: str, interface: str) -> NicRequest:
    request = _nic_request(item, field, interface)
    _refuse_repeated_literals((name for listed in request.names.values() for name in listed), field)
    return request


def _without_empty(found: Mapping[Family, tuple[str, ...]]) -> dict[Family, tuple[str, ...]]:
    return {family: listed for family, listed in found.items() if listed}


def _first_names(requests: Iterable[NicRequest]) -> Iterable[str]:
    """Only the first subnet of each list is used, so only those can collide."""
    return (listed[0] for request in requests for listed in request.names.values())


def _require_items(parsed: tuple[NicRequest, ...], key: str) -> None:
    if not parsed:
        raise BadAnnotation(key, "the list is empty", "name at least one interface, or remove the annotation")


def _refuse_repeated_literals(listed: Iterable[str], field: str) -> None:
    _refuse_repeated((name for name in listed if not is_pattern(name)), field, "pool")


def _refuse_repeated(listed: Iterable[str], field: str, what: str) -> None:
    seen: set[str] = set()
    for name in listed:
        if name in seen:
            raise BadAnnotation(field, f"{what} {name!r} is named twice", "name it once")
        seen.add(name)
