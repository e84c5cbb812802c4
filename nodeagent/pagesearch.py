"""In which order the pages of a pool are tried for free slots, so that nodes rarely collide and no full page is read over and over."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import blake2b

from ipam.ranges import RangeSet
from ipam.slots import PAGE_SIZE, Page
from ipam.stock import NEVER

MAX_PAGES_PER_ROUND = 64  # pages looked at in one attempt to claim; the next round starts where this one ended
FULL_PAGE_REST_S = 2.0  # a page found full is not read again before this, unless an ADD waits


class PageSearch:
    """One node's way through the pages of its pools. It starts where a hash of the node's name says, and goes on from there."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._full_since: dict[Page, float] = {}
        self._next_index: dict[str, int] = {}

    def pages(self, pool: str, domain: str, addresses: RangeSet, mine: Collection[Page]) -> Iterable[tuple[Page, int]]:
        """Pages to try, each with the mask of its addresses in the pool: `mine`, of which a picture is at hand, before those to be read.

        `mine` may change while this runs.
        """
        for page in [page for page in mine if page.domain == domain and page.family is addresses.family]:
            if mask := addresses.mask(page.base):
                yield page, mask
        total = addresses.page_count
        if not total:
            return
        start = self._next_index.get(pool, _hash(self._node, pool) % total)
        for step in range(min(total, MAX_PAGES_PER_ROUND)):
            index = (start + step) % total
            page = Page(addresses.family, addresses.page_base(index), domain)
            if page not in mine:
                yield page, addresses.mask(page.base)
            self._next_index[pool] = (index + 1) % total if total > MAX_PAGES_PER_ROUND else start

    def first_slot(self, page: Page) -> int:
        """Where in a page this node starts to look."""
        return _hash(self._node, page.name) % PAGE_SIZE

    def is_resting(self, page: Page, now: float) -> bool:
        """True if the page was found full a moment ago."""
        return now - self._full_since.get(page, NEVER) < FULL_PAGE_REST_S

    def found_full(self, page: Page, now: float) -> None:
        self._full_since[page] = now

    def found_free(self, page: Page) -> None:
        self._full_since.pop(page, None)


def _hash(*parts: str) -> int:
    """Stable across processes and versions: nodes must agree with themselves after a restart."""
    return int.from_bytes(blake2b("/".join(parts).encode(), digest_size=8).digest())
