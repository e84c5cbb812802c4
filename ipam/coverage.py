"""Which pool an address, or each slot of a page, belongs to: an index over what every pool may hand out."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping

from ipam.addresses import Family
from ipam.ranges import RangeSet
from ipam.slots import PAGE_SIZE, Page, SlotId

_Span = tuple[int, int, str]


class Coverage:
    """Immutable. `effective` must be disjoint within one L2 domain, as `overlaps.arbitrate` makes it. Lookups are O(log n)."""

    __slots__ = ("_lasts", "_spans", "effective")

    def __init__(self, effective: Mapping[str, RangeSet], domains: Mapping[str, str]) -> None:
        self.effective = dict(effective)
        spans: dict[tuple[str, Family], list[_Span]] = {}
        for pool, addresses in effective.items():
            key = (domains.get(pool, ""), addresses.family)
            spans.setdefault(key, []).extend((first, last, pool) for first, last in addresses.spans)
        self._spans = {key: sorted(found) for key, found in spans.items()}
        self._lasts = {key: [last for _, last, _ in found] for key, found in self._spans.items()}

    def pool_of(self, slot: SlotId) -> str:
        """The pool that may give out this address; "" for none."""
        key = (slot.domain, slot.family)
        index = bisect_left(self._lasts.get(key, ()), slot.value)
        spans = self._spans.get(key, ())
        if index < len(spans) and spans[index][0] <= slot.value:
            return spans[index][2]
        return ""

    def of_page(self, page: Page) -> Iterator[tuple[str, int]]:
        """Each pool with addresses on the page, once, and the mask of its slots there."""
        key = (page.domain, page.family)
        spans = self._spans.get(key)
        if not spans:
            return
        last = page.base + PAGE_SIZE - 1
        begin = bisect_left(self._lasts[key], page.base)
        end = bisect_right(spans, (last, 1 << 129, ""))
        for pool in dict.fromkeys(name for _, _, name in spans[begin:end]):
            yield pool, self.effective[pool].mask(page.base)
