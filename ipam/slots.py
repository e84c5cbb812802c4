"""Slots: the 64 addresses of a page, as masks inside the program and as readable text in objects.

A page is the unit of arbitration: 64 aligned addresses (a /26 or a /122) of one L2 domain. Its object name is computed from the page alone,
so that an address of an L2 domain has exactly one slot in exactly one `IPBlock`, whatever pools say (invariant I1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ipam.addresses import Address, Family
from ipam.errors import BadValue

PAGE_BITS = 6
PAGE_SIZE = 1 << PAGE_BITS
ALL_SLOTS = (1 << PAGE_SIZE) - 1


class SlotId(NamedTuple):
    """One address of one L2 domain: the identity of what is leased and allocated. Cheap to hash."""

    domain: str
    family: Family
    value: int

    @property
    def address(self) -> Address:
        return Address(self.family, self.value)

    @property
    def page(self) -> Page:
        return Page(self.family, self.value & ~(PAGE_SIZE - 1), self.domain)

    @property
    def bit(self) -> int:
        """The mask with only this slot of its page set."""
        return 1 << (self.value & (PAGE_SIZE - 1))

    def __str__(self) -> str:
        return f"{self.address}@{self.domain}" if self.domain else str(self.address)


@dataclass(frozen=True, slots=True, order=True)
class Page:
    """64 aligned addresses of one L2 domain. `base` is a multiple of 64."""

    family: Family
    base: int
    domain: str = ""

    def __post_init__(self) -> None:
        if self.base % PAGE_SIZE:
            raise BadValue(
                "page", f"{self.base:#x} is not a multiple of {PAGE_SIZE}", "use the first address of a page"
            )

    @property
    def cidr(self) -> str:
        """`10.6.0.64/26`, as in `IPBlock.spec.page`."""
        return f"{Address(self.family, self.base)}/{self.family.bits - PAGE_BITS}"

    @property
    def name(self) -> str:
        """The name of the page's `IPBlock`: a DNS-1123 subdomain, equal for equal pages only."""
        if self.family is Family.V4:
            parts = [str(self.base >> shift & 0xFF) for shift in (24, 16, 8, 0)]
        else:
            parts = [f"{self.base >> shift & 0xFFFF:x}" for shift in range(112, -1, -16)]
        name = f"ip{int(self.family)}-{'-'.join(parts)}"
        return f"{name}.{self.domain}" if self.domain else name

    @classmethod
    def parse(cls, cidr: str, domain: str = "") -> Page:
        """Read `IPBlock.spec.page`. Raises BadValue for anything but an aligned /26 or /122."""
        text, _, prefix = cidr.partition("/")
        address = Address.parse(text)
        if prefix != str(address.family.bits - PAGE_BITS):
            raise BadValue(
                "spec.page",
                f"{cidr!r} is not a page",
                f"write a /{address.family.bits - PAGE_BITS} with host bits zero",
            )
        return cls(address.family, address.value, domain)

    def slot_ids(self, mask: int) -> Iterator[SlotId]:
        """The slots of `mask`, ascending."""
        for ordinal in ordinals(mask):
            yield SlotId(self.domain, self.family, self.base + ordinal)


def ordinals(mask: int) -> Iterator[int]:
    """The ordinals (0–63) that are set in `mask`, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def lowest(mask: int, count: int) -> int:
    """The `count` lowest set bits of `mask` (all of them if there are fewer)."""
    taken = 0
    while mask and count > 0:
        low = mask & -mask
        taken |= low
        mask ^= low
        count -= 1
    return taken


def lowest_from(mask: int, start: int, count: int) -> int:
    """Like `lowest`, beginning at ordinal `start` and wrapping round: nodes that share a page start apart and so rarely collide."""
    high = mask & (ALL_SLOTS << start) & ALL_SLOTS
    taken = lowest(high, count)
    return taken | lowest(mask & ~high, count - taken.bit_count())


def format_slots(mask: int) -> str:
    """`0-7,12` for a mask; an empty string for none. Inverse of `parse_slots`."""
    if not 0 <= mask <= ALL_SLOTS:
        raise BadValue(
            "slots", f"mask {mask:#x} has bits beyond slot 63", "this is a defect in Nephila; please report it"
        )
    runs: list[str] = []
    while mask:
        first = (mask & -mask).bit_length() - 1
        length = (~(mask >> first) & ((mask >> first) + 1)).bit_length() - 1
        runs.append(str(first) if length == 1 else f"{first}-{first + length - 1}")
        mask &= ~(((1 << length) - 1) << first)
    return ",".join(runs)


def parse_slots(text: str) -> int:
    """The mask of a text such as `0-7,12`.

    Raises BadValue for anything that is not ascending, disjoint ordinals or ranges within 0–63, so that a hand-edited block is refused
    and not half understood.
    """
    mask, previous = 0, -1
    for item in text.split(",") if text else []:
        first_text, dash, last_text = item.partition("-")
        if not first_text.isdecimal() or (dash and not last_text.isdecimal()):
            raise BadValue("slots", f"{item!r} is not an ordinal or a range", "write it like 0-7,12")
        first, last = int(first_text), int(last_text) if dash else int(first_text)
        if not previous < first <= last < PAGE_SIZE:
            raise BadValue("slots", f"{text!r} is not ascending and disjoint within 0-63", "write it like 0-7,12")
        mask |= ((1 << (last - first + 1)) - 1) << first
        previous = last
    return mask
