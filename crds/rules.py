"""Small builders for schema annotations, and the CEL rules that more than one kind uses.

A rule says what the API server itself can enforce about one object. Kubernetes' CEL has `ip()` and `cidr()`, but no
order on addresses, no hexadecimal conversion and a cost budget. What remains is judged by the leader, as a condition:

- `start <= end` of an IPv6 range (the IPv4 case is a rule here), overlaps between items, and a gateway inside `ips`;
- everything that needs other objects: overlapping pools, addresses in use.

Costs: every string and list that a rule touches has a limit, and rules take addresses out of an item with `substring`,
whose estimated size is bounded by the item's, not with `split`, whose elements have no bound in the estimator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Meta

MAX_RANGES = 4096  # items of `ips` and of `excludeIPs`, where Spiderpool allows 5,000 allocated addresses in a pool
MAX_ROUTES = 256
MAX_NAMES = 1024

# Lengths of the longest texts: an IPv6 address with eight full groups, that with a prefix, and a range of two.
ADDRESS_LENGTH = 39
CIDR_LENGTH = 43
RANGE_LENGTH = 79


def say(description: str = "", *, rules: Sequence[dict[str, str]] = (), **schema: Any) -> Meta:
    """Schema details of a field: its description, CEL rules, and schema keywords.

    They go into the generated schema only: decoding stays lenient. Keywords of Kubernetes are written with underscores
    (`x_kubernetes_list_type="map"`).
    """
    extra = {key.replace("_", "-") if key.startswith("x_") else key: value for key, value in schema.items()}
    if rules:
        extra["x-kubernetes-validations"] = list(rules)
    return Meta(description=description or None, extra_json_schema=extra)


def rule(expression: str, message: str, field: str = "") -> dict[str, str]:
    """One `x-kubernetes-validations` entry; `field` is the path below the annotated node that the message is about."""
    entry = {"rule": expression, "message": message}
    return entry | {"fieldPath": field} if field else entry


def map_list(*keys: str) -> dict[str, Any]:
    """Keywords of a list whose items are told apart by `keys`: the API server refuses two items with equal keys."""
    return {"x_kubernetes_list_type": "map", "x_kubernetes_list_map_keys": list(keys)}


IMMUTABLE = "self == oldSelf"


def _start(item: str) -> str:
    return f"{item}.substring(0, {item}.indexOf('-'))"


def _end(item: str) -> str:
    """The end of a range; of a single address, that address (`indexOf` is then -1)."""
    return f"{item}.substring({item}.indexOf('-') + 1)"


def _both(item: str, test: str) -> str:
    """`test` (with `{}` for an address) of both ends of an item; the start counts only if there is a dash."""
    return f"({item}.indexOf('-') < 0 || {test.format(_start(item))}) && {test.format(_end(item))}"


def _octets(first: int) -> str:
    """The IPv4 address in four items of the list `o`, as a number."""
    return " + ".join(f"int(o[{first + place}]) * {256 ** (3 - place)}" for place in range(4))


RANGE_RULES = (
    rule(
        _both("self", "isIP({})"),
        "must be one IP address (10.0.0.5) or a range of two full addresses (10.0.0.5-10.0.0.9)",
    ),
    rule(
        "self.indexOf('-') < 0 || " + " == ".join(f"{end('self')}.contains(':')" for end in (_start, _end)),
        "both ends of a range must be of one family",
    ),
    rule(
        f"self.contains(':') || self.indexOf('-') < 0 || !({_both('self', 'isIP({})')}) || "
        f"[self.replace('-', '.').split('.', 8)].all(o, {_octets(0)} <= {_octets(4)})",
        "the start of a range must not be above its end",
    ),
)

CIDR_RULES = (
    rule("isCIDR(self)", "must be a CIDR such as 10.0.0.0/16 or fd00::/64"),
    rule(
        "!isCIDR(self) || cidr(self) == cidr(self).masked()",
        "must be in network form: no host bits, 10.0.0.0/16 and not 10.0.0.1/16",
    ),
)

ADDRESS_RULES = (rule("isIP(self)", "must be an IP address such as 10.0.0.1 or fd00::1"),)

ROUTE_RULES = (
    rule("isCIDR(self.dst)", "dst must be a CIDR such as 10.0.0.0/16", ".dst"),
    rule("isIP(self.gw)", "gw must be an IP address", ".gw"),
    rule(
        "!isCIDR(self.dst) || cidr(self.dst).prefixLength() > 0",
        "a default route is not accepted here: specify gateway instead",
        ".dst",
    ),
    rule(
        "!isCIDR(self.dst) || !isIP(self.gw) || cidr(self.dst).ip().family() == ip(self.gw).family()",
        "dst and gw must be of one family",
        ".gw",
    ),
)


def _inside(field: str) -> dict[str, str]:
    """Every address of the ranges in `field` lies in the subnet; what is no address is left to the item's own rule."""
    test = "(!isIP({0}) || cidr(self.subnet).containsIP({0}))"
    return rule(
        f"!has(self.{field}) || !isCIDR(self.subnet) || self.{field}.all(i, {_both('i', test)})",
        f"{field} must lie inside subnet",
        f".{field}",
    )


# Of pools and subnets. `ipVersion` follows from `subnet`, which is immutable, so it may come and go, but never differ.
SUBNET_RULES = (
    rule(
        "!has(self.ipVersion) || !isCIDR(self.subnet) || cidr(self.subnet).ip().family() == self.ipVersion",
        "ipVersion must be the family of subnet (4 or 6), or be left out",
        ".ipVersion",
    ),
    rule(
        "!has(self.ipVersion) || !has(oldSelf.ipVersion) || self.ipVersion == oldSelf.ipVersion",
        "ipVersion is not changeable: create another object",
        ".ipVersion",
    ),
    _inside("ips"),
    _inside("excludeIPs"),
    rule(
        "!has(self.gateway) || !isIP(self.gateway) || !isCIDR(self.subnet) || "
        "cidr(self.subnet).containsIP(self.gateway)",
        "gateway must lie inside subnet",
        ".gateway",
    ),
    rule(
        "!has(self.routes) || !isCIDR(self.subnet) || "
        "self.routes.all(r, !isIP(r.gw) || cidr(self.subnet).containsIP(r.gw))",
        "the gw of every route must lie inside subnet",
        ".routes",
    ),
)

SUBNET_IMMUTABLE = rule(IMMUTABLE, "subnet is not changeable: create another object")

_FAMILY = "({}.contains(':') ? 6 : 4)"
_OLD_FAMILY = (
    "(has(oldSelf.ipVersion) ? oldSelf.ipVersion : "
    f"has(oldSelf.ips) && oldSelf.ips.size() > 0 ? {_FAMILY.format('oldSelf.ips[0]')} : 0)"
)
_NEW_FAMILY = _OLD_FAMILY.replace("oldSelf", "self")

RESERVED_RULES = (
    rule(
        f"!has(self.ips) || self.ips.all(i, {_FAMILY.format('i')} == {_NEW_FAMILY})",
        "all addresses must be of one family, that of ipVersion if given",
        ".ips",
    ),
    rule(
        f"{_OLD_FAMILY} == 0 || {_NEW_FAMILY} == 0 || {_NEW_FAMILY} == {_OLD_FAMILY}",
        "ipVersion is not changeable: create another SpiderReservedIP",
        ".ipVersion",
    ),
)

SELECTOR_NOT_EMPTY = rule(
    "(has(self.matchLabels) && self.matchLabels.size() > 0) || "
    "(has(self.matchExpressions) && self.matchExpressions.size() > 0)",
    "podAffinity must not be empty: leave it out, or give matchLabels or matchExpressions",
)
EXPRESSION_VALUES = rule(
    "self.operator in ['In', 'NotIn'] == (has(self.values) && self.values.size() > 0)",
    "In and NotIn need values; Exists and DoesNotExist must have none",
    ".values",
)
