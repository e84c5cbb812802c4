"""The Kubernetes functions of CEL, registered with the evaluator by name; a method call passes its receiver as the first argument.

Addresses and networks travel as one-key maps, because the evaluator knows no opaque types.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from e2e.apiserver.errors import Obj

_IP = "k8s.ip"
_CIDR = "k8s.cidr"
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Net = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def _address(text: object) -> Address:
    """Raises ValueError for zones and IPv4-mapped IPv6, as the Kubernetes library does."""
    if not isinstance(text, str):
        raise ValueError("no such overload: an IP address is made from a string")
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped is not None or address.scope_id):
        raise ValueError(f"IP Address {text!r} parse error: zones and IPv4-mapped IPv6 addresses are not allowed")
    return address


def _interface(text: str) -> Net:
    host, slash, length = text.partition("/")
    if not slash or not re.fullmatch(r"0|[1-9]\d*", length):
        raise ValueError(f"network address {text!r} parse error during conversion from string: no '/'")
    return ipaddress.ip_interface(f"{_address(host)}/{length}")


def _of(value: Any) -> Address:
    return _address(value[_IP] if isinstance(value, dict) else value)


def _net_of(value: Any) -> Net:
    return _interface(value[_CIDR] if isinstance(value, dict) else value)


def _holds(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _contains_ip(network: Any, address: Any) -> bool:
    return _of(address) in _net_of(network).network


def _contains_cidr(outer: Any, inner: Any) -> bool:
    wide, narrow = _net_of(outer).network, _net_of(inner)
    return wide.version == narrow.version and narrow.network.prefixlen >= wide.prefixlen and narrow.ip in wide


def _make_ip(value: Any) -> Obj:
    if isinstance(value, dict) and _CIDR in value:
        return {_IP: str(_net_of(value).ip)}
    return {_IP: str(_address(value))}


def _make_cidr(text: str) -> Obj:
    _interface(text)
    return {_CIDR: text}


def _masked(value: Any) -> Obj:
    return {_CIDR: str(_net_of(value).network)}


def _family(value: Any) -> int:
    return _of(value).version


def _is_canonical(text: str) -> bool:
    return str(_address(text)) == text


def _text(value: Any) -> Any:
    """`string()` of an address or a network."""
    if isinstance(value, dict):
        return value.get(_IP, value.get(_CIDR))
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _find(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    return found[0] if found else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found = [match[0] for match in re.finditer(pattern, text)]
    return found if limit < 0 else found[:limit]


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    if not separator:
        return list(text)
    return text.split(separator, limit - 1 if limit > 0 else -1)


def _replace(text: str, old: str, new: str, limit: int = -1) -> str:
    return text.replace(old, new, limit)


def _substring(text: str, start: int, end: int | None = None) -> str:
    stop = len(text) if end is None else end
    if not 0 <= start <= stop <= len(text):
        raise ValueError("index out of range")
    return text[start:stop]


def _index_of(value: Any, item: Any, start: int = 0) -> int:
    if isinstance(value, str):
        return value.find(item, start)
    return value.index(item) if item in value else -1


def _last_index_of(value: Any, item: Any) -> int:
    if isinstance(value, str):
        return value.rfind(item)
    return max((index for index, one in enumerate(value) if one == item), default=-1)


def _is_sorted(values: list[Any]) -> bool:
    return all(left <= right for left, right in pairwise(values))


def _char_at(text: str, index: int) -> str:
    return _substring(text, index, index + 1) if index < len(text) else _substring(text, index)


def _is_url(text: str) -> bool:
    parts = urlsplit(text)
    return bool(parts.scheme and parts.netloc) or text.startswith("/")


def _format(template: str, values: list[Any]) -> str:
    """Raises ValueError for a clause that the values do not fit."""
    given = iter(values)

    def clause(match: re.Match[str]) -> str:
        if match["kind"] == "%":
            return "%"
        value = next(given, None)
        if value is None:
            raise ValueError("format: index out of range")
        if match["kind"] == "s":
            return str(_text(value))
        kind = match["kind"]
        return f"{value:{match['precision'] or ''}{kind}}" if kind in "dfexXob" else str(value)

    return re.sub(r"%(?P<precision>\.\d+)?(?P<kind>[sdfexXob%])", clause, template)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "isIP": lambda text: _holds(_address, text),
    "ip": _make_ip,
    "isCIDR": lambda text: _holds(_interface, text),
    "cidr": _make_cidr,
    "containsIP": _contains_ip,
    "containsCIDR": _contains_cidr,
    "prefixLength": lambda network: _net_of(network).network.prefixlen,
    "masked": _masked,
    "family": _family,
    "ip.isCanonical": _is_canonical,
    "isCanonical": lambda *args: _is_canonical(args[-1]),
    "isUnspecified": lambda address: _of(address).is_unspecified,
    "isLoopback": lambda address: _of(address).is_loopback,
    "isLinkLocalMulticast": lambda address: _of(address).is_multicast,
    "isLinkLocalUnicast": lambda address: _of(address).is_link_local,
    "isGlobalUnicast": lambda address: not (_of(address).is_multicast or _of(address).is_unspecified),
    "string": _text,
    # The evaluator's own `matches` compiles its pattern at each call; this one remembers it.
    "matches": lambda text, pattern: re.search(pattern, text) is not None,
    "find": _find,
    "findAll": _find_all,
    "split": _split,
    "join": lambda values, separator="": separator.join(values),
    "lowerAscii": lambda text: re.sub("[A-Z]+", lambda match: match[0].lower(), text),
    "upperAscii": lambda text: re.sub("[a-z]+", lambda match: match[0].upper(), text),
    "replace": _replace,
    "substring": _substring,
    "charAt": _char_at,
    "trim": lambda text: text.strip(),
    "indexOf": _index_of,
    "lastIndexOf": _last_index_of,
    "isSorted": _is_sorted,
    "sum": lambda values: sum(values),
    "min": lambda *args: min(args[0] if len(args) == 1 else args),
    "max": lambda *args: max(args[0] if len(args) == 1 else args),
    "isURL": _is_url,
    "format": _format,
}
