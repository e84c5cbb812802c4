"""Addresses and networks as integers with a family; text exists only at the edge.

`str()` of an address is its canonical text (RFC 5952 for IPv6, always in hexadecimal groups), so texts
may be compared for equality.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from ipam.errors import BadValue


class Family(IntEnum):
    """An IP version; the number is the one users write (`ipVersion: 4`)."""

    V4 = 4
    V6 = 6

    @property
    def bits(self) -> int:
        """Length of an address in bits."""
        return 32 if self is Family.V4 else 128

    @property
    def page_bits(self) -> int:
        """Host bits of a page: a page is 64 aligned addresses in both families."""
        return 6

    @property
    def limit(self) -> int:
        """The highest address as an integer."""
        return 0xFFFF_FFFF if self is Family.V4 else (1 << 128) - 1


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """One address of one family; `0 <= value <= family.limit`."""

    family: Family
    value: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that `text` spells, in any valid notation without zone id or leading zeros; raises BadValue."""
        return _address(text)

    def __str__(self) -> str:
        value = self.value
        if self.family is Family.V4:
            return f"{value >> 24}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}"
        return _v6_text(value)


@lru_cache(maxsize=8192)
def _address(text: str) -> Address:
    """Remembered, because the same few addresses are read again with every object that names them."""
    try:
        if ":" not in text:
            return Address(Family.V4, int(IPv4Address(text)))
        if "%" not in text:
            return Address(Family.V6, int(IPv6Address(text)))
    except AddressValueError:
        pass
    raise BadValue("", f"{text!r} is not an IP address", hint="write it as 10.0.0.5 or fd00::5")


def _v6_text(value: int) -> str:
    """RFC 5952 section 4: lower case, no leading zeros, the first longest run of two or more zero groups as `::`."""
    groups = [f"{value >> shift & 0xFFFF:x}" for shift in range(112, -1, -16)]
    best_start, best_length, start = 0, 1, -1
    for index, group in enumerate(groups):
        if group != "0":
            start = -1
            continue
        if start < 0:
            start = index
        if index - start + 1 > best_length:
            best_start, best_length = start, index - start + 1
    if best_length == 1:
        return ":".join(groups)
    return f"{':'.join(groups[:best_start])}::{':'.join(groups[best_start + best_length :])}"


@dataclass(frozen=True, slots=True, order=True)
class Network:
    """A CIDR in network form: `base` has no host bits set."""

    family: Family
    base: int
    prefix: int

    @classmethod
    def parse(cls, text: str) -> Network:
        """The network that `text` spells (`10.0.0.0/16`); raises BadValue if it is no CIDR or has host bits set."""
        head, slash, tail = text.partition("/")
        if not slash or not (tail.isascii() and tail.isdigit()) or (len(tail) > 1 and tail[0] == "0"):
            raise BadValue("", f"{text!r} is not a CIDR", hint="write it as 10.0.0.0/16 or fd00::/64")
        try:
            address = Address.parse(head)
        except BadValue as error:
            raise BadValue("", f"{text!r} is not a CIDR: {error.problem}", hint=error.hint) from None
        prefix = int(tail) if len(tail) <= 3 else 999
        if prefix > address.family.bits:
            raise BadValue("", f"{text!r}: the prefix is longer than {address.family.bits}")
        network = cls.around(address, prefix)
        if network.base != address.value:
            raise BadValue("", f"{text!r} has host bits set", hint=f"write the network form {network}")
        return network

    @classmethod
    def around(cls, address: Address, prefix: int) -> Network:
        """The network of the given prefix length that holds `address`."""
        host_bits = address.family.bits - prefix
        return cls(address.family, address.value >> host_bits << host_bits, prefix)

    @property
    def first(self) -> int:
        """The lowest address as an integer."""
        return self.base

    @property
    def last(self) -> int:
        """The highest address as an integer."""
        return self.base | (1 << (self.family.bits - self.prefix)) - 1

    @property
    def size(self) -> int:
        """How many addresses the network spans, the network's own and the broadcast address included."""
        return 1 << (self.family.bits - self.prefix)

    @property
    def is_default(self) -> bool:
        """Whether this is `0.0.0.0/0` or `::/0`."""
        return self.prefix == 0

    def __contains__(self, address: Address) -> bool:
        return address.family is self.family and (address.value ^ self.base) >> (self.family.bits - self.prefix) == 0

    def covers(self, other: Network) -> bool:
        """Whether every address of `other` is inside this network."""
        return self.prefix <= other.prefix and Address(other.family, other.base) in self

    def overlaps(self, other: Network) -> bool:
        """Whether one of the two covers the other (CIDRs overlap in no other way)."""
        return self.covers(other) or other.covers(self)

    def interface(self, address: Address) -> str:
        """`address` with this network's prefix length, as CNI results spell it: `10.0.0.5/24`."""
        return f"{address}/{self.prefix}"

    @property
    def label(self) -> str:
        """The text usable as a label value: `172-100-0-0-16` (`.`, `:` and `/` each become `-`)."""
        return str(self).replace(".", "-").replace(":", "-").replace("/", "-")

    def __str__(self) -> str:
        return f"{Address(self.family, self.base)}/{self.prefix}"
