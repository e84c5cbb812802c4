"""Small texts that several views share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ipam.ranges import RangeSet

_UNITS = ((86_400 * 2, 86_400, "d"), (7_200, 3_600, "h"), (120, 60, "m"))


def age(seconds: float) -> str:
    """`45s`, `12m`, `5h`, `3d`: like kubectl, one unit."""
    for limit, unit, letter in _UNITS:
        if seconds >= limit:
            return f"{int(seconds // unit)}{letter}"
    return f"{max(int(seconds), 0)}s"


def since(moment: datetime, wall: float) -> str:
    return age(wall - moment.timestamp())


def some(items: Sequence[str], limit: int = 5) -> str:
    """The first few, and how many more there are."""
    shown = ", ".join(items[:limit])
    return f"{shown} and {len(items) - limit} more" if len(items) > limit else shown


def ranges(addresses: RangeSet, limit: int = 5) -> str:
    """The first ranges in Spiderpool's notation; never enumerates addresses."""
    first = RangeSet(addresses.family, addresses.spans[:limit]).format()
    rest = len(addresses.spans) - limit
    return ", ".join(first) + (f" and {rest} more ranges" if rest > 0 else "")


def count(number: int, one: str, many: str = "") -> str:
    """`1 address`, `3 addresses`; numbers of 13 digits and more as a power of two."""
    return f"{number_text(number)} {one if number == 1 else many or one + 's'}"


def number_text(number: int) -> str:
    """Digits, or a power of two for the sizes of IPv6 ranges."""
    if number < 10**12:
        return str(number)
    power = number.bit_length() - 1
    return f"2^{power}" if number == 1 << power else f"about 2^{power}"
