"""How many addresses of each pool are in nobody's lease: kept up to date block by block, so that a plan need not count 15,000 blocks."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ipam.blocks import Block
from ipam.coverage import Coverage
from ipam.slots import Page
from leader.moves import Moves

MAX_PAGES_SEEN = 4096
MAX_PAGES_FOUND = 256


class Ledger:
    """All readable blocks, and per pool the sum of what they withhold. A block counts for every pool with addresses on its page."""

    def __init__(self, coverage: Coverage) -> None:
        self._coverage = coverage
        self._blocks: dict[str, Block] = {}
        self._withheld: dict[str, dict[str, int]] = {}
        self._sums: dict[str, int] = {}
        self._pinned_idle: dict[str, dict[str, int]] = {}  # by block and pool: the mask of the slots
        self._cooling: set[str] = set()
        self.moves = Moves()

    def blocks(self) -> Iterable[Block]:
        return tuple(self._blocks.values())

    @property
    def highest_term(self) -> int:
        return max((block.term for block in self._blocks.values()), default=0)

    def cover(self, coverage: Coverage) -> None:
        """The pools changed: count everything anew."""
        self._coverage = coverage
        self._sums.clear()
        self._withheld.clear()
        self._pinned_idle.clear()
        for name, block in self._blocks.items():
            self._add(name, block, 0.0)

    def put(self, name: str, block: Block | None, now: float) -> set[str]:
        """A block as it is now (None: gone or unreadable); returns the pools that it concerns."""
        self.moves.note(self._blocks.get(name), block, self._coverage, now)
        touched = self._drop(name)
        if block is None:
            self._blocks.pop(name, None)
            return touched
        self._blocks[name] = block
        self._add(name, block, 0.0)
        return touched | set(self._withheld[name])

    def unleased(self, pool: str, wall: float) -> int:
        """Addresses of the pool that are not leased, pinned, suspect or cooling at `wall` (Unix seconds)."""
        addresses = self._coverage.effective.get(pool)
        if addresses is None:
            return 0
        for name in [name for name in self._cooling if pool in self._withheld.get(name, ())]:
            block = self._blocks[name]
            self._drop(name)
            self._add(name, block, wall)
        return max(addresses.size - self._sums.get(pool, 0), 0)

    def open_pages(self, pool: str, domain: str, wall: float) -> list[tuple[str, int]]:
        """Pages (CIDR) of the pool with addresses that a node may claim at once, and how many; bounded. A page without a block is all free."""
        addresses = self._coverage.effective.get(pool)
        found: list[tuple[str, int]] = []
        if addresses is None:
            return found
        for base in islice(addresses.page_bases(), MAX_PAGES_SEEN):
            page = Page(addresses.family, base, domain)
            block = self._blocks.get(page.name)
            usable = addresses.mask(base)
            if block is not None:
                usable &= block.free & ~block.pinned & ~block.suspect & ~block.cooling_at(wall)
            if usable:
                found.append((page.cidr, usable.bit_count()))
                if len(found) >= MAX_PAGES_FOUND:
                    break
        return found

    def pinned_idle(self, pool: str) -> frozenset[int]:
        """The values of the pool's addresses that are pinned to identities which do not run now."""
        pages = ((self._blocks[name].page, found[pool]) for name, found in self._pinned_idle.items() if pool in found)
        return frozenset(slot.value for page, mask in pages for slot in page.slot_ids(mask))

    def _add(self, name: str, block: Block, wall: float) -> None:
        cooling = block.cooling_at(wall)
        taken = block.leased | block.pinned | block.suspect | cooling
        idle = 0
        for pin in block.pins:
            if pin.holder is None:
                idle |= 1 << pin.slot
        found: dict[str, int] = {}
        for pool, mask in self._coverage.of_page(block.page):
            found[pool] = (mask & taken).bit_count()
            self._sums[pool] = self._sums.get(pool, 0) + found[pool]
            if idle & mask:
                self._pinned_idle.setdefault(name, {})[pool] = idle & mask
        self._withheld[name] = found
        if cooling:
            self._cooling.add(name)

    def _drop(self, name: str) -> set[str]:
        found = self._withheld.pop(name, {})
        for pool, count in found.items():
            self._sums[pool] -= count
        self._pinned_idle.pop(name, None)
        self._cooling.discard(name)
        return set(found)
