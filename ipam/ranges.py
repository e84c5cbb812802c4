"""Sets of addresses of one family as sorted, disjoint, inclusive spans.

Every operation costs time in the number of spans, never in the number of addresses: an IPv6 /64 is one span. Only
`__iter__` and `page_bases` enumerate, and both do so lazily.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from ipam.addresses import Address, Family, Network
from ipam.errors import BadValue

Span = tuple[int, int]

PAGE_SIZE = 64
_PAGE_SHIFT = 6
_FULL_PAGE = (1 << PAGE_SIZE) - 1
_ABOVE_ALL = 1 << 129


@dataclass(frozen=True, slots=True)
class RangeSet:
    """A set of addresses; `spans` is sorted, disjoint and without adjacent spans, so equal sets are equal values.

    Build it with `parse`, `of`, `from_mask` or `empty`; the constructor itself trusts its argument. The operators
    accept sets of the same family only (ValueError otherwise: that is a defect of the caller, not of user input).
    """

    family: Family
    spans: tuple[Span, ...]

    @classmethod
    def empty(cls, family: Family) -> RangeSet:
        """The set without addresses."""
        return cls(family, ())

    @classmethod
    def of(cls, family: Family, spans: Iterable[Span]) -> RangeSet:
        """The union of inclusive spans in any order; raises ValueError for a reversed span or one beyond the family."""
        merged: list[Span] = []
        for low, high in sorted(spans):
            if not 0 <= low <= high <= family.limit:
                raise ValueError(f"not a span of IPv{int(family)}: {low}-{high}")
            if merged and low <= merged[-1][1] + 1:
                if high > merged[-1][1]:
                    merged[-1] = (merged[-1][0], high)
            else:
                merged.append((low, high))
        return cls(family, tuple(merged))

    @classmethod
    def of_network(cls, network: Network) -> RangeSet:
        """Every address of the network."""
        return cls(network.family, ((network.first, network.last),))

    @classmethod
    def from_mask(cls, family: Family, page_base: int, mask: int) -> RangeSet:
        """The addresses of the page at `page_base` whose slot bit is set in `mask`."""
        spans: list[Span] = []
        while mask:
            start = (mask & -mask).bit_length() - 1
            # Adding the lowest bit carries through the run of ones; the bit where the carry stops ends the run.
            carried = mask + (1 << start)
            end = (carried & -carried).bit_length() - 1
            spans.append((page_base + start, page_base + end - 1))
            mask &= ~((1 << end) - 1)
        return cls(family, tuple(spans))

    @classmethod
    def parse(cls, family: Family, items: Iterable[str]) -> RangeSet:
        """The union of items in Spiderpool's notation: `10.0.0.5` or `10.0.0.5-10.0.0.9` (start ≤ end).

        Raises BadValue with the item's index as field (`[3]`) and the item in the message.
        """
        spans: list[Span] = []
        for index, item in enumerate(items):
            try:
                spans.append(_parse_item(family, item))
            except BadValue as error:
                raise error.within(f"[{index}]") from None
        return cls.of(family, spans)

    @property
    def size(self) -> int:
        """The number of addresses."""
        return sum(high - low + 1 for low, high in self.spans)

    def __bool__(self) -> bool:
        return bool(self.spans)

    def __contains__(self, value: int) -> bool:
        position = bisect_right(self.spans, (value, _ABOVE_ALL)) - 1
        return position >= 0 and value <= self.spans[position][1]

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(range(low, high + 1) for low, high in self.spans)

    def __or__(self, other: RangeSet) -> RangeSet:
        self._same_family(other)
        if not other.spans:
            return self
        return RangeSet.of(self.family, self.spans + other.spans)

    def __and__(self, other: RangeSet) -> RangeSet:
        self._same_family(other)
        found: list[Span] = []
        mine, theirs = iter(self.spans), iter(other.spans)
        a, b = next(mine, None), next(theirs, None)
        while a and b:
            low, high = max(a[0], b[0]), min(a[1], b[1])
            if low <= high:
                found.append((low, high))
            if a[1] < b[1]:
                a = next(mine, None)
            else:
                b = next(theirs, None)
        return RangeSet(self.family, tuple(found))

    def __sub__(self, other: RangeSet) -> RangeSet:
        self._same_family(other)
        if not other.spans:
            return self
        return self & other._complement()

    def _complement(self) -> RangeSet:
        gaps: list[Span] = []
        start = 0
        for low, high in self.spans:
            if start < low:
                gaps.append((start, low - 1))
            start = high + 1
        if start <= self.family.limit:
            gaps.append((start, self.family.limit))
        return RangeSet(self.family, tuple(gaps))

    def _same_family(self, other: RangeSet) -> None:
        if other.family is not self.family:
            raise ValueError(f"sets of IPv{int(self.family)} and IPv{int(other.family)} do not mix")

    def first(self, count: int) -> RangeSet:
        """The `count` lowest addresses (all of them if there are fewer)."""
        taken: list[Span] = []
        for low, high in self.spans:
            if count <= 0:
                break
            taken.append((low, min(high, low + count - 1)))
            count -= high - low + 1
        return RangeSet(self.family, tuple(taken))

    def format(self) -> tuple[str, ...]:
        """The items in Spiderpool's notation, merged and sorted; `parse` reads them back."""
        return tuple(
            str(Address(self.family, low))
            if low == high
            else f"{Address(self.family, low)}-{Address(self.family, high)}"
            for low, high in self.spans
        )

    def __str__(self) -> str:
        return ", ".join(self.format())

    # Pages: 64 aligned addresses. Two spans may touch one page, so runs of page numbers are derived before counting.

    def _page_runs(self) -> Iterator[Span]:
        """Inclusive runs of page numbers, sorted and disjoint."""
        last = -1
        for low, high in self.spans:
            start, end = max(low >> _PAGE_SHIFT, last + 1), high >> _PAGE_SHIFT
            if start <= end:
                yield start, end
                last = end

    @property
    def page_count(self) -> int:
        """How many distinct pages hold an address of the set."""
        return sum(end - start + 1 for start, end in self._page_runs())

    def page_base(self, index: int) -> int:
        """The lowest address of the `index`-th distinct page (from 0, ascending); IndexError beyond `page_count`."""
        left = index
        if left >= 0:
            for start, end in self._page_runs():
                if left <= end - start:
                    return (start + left) << _PAGE_SHIFT
                left -= end - start + 1
        raise IndexError(f"page {index} of a set that touches {self.page_count}")

    def page_bases(self, start_index: int = 0) -> Iterator[int]:
        """The lowest addresses of the distinct pages from the `start_index`-th on, ascending, lazily."""
        skip = start_index
        for start, end in self._page_runs():
            length = end - start + 1
            if skip >= length:
                skip -= length
                continue
            yield from range((start + skip) << _PAGE_SHIFT, (end << _PAGE_SHIFT) + 1, PAGE_SIZE)
            skip = 0

    def mask(self, page_base: int) -> int:
        """The slots (bit i = address `page_base + i`) of the page at `page_base` that belong to the set."""
        page_last = page_base + PAGE_SIZE - 1
        position = max(0, bisect_left(self.spans, (page_base, -1)) - 1)
        slots = 0
        for low, high in self.spans[position : bisect_right(self.spans, (page_last, _ABOVE_ALL))]:
            start, end = max(low, page_base), min(high, page_last)
            if start <= end:
                slots |= _FULL_PAGE >> (PAGE_SIZE - 1 - (end - start)) << (start - page_base)
        return slots


def _parse_item(family: Family, item: str) -> Span:
    if "/" in item:
        raise BadValue("", f"{item!r} is a CIDR; only addresses and dash ranges are accepted", hint=_range_hint(item))
    head, dash, tail = item.partition("-")
    start = Address.parse(head)
    end = Address.parse(tail) if dash else start
    for address in (start, end):
        if address.family is not family:
            raise BadValue(
                "", f"{item!r} is not of IPv{int(family)}", hint=f"list only IPv{int(family)} addresses here"
            )
    if start.value > end.value:
        raise BadValue("", f"{item!r}: the start is above the end", hint=f"write {end}-{start}")
    return start.value, end.value


def _range_hint(item: str) -> str:
    try:
        network = Network.parse(item)
    except BadValue:
        return "write it as 10.0.0.5 or 10.0.0.5-10.0.0.9"
    return f"write {Address(network.family, network.first)}-{Address(network.family, network.last)}"
