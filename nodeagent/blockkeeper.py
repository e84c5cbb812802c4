"""The node's leases: claims and gives back what it is asked to, and takes them anew after a fence mark; journal and stock follow the blocks.

Every change of ownership is one compare-and-swap on one `IPBlock` (`ipam.lease` says which). The order of journal and API is what makes a crash
between the two harmless:

- claim: the journal learns that this block concerns us *before* the write, and the slots *after* it; at a restart every block of the journal is
  read again, so slots claimed in between are found.
- give back: the journal marks the slots as leaving, durably (`sync`), *before* the write; they are never allocated again, whatever its outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from weakref import WeakValueDictionary

import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.journal import DropLease, DropSlot, Journal, LeaseRecord, PutLease, PutSlot, SlotRecord
from adapters.kube.store import Store, Unknown
from ipam import lease
from ipam.addresses import Family
from ipam.blocks import Block, Cooling, NodeRef
from ipam.errors import ApiUnreachable
from ipam.ranges import RangeSet
from ipam.slots import Page, SlotId
from ipam.stock import NEVER, State, Stock
from nodeagent.blockobjects import BlockObjects
from nodeagent.lastresort import LastResort
from nodeagent.leaseview import LeaseView, Seen
from nodeagent.pagesearch import PageSearch

log = structlog.get_logger(__name__)

MAX_CAS_ATTEMPTS = 8
LATE_S = 90.0  # a write whose answer never came may still be applied: API servers give a request up at 60 s
LOOK_AGAIN_S = 10.0

Decide = Callable[[Block], Block]
Choose = Callable[[Block, int, int, int, float], int]


class BlockKeeper(LeaseView):
    """The node's leases. Writes are made one at a time per block; the ADD path never waits for any of this."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        clock: Clock,
        entropy: Entropy,
        stock: Stock,
        me: NodeRef,
        pool_of: Callable[[SlotId], str],
        last_resort: LastResort,
        cooldown_s: float = float("inf"),
    ) -> None:
        """`cooldown_s`: no address rests longer than this, whatever a stepped wall clock says."""
        self._cooldown_s = cooldown_s
        self._journal = journal
        self._clock = clock
        self._stock = stock
        self._pool_of = pool_of
        self.last_resort = last_resort
        self.me = me
        self._blocks = BlockObjects(store, entropy)
        self.counters = self._blocks.counters
        self._mine = {}
        # Of those, to be read before the next decision; until then the last picture still tells of pins.
        self._outdated: set[Page] = set()
        self._recorded = {}
        self._unsure: dict[Page, float] = {}
        self._looked_at = NEVER
        self._search = PageSearch(me.name)
        self._remembered: dict[SlotId, SlotRecord] = {}
        self.lost: set[SlotId] = set()  # in use by our sandboxes, not in our lease: see nodeagent.lostslots
        self.unleased: set[SlotId] = set()  # likewise, but pinned to our pod, so that nobody else can get them
        self.shunned: set[SlotId] = set()  # leased, but never used in this boot: see nodeagent.lostjournal
        # Awaited before slots leave, when they cannot be handed out any more: see Segments.at_rest.
        self.at_rest: Callable[[Collection[SlotId]], Awaitable[None]] | None = None
        self._turns: WeakValueDictionary[Page, asyncio.Lock] = WeakValueDictionary()

    # Claim ---------------------------------------------------------------------------------------------------------------------------

    async def claim(
        self,
        pool: str,
        domain: str,
        addresses: RangeSet,
        count: int,
        *,
        urgent_for: int = 0,
        hints: Iterable[Page] = (),
    ) -> int:
        """Lease up to `count` more addresses of a pool; returns how many were got. `hints`: pages that are known to have some, read first.

        `urgent_for`: how many ADDs wait; then pages found full a moment ago are read again, and as a last resort cooling and suspect slots
        are taken (they need a probe before use). Raises ApiUnreachable when the API server does not answer.
        """
        got = 0
        looked: dict[Page, Block] = {}
        for page in hints:
            if got < count:
                self._outdated.add(page)  # what we last saw of it is older than the hint
                got += await self._claim_on(page, addresses.mask(page.base), count - got, lease.choose_free, looked)
        for page, mask in self._search.pages(pool, domain, addresses, self._mine):
            if got >= count:
                break
            if not urgent_for and self._search.is_resting(page, self._clock.now()):
                continue
            got += await self._claim_on(page, mask, count - got, lease.choose_free, looked)
        if urgent_for and not got:
            for page, mask in self._search.pages(pool, domain, addresses, self._mine):
                if got >= urgent_for:
                    break
                if page in looked and not self.last_resort.choose(looked[page], mask, 1, 0, self._clock.wall()):
                    continue  # read a moment ago: not worth another read
                got += await self._claim_on(page, mask, urgent_for - got, self.last_resort.choose, looked)
            self.last_resort.note(pool, addresses, () if got else looked.values())
        return got

    async def _claim_on(self, page: Page, usable: int, count: int, choose: Choose, looked: dict[Page, Block]) -> int:
        """How many slots were got. `looked` gets the block as it stands in the API afterwards."""
        start = self._search.first_slot(page)
        seen = self._current(page)
        if seen is not None and not choose(seen.block, usable, count, start, self._clock.wall()):
            self._outdated.add(page)  # an old picture shows nothing free; others may have given slots back since
        chosen = 0

        def decide(block: Block) -> Block:
            nonlocal chosen
            chosen = choose(block, usable, count, start, self._clock.wall())
            return lease.claim(block, self.me, chosen)

        after = await self._change(page, decide)
        if after is not None:
            looked[page] = after.block
        # Slots of other pages may have left the stock meanwhile, for a recall: what is counted is what was chosen here.
        got = sum(slot in self._stock for slot in page.slot_ids(chosen)) if after is not None else 0
        if after is None or not got:
            self._search.found_full(page, self._clock.now())
            return 0
        self._search.found_free(page)
        log.info("lease_claimed", block=page.name, slots=got, epoch=after.block.epoch)
        return got

    # Give back -----------------------------------------------------------------------------------------------------------------------

    async def give_back(self, slots: Iterable[SlotId]) -> int:
        """Return free slots to their blocks; those that are not free (any more) stay. Returns how many left.

        Raises ApiUnreachable; the slots then stay leaving, and `finish_leaving` must be called again.
        """
        left = self._stock.leave(slots)
        if not left:
            return 0
        wall_offset = self._clock.wall() - self._clock.now()
        records = [
            SlotRecord(h.slot.domain, h.slot.family, h.slot.value, "leaving", h.released_at, h.cool_until + wall_offset)
            if h.cool_until > NEVER
            else SlotRecord(h.slot.domain, h.slot.family, h.slot.value, "leaving")
            for h in left
        ]
        self._journal.commit([PutSlot(record) for record in records])
        return await self.finish_leaving({h.slot: h.cool_until + wall_offset for h in left})

    async def finish_leaving(self, cool_until_wall: Mapping[SlotId, float]) -> int:
        """Take slots that are journalled as leaving out of their blocks. Safe to repeat. Raises ApiUnreachable."""
        await self._journal.sync()  # or a power loss brings back what a pod had, while its address is someone else's
        if self.at_rest is not None:
            await self.at_rest(cool_until_wall.keys())
        by_page: dict[Page, list[SlotId]] = {}
        for slot in cool_until_wall:
            by_page.setdefault(slot.page, []).append(slot)
        return sum([await self._finish_on(page, slots, cool_until_wall) for page, slots in by_page.items()])

    async def _finish_on(self, page: Page, slots: list[SlotId], cool_until_wall: Mapping[SlotId, float]) -> int:
        """Those that are still leaving when it is this write's turn: an earlier one may have finished them, and a pin have come back since."""
        left: list[SlotId] = []

        def decide(block: Block) -> Block:
            wall = self._clock.wall()
            left[:] = [s for s in slots if (held := self._stock.get(s)) is not None and held.state is State.LEAVING]
            cooling = [Cooling(slot.bit, cool_until_wall[slot]) for slot in left if cool_until_wall[slot] > wall]
            return lease.give_back(block, self.me, sum(slot.bit for slot in left), cooling) if left else block

        if await self._change(page, decide) is None or not left:
            return 0
        self._journal.commit([DropSlot(slot.domain, slot.family, slot.value) for slot in left])
        for slot in left:
            self._stock.drop(slot)
        log.info("lease_given_back", block=page.name, slots=len(left))
        return len(left)

    # Retake and read back ------------------------------------------------------------------------------------------------------------

    def restore(self, records: Iterable[LeaseRecord], slots: Iterable[SlotRecord]) -> None:
        """At start, before anything is read: the leases and slot states that the journal remembers, which may be behind the API by one write."""
        self._remembered = {SlotId(r.domain, Family(r.family), r.value): r for r in slots}
        for record in records:
            page = Page.parse(record.page, record.domain)
            self._recorded[page] = record
            if not record.slots:
                self._unsure[page] = self._clock.now()
            for slot in page.slot_ids(record.slots):
                self._hold(slot, NEVER, suspect=0)
        for slot in [slot for slot, record in self._remembered.items() if record.state == "leaving"]:
            self._hold(slot, NEVER, suspect=0)  # the lease went before: only a seat in its pin is left to give up

    def discover(self, records: Iterable[LeaseRecord]) -> None:
        """Leases that the blocks tell of and the journal does not: to be re-taken with the others."""
        for record in records:
            self._recorded.setdefault(Page.parse(record.page, record.domain), record)

    def unshun(self, slot: SlotId) -> None:
        """The pod that had it is known to be gone from this node."""
        if slot in self.shunned:
            self.shunned.discard(slot)
            self._journal.commit([DropSlot(slot.domain, slot.family, slot.value)])

    async def reload(self) -> None:
        """Read every block the journal names and bring the stock in step with it. Raises ApiUnreachable."""
        for page in list(self._recorded):
            self._remember(await self._blocks.read(page))

    async def look_again(self) -> None:
        """Read blocks again for as long as a write of ours may still arrive there, so that no lease is held without our knowing.

        Raises ApiUnreachable.
        """
        now = self._clock.now()
        if not self._unsure or now - self._looked_at < LOOK_AGAIN_S:
            return
        self._looked_at = now
        for page, since in list(self._unsure.items()):
            if now - since > LATE_S:
                del self._unsure[page]
            await self.refresh(page)

    async def retake_all(self, formers: Sequence[NodeRef]) -> None:
        """Write every lease anew under a new epoch, as `self.me`; slots that the leader has taken meanwhile leave the stock. `formers`: this node
        under the Node UIDs that it had before.

        Raises ApiUnreachable: then nothing may be handed out yet.
        """

        def decide(block: Block) -> Block:
            # Read a moment ago, inside the same compare-and-swap: what stands there is what we may keep.
            held = [found for former in formers if (found := block.lease_of(former)) is not None]
            own = block.lease_of(self.me)
            for current in held or ([own] if own else []):
                block = lease.retake(block, self.me, current.node, current.epoch)
            return block

        for page in list(self._recorded):
            self._outdated.add(page)
            if await self._change(page, decide) is None:
                raise ApiUnreachable(
                    f"IPBlock {page.name} is contended; its lease could not be re-taken yet", hint="it is tried again"
                )

    # One compare-and-swap --------------------------------------------------------------------------------------------------------------

    async def change(self, page: Page, decide: Decide) -> Block | None:
        """Apply a decision to a block by compare-and-swap; for pins. None if it was refused for good. Raises ApiUnreachable."""
        after = await self._change(page, decide)
        return after.block if after else None

    async def look(self, page: Page) -> Block:
        """The block as it stands in the API now; a decision made on it must still be written by `change`. Raises ApiUnreachable."""
        seen = await self._blocks.read(page)
        if seen != self._mine.get(page):
            self._outdated.add(page)  # a decision on what was just seen must not be made on an older picture
        return seen.block

    def outdate(self, pages: Iterable[Page]) -> None:
        """Others have probably written these blocks since: read before the next decision, instead of writing in vain first."""
        self._outdated.update(pages)

    async def refresh(self, page: Page) -> None:
        """Read a block again and bring memory in step with it. Raises ApiUnreachable."""
        async with self._turn(page):  # no write of ours can be under way: what is read is what stands
            self._remember(await self._blocks.read(page))

    async def _change(self, page: Page, decide: Decide) -> Seen | None:
        """Read (or take what we last saw), decide, write; on conflict read and decide again. One at a time per page: an answer that is
        taken in late would otherwise bring back slots that a later write gave away.

        Returns what stands in the API afterwards, or None if `decide` keeps refusing. Raises ApiUnreachable.
        """
        async with self._turn(page):
            return await self._compare_and_swap(page, decide)

    def _turn(self, page: Page) -> asyncio.Lock:
        return self._turns.setdefault(page, asyncio.Lock())

    def _current(self, page: Page) -> Seen | None:
        """What a decision may be based on without reading: the last picture of the page, unless it is known to be outdated."""
        return None if page in self._outdated else self._mine.get(page)

    async def _compare_and_swap(self, page: Page, decide: Decide) -> Seen | None:
        seen = self._current(page)
        is_fresh = seen is None
        for _attempt in range(MAX_CAS_ATTEMPTS):
            if seen is None:
                seen, is_fresh = await self._blocks.read(page), True
            try:
                wanted = decide(seen.block)
            except lease.LeaseRefused as refusal:
                if not is_fresh:  # decided on an old picture: look again
                    seen = None
                    continue
                log.info("lease_refused", block=page.name, why=str(refusal))
                return None
            if wanted is seen.block:
                self._remember(seen)
                return seen
            await self._announce_interest(page, seen.block)
            written = await self._write(seen, lease.forget_expired(wanted, self._clock.wall()))
            if written is not None:
                self._remember(written)
                return written
            self._outdated.add(page)
            seen = None
        log.warning("lease_contended", block=page.name, attempts=MAX_CAS_ATTEMPTS)
        return None

    async def _write(self, seen: Seen, wanted: Block) -> Seen | None:
        """One compare-and-swap; None if another writer was first, or if nobody knows (the next read will tell)."""
        written = await self._blocks.write(seen, wanted, self._clock.wall())
        if isinstance(written, Unknown):
            self._unsure[wanted.page] = self._clock.now()
            return None
        return written

    # Memory and journal ----------------------------------------------------------------------------------------------------------------

    async def _announce_interest(self, page: Page, block: Block) -> None:
        """Before the first write to a block: a restart, even after a power loss, must know that it concerns us, or the lease leaks."""
        if page not in self._recorded:
            self._record(page, block)
            await self._journal.sync()

    def _record(self, page: Page, block: Block) -> None:
        current = block.lease_of(self.me)
        record = LeaseRecord(
            page.name, page.cidr, page.domain, current.epoch if current else 0, current.slots if current else 0
        )
        if self._recorded.get(page) != record:
            self._journal.commit([PutLease(record)])
            self._recorded[page] = record

    def _remember(self, seen: Seen) -> None:
        """What stands in the API is known: bring memory, stock and journal in step with it."""
        page = seen.block.page
        self._outdated.discard(page)
        current = seen.block.lease_of(self.me)
        self._reconcile_stock(seen.block, current.slots if current else 0)
        if current is not None:
            self._mine[page] = seen
            self._record(page, seen.block)
            return
        self._mine.pop(page, None)
        if page in self._unsure:
            self._record(page, seen.block)  # a claim may still arrive: the block concerns us until it cannot any more
            return
        if self._recorded.pop(page, None) is not None:
            self._journal.commit([DropLease(page.name)])

    def _reconcile_stock(self, block: Block, leased: int) -> None:
        """Slots of the lease that the stock lacks enter it, be they from this claim or from one whose outcome was unknown; others leave it."""
        wall, page = self._clock.wall(), block.page
        held_here = self._stock.on_page(page)
        known = sum(held.slot.bit for held in held_here)
        for slot in page.slot_ids(leased & ~known):
            until = max((entry.until for entry in block.cooling if entry.slots & slot.bit), default=NEVER)
            self._hold(slot, until if until > wall else NEVER, suspect=block.suspect & slot.bit)
        for slot in page.slot_ids(leased & known & block.suspect):
            self._stock.distrust(slot)  # the journal of an earlier run did not say so
        for slot in page.slot_ids(leased & block.pinned):
            self._stock.set_aside(slot)  # only its identity's ADD may take it from there (I6)
        for held in held_here:
            if leased & held.slot.bit or held.state is State.LEAVING:
                continue  # leaving slots are dropped by finish_leaving, with their journal entry
            if held.state is State.ALLOCATED:
                self._note_lost(block, held.slot)
                continue  # its pod still runs and is served
            self._stock.drop(held.slot)

    def _note_lost(self, block: Block, slot: SlotId) -> None:
        pin = block.pin_at(slot.value - block.page.base)
        if pin is not None and any(seat.node == self.me.name for seat in pin.seats):
            if pin.source is None:  # else: its machine migrates away
                self.unleased.add(slot)
                self.lost.discard(slot)
            return
        log.error("allocated_slot_lost", address=str(slot), block=block.page.name)
        self.lost.add(slot)
        self.unleased.discard(slot)

    def _hold(self, slot: SlotId, cool_until_wall: float, *, suspect: int) -> None:
        """Into the stock, with what the journal remembers of the slot."""
        if slot in self.shunned:
            return
        now, wall = self._clock.now(), self._clock.wall()
        record = self._remembered.pop(slot, None)
        if record is not None and record.state in ("cooling", "leaving"):
            cool_until_wall = max(cool_until_wall, record.until_wall)
        if suspect and record is None and self._cooldown_s < float("inf"):
            # Whoever had it may have let it go a moment ago, which nobody here can know: it rests as if just released.
            cool_until_wall = wall + self._cooldown_s
            rest = SlotRecord(slot.domain, slot.family, slot.value, "cooling", now, cool_until_wall)
            self._journal.commit([PutSlot(rest)])
        cool_until = now + min(cool_until_wall - wall, self._cooldown_s) if cool_until_wall > wall else NEVER
        self._stock.hold(slot, self._pool_of(slot), now, cool_until=cool_until, suspect=bool(suspect))
        if record is not None and record.state == "leaving":
            for held in self._stock.leave([slot]):
                # What lies ahead is of an earlier boot's clock.
                held.released_at = record.released_now if record.released_now <= now else NEVER
        if record is not None and record.state == "quarantined":
            self._stock.accuse(slot)
