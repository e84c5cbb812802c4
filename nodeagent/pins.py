"""Addresses that belong to an identity: a StatefulSet's pod, a KubeVirt machine, an `IPAMClaim` keep theirs on each interface, on any node (I6).

The pin in the `IPBlock` decides; what is written before the ADD reply (`SpiderEndpoint`, the claim's status) only says where to look for it. One
compare-and-swap each:

- first ADD: a slot of this node's stock is set aside, pinned, journalled, told, and only then answered;
- DEL: the slot leaves this node's lease, which vacates its pin. While the API server is down it stays `leaving`, in the journal too;
- later ADD, here or elsewhere: pin, holder and lease move to this node, once the former holder is gone (`nodeagent.evidence`);
- ADD of a live migration's target: they move too, and the source keeps a seat in the pin until its DEL; until then nothing is told or announced;
- the pool no longer serves the pod: the pin ends, and the pod gets another address.

A crash between two of these leaves a pin without an attachment on its node: `sweep` then gives the slot back, and the retried ADD moves it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from weakref import WeakValueDictionary

import structlog

from adapters.clock import Clock
from adapters.kube.store import Store, StoreError
from crds.core import Pod
from crds.meta import UNSET
from crds.spiderpool import ENDPOINT, IPAllocation
from ipam import lease
from ipam.addresses import Address, Family
from ipam.blocks import Block, Holder, Pin
from ipam.errors import ApiUnreachable, BadValue, PinnedElsewhere
from ipam.slots import SlotId
from ipam.stock import Held, State, Stock
from nodeagent.blockkeeper import BlockKeeper
from nodeagent.evidence import Evidence
from nodeagent.forgotten import Forgotten
from nodeagent.identities import Identity
from nodeagent.world import World

log = structlog.get_logger(__name__)

POLL_S = 0.2  # between two looks at a pin whose former holder is not gone yet
SWEEP_S = 1.0
GRANT_S = 2.0  # from the beginning of the write of a pin to its grant


class Pins:
    """Run `run()` as a task. `settled` is told of each slot whose live migration is over: it is this node's alone now.

    `on_own`: see `Needs.has_own`.
    """

    def __init__(
        self,
        store: Store,
        keeper: BlockKeeper,
        stock: Stock,
        world: World,
        clock: Clock,
        evidence: Evidence,
        on_own: Callable[[str, str, frozenset[Family]], None],
    ) -> None:
        self.store = store
        self.keeper = keeper
        self.stock = stock
        self.world = world
        self.clock = clock
        self.evidence = evidence
        self.settled: list[Callable[[SlotId], None]] = []
        self.on_own = on_own
        self.migrating: set[SlotId] = (
            set()
        )  # what `settled` was not told of yet; any other read of a block may see the end first
        self.forgotten = Forgotten(keeper, clock)
        self._turns: WeakValueDictionary[tuple[str, str, str, str], asyncio.Lock] = WeakValueDictionary()
        self._at_work: set[SlotId] = set()

    @asynccontextmanager
    async def turn(self, identity: Identity, pod: Pod) -> AsyncIterator[PinnedAdd]:
        """One ADD of an identity at a time on this node. What it sets aside and does not grant goes back afterwards."""
        owner = identity.owner
        key = (owner.kind, owner.namespace, owner.name, owner.interface)
        lock = self._turns.get(key)
        if lock is None:
            lock = self._turns[key] = asyncio.Lock()
        async with lock:
            work = PinnedAdd(self, identity, pod, self._at_work)
            try:
                yield work
            finally:
                self._at_work -= work.slots

    async def run(self) -> None:
        while True:
            await self.clock.sleep(SWEEP_S)
            try:
                await self.forgotten.settle()
                await self.sweep()
                await self.settle()
            except ApiUnreachable as error:
                log.warning("pins_not_swept", error=str(error))

    async def sweep(self) -> int:
        """Give back slots that are set aside for an identity that does not start here after all. Raises ApiUnreachable."""
        return await self.keeper.give_back(
            [held.slot for held in self.stock.pinned() if held.slot not in self._at_work]
        )

    async def settle(self) -> None:
        """Look whether the sources of live migrations to this node have left. Raises ApiUnreachable."""
        self.migrating |= set(self.keeper.shared())
        for page in {slot.page for slot in self.migrating}:
            await self.keeper.refresh(page)
        for slot in [slot for slot in self.migrating if not self.keeper.is_shared(slot)]:
            self.migrating.discard(slot)
            log.info("migration_settled", address=str(slot))
            for tell in self.settled:
                tell(slot)


class PinnedAdd:
    """One ADD of one identity. `slots`: what it has set aside; nobody else touches them."""

    def __init__(self, pins: Pins, identity: Identity, pod: Pod, at_work: set[SlotId]) -> None:
        self._pins = pins
        self._keeper = pins.keeper
        self._identity = identity
        self._owner = identity.owner
        self._pod = pod
        self._at_work = at_work
        self.slots: set[SlotId] = set()
        self._written_at = float("inf")

    async def bring(
        self, candidates: Mapping[Family, tuple[str, ...]], awaited: Iterable[Family], deadline: float
    ) -> dict[Family, Held]:
        """The identity's pinned slots, moved to this node, by family; those that no candidate pool serves any more are let go.

        `awaited`: families whose pool does not exist yet; nothing is decided about them. Raises PinnedElsewhere if a former holder is not gone
        by `deadline`, PodGone, ApiUnreachable.
        """
        brought: dict[Family, Held] = {}
        spared, own = set(awaited), await self._find()
        self._pins.on_own(self._pod.uid, self._owner.interface, frozenset(slot.family for slot in own))
        for slot in own:
            if slot.family in spared and slot.family not in candidates:
                continue
            pool = "" if slot.family in brought else self._serving(slot, candidates.get(slot.family, ()))
            held = await self._settle(slot, pool, deadline)
            if held is not None:
                brought[slot.family] = held
        return brought

    def set_aside(self, picks: list[Held]) -> list[Held]:
        """Keep picked slots for this identity."""
        for held in picks:
            self._keep(held.slot)
            self._pins.stock.set_aside(held.slot)
        return picks

    async def fasten(self, fresh: Iterable[Held]) -> None:
        """Pin slots that were set aside. Raises ApiUnreachable, PinnedElsewhere."""
        me, holder = self._keeper.me, self._holder()
        for held in fresh:
            slot = held.slot

            self._write_begins()

            def decide(block: Block, slot: SlotId = slot) -> Block:
                return lease.pin(block, me, _ordinal(slot), self._owner, holder)

            if await self._keeper.change(slot.page, decide) is None or not self._is_kept(slot):
                raise PinnedElsewhere(
                    f"{slot} left this node while it was being pinned", hint="the kubelet tries again"
                )
            log.info("slot_pinned", address=str(slot), pod=f"{self._pod.namespace}/{self._pod.name}")

    def still_ours(self, picks: Iterable[Held]) -> None:
        """Right before the grant, after all the waiting. Raises PinnedElsewhere if somebody was heard to use a slot meanwhile (the frames of the
        probe before may have been lost), or if a slot was taken away, or may have been: whoever finds our pod gone from the API, and the address
        silent, watches its pin for longer than this before it takes it (`evidence.WATCH_S`).
        """
        if self._pins.clock.now() - self._written_at > GRANT_S:
            raise PinnedElsewhere(
                f"the pin of {self._owner.namespace}/{self._owner.name} was written too long ago",
                hint="the kubelet tries again",
            )
        for held in picks:
            if not self._is_kept(held.slot):
                raise PinnedElsewhere(f"{held.slot} left this node meanwhile", hint="the kubelet tries again")
            if held.accused and not self._keeper.is_shared(held.slot):  # of a migration the source is heard, rightly
                raise PinnedElsewhere(
                    f"somebody was heard to use {held.slot} since it was found silent",
                    hint="the kubelet tries again, and it is tested again",
                )

    # Finding -------------------------------------------------------------------------------------------------------------------------

    async def _find(self) -> list[SlotId]:
        """Where the API says that the identity's pins are: looked up where this node, the SpiderEndpoint or the claim remembers them."""
        hints = {*self._keeper.pinned_to(self._owner), *await self._recorded(), *self._claimed()}
        found: list[SlotId] = []
        for page in sorted({slot.page for slot in hints}):
            pin = (await self._keeper.look(page)).pin_of(self._owner)
            if pin is not None:
                found.append(SlotId(page.domain, page.family, page.base + pin.slot))
        return found

    async def _recorded(self) -> list[SlotId]:
        """The addresses that the SpiderEndpoint of this name gives to this interface."""
        try:
            stored = await self._pins.store.get(ENDPOINT, self._identity.endpoint, self._owner.namespace)
        except StoreError as error:
            raise ApiUnreachable(f"SpiderEndpoint {self._identity.endpoint} could not be read: {error}") from error
        if stored is None or stored.status is UNSET:
            return []
        entries = (ip for ip in stored.status.current.ips if ip.interface == self._owner.interface)
        return [slot for entry in entries for slot in self._slots_of(entry)]

    def _claimed(self) -> list[SlotId]:
        """The addresses that the claim's status tells, in every L2 domain that has pools of them."""
        claim = self._identity.claim
        found: list[SlotId] = []
        for text in (claim.status.ips or ()) if claim else ():
            if (address := self._readable(text)) is not None:
                pools = self._pins.world.pools.catalog
                domains = {pool.domain for pool in pools if pool.family is address.family and address in pool.subnet}
                found += [SlotId(domain, address.family, address.value) for domain in sorted(domains)]
        return found

    def _slots_of(self, entry: IPAllocation) -> list[SlotId]:
        found: list[SlotId] = []
        for text, pool_name in ((entry.ipv4, entry.ipv4_pool), (entry.ipv6, entry.ipv6_pool)):
            if not text:
                continue
            pool = self._pins.world.pools.catalog.get(pool_name or "")
            if (address := self._readable(text)) is not None:
                found.append(SlotId(pool.domain if pool else "", address.family, address.value))
        return found

    def _readable(self, text: str) -> Address | None:
        try:
            return Address.parse(text.split("/")[0])
        except BadValue as error:
            log.warning("record_unreadable", identity=self._owner.name, error=str(error))
            return None

    def _serving(self, slot: SlotId, names: Iterable[str]) -> str:
        """The candidate pool that holds the address, "" if none does. Reserving an address does not take it from those who have it."""
        for name in names:
            pool = self._pins.world.pools.catalog.get(name)
            if (
                pool is not None
                and (pool.domain, pool.family) == (slot.domain, slot.family)
                and slot.value in pool.usable
            ):
                return name
        return ""

    # Moving --------------------------------------------------------------------------------------------------------------------------

    async def _settle(self, slot: SlotId, pool: str, deadline: float) -> Held | None:
        """Move the pin here, or end it if no `pool` serves it; None if it is no more. Waits for the former holder until `deadline`."""
        evidence = self._pins.evidence
        while True:
            block = await self._keeper.look(slot.page)
            self._pins.stock.absolve(slot)
            pin = block.pin_of(self._owner)
            if pin is None or pin.slot != _ordinal(slot):
                return None
            held: Held | None = None
            source = await evidence.migration_source(self._identity, self._pod, pin)
            if source is not None:
                why = evidence.why_crowded(slot, pin, self._pod)
                pool = pool or self._kept_pool(slot)
                if not why:
                    self._pins.migrating.add(slot)
                    held = await self._bring(slot, partial(self._shared, source))
            else:
                why = await evidence.why_held(slot, pin, block, self._identity, self._pod)
                if not why and not pool:
                    await self._keeper.change(slot.page, partial(self._released, slot, pin))
                elif not why:
                    held = await self._bring(slot, partial(self._moved, slot, pin))
            if held is not None:
                self._pins.stock.repool(slot, pool)
                return held
            if self._pins.clock.now() >= deadline:
                raise PinnedElsewhere(
                    f"{slot} belongs to {self._owner.namespace}/{self._owner.name}, but {why or 'is contended'}",
                    hint="the kubelet tries again; for a dead node, taint it out-of-service or delete it",
                )
            if why:
                await self._pins.clock.sleep(POLL_S)

    def _kept_pool(self, slot: SlotId) -> str:
        """A machine that migrates takes its address along, whatever its pools say by now; but some pool must tell prefix and routes."""
        if pool := self._pins.world.pools.pool_of(slot):
            return pool
        raise PinnedElsewhere(
            f"{slot} of {self._owner.namespace}/{self._owner.name} is in no pool any more, and a live migration cannot change it",
            hint="restart the machine instead, or put the address back into a pool",
        )

    async def _bring(self, slot: SlotId, decide: Callable[[Block], Block]) -> Held | None:
        self._keep(slot)
        self._keeper.unshun(slot)
        self._write_begins()
        if await self._keeper.change(slot.page, decide) is None or not self._is_kept(slot):
            return None
        log.info("pin_moved", address=str(slot), pod=f"{self._pod.namespace}/{self._pod.name}")
        return self._pins.stock.get(slot)

    def _moved(self, slot: SlotId, former: Pin, block: Block) -> Block:
        moved = lease.move_pin(block, self._owner, self._keeper.me, self._holder(), former.seats)
        return lease.clear_suspect(moved, self._keeper.me, slot.bit)

    def _shared(self, source: Holder, block: Block) -> Block:
        return lease.share_pin(block, self._owner, self._keeper.me, self._holder(), source)

    def _released(self, slot: SlotId, former: Pin, block: Block) -> Block:
        for seat in former.seats:
            block = lease.vacate_pin(block, self._keeper.me, _ordinal(slot), seat.pod_uid)
        return lease.unpin(block, _ordinal(slot), self._owner, block.term)

    # Small -----------------------------------------------------------------------------------------------------------------------------

    def _write_begins(self) -> None:
        self._written_at = min(self._written_at, self._pins.clock.now())

    def _holder(self) -> Holder:
        return Holder(self._keeper.me.name, self._pod.uid)

    def _keep(self, slot: SlotId) -> None:
        self.slots.add(slot)
        self._at_work.add(slot)

    def _is_kept(self, slot: SlotId) -> bool:
        held = self._pins.stock.get(slot)
        return held is not None and held.state is State.PINNED


def _ordinal(slot: SlotId) -> int:
    return slot.value - slot.page.base
