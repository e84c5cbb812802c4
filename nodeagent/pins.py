"""Addresses that belong to an identity: a pod of a StatefulSet keeps its address on each interface, on whichever node it runs (I6).

The pin in the `IPBlock` decides; the pod's `SpiderEndpoint`, written before the ADD reply, only says where to look for it. One compare-and-swap each:

- first ADD: a slot of this node's stock is set aside, pinned, journalled, told, and only then answered;
- DEL: the slot leaves this node's lease, which vacates its pin. While the API server is down it stays `leaving`, in the journal too;
- later ADD, here or elsewhere: pin, holder and lease move to this node, once the former holder is gone (`_why_held`);
- the pool no longer serves the pod: the pin ends, and the pod gets another address.

A crash between two of these leaves a pin without an attachment on its node: `sweep` then gives the slot back, and the retried ADD moves it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias
from weakref import WeakValueDictionary

import structlog

from adapters.clock import Clock
from adapters.kube.store import Store, StoreError
from crds.convert import as_owner, owner_references
from crds.core import NODE, POD, Pod
from crds.meta import UNSET
from crds.nephila import IP_NODE
from crds.spiderpool import ENDPOINT, IPAllocation
from ipam import lease
from ipam.addresses import Address, Family
from ipam.blocks import Block, Holder, Pin, PinOwner
from ipam.errors import ApiUnreachable, BadValue, PinnedElsewhere, PodGone
from ipam.owners import TopOwner, top_owner
from ipam.slots import SlotId
from ipam.stock import Held, State, Stock
from nodeagent.allocator import Allocator
from nodeagent.blockkeeper import BlockKeeper
from nodeagent.world import World

log = structlog.get_logger(__name__)

POLL_S = 0.2  # between two looks at a pin whose former holder is not gone yet
SWEEP_S = 1.0
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"  # an administrator's word that nothing runs on the node (KEP-2268)

IsSilent: TypeAlias = Callable[[SlotId], Awaitable[bool]]
"""A full probe: True if nobody on the wire answers for the address."""


async def not_probed_yet(_slot: SlotId) -> bool:
    """Stands in for the probe until it can be made."""
    return False


def identity_of(pod: Pod, interface: str) -> PinOwner | None:
    """Whose address this is: that of a pod of a native StatefulSet, whoever owns that. None if nobody's in particular."""
    owner = top_owner(as_owner(pod), owner_references(pod), {})
    if not isinstance(owner, TopOwner) or not owner.is_stateful_set:
        return None
    return PinOwner("StatefulSet", pod.namespace, pod.name, interface, owner.uid)


class Pins:
    """Run `run()` as a task. `is_silent` None: nothing can be probed; then only what the API server knows counts as evidence."""

    def __init__(
        self,
        store: Store,
        keeper: BlockKeeper,
        allocator: Allocator,
        stock: Stock,
        world: World,
        clock: Clock,
        is_silent: IsSilent | None = None,
    ) -> None:
        self.store = store
        self.keeper = keeper
        self.allocator = allocator
        self.stock = stock
        self.world = world
        self.clock = clock
        self.is_silent = is_silent
        self._turns: WeakValueDictionary[tuple[str, str, str], asyncio.Lock] = WeakValueDictionary()
        self._at_work: set[SlotId] = set()

    @asynccontextmanager
    async def turn(self, identity: PinOwner, pod: Pod) -> AsyncIterator[PinnedAdd]:
        """One ADD of an identity at a time on this node. What it sets aside and does not grant goes back afterwards."""
        key = (identity.namespace, identity.name, identity.interface)
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
                await self.sweep()
            except ApiUnreachable as error:
                log.warning("pins_not_swept", error=str(error))

    async def sweep(self) -> int:
        """Give back slots that are set aside for an identity that does not start here after all. Raises ApiUnreachable."""
        return await self.keeper.give_back(
            [held.slot for held in self.stock.pinned() if held.slot not in self._at_work]
        )


class PinnedAdd:
    """One ADD of one identity. `slots`: what it has set aside; nobody else touches them."""

    def __init__(self, pins: Pins, identity: PinOwner, pod: Pod, at_work: set[SlotId]) -> None:
        self._pins = pins
        self._keeper = pins.keeper
        self._identity = identity
        self._pod = pod
        self._at_work = at_work
        self.slots: set[SlotId] = set()

    async def bring(
        self, candidates: Mapping[Family, tuple[str, ...]], awaited: Iterable[Family], deadline: float
    ) -> dict[Family, Held]:
        """The identity's pinned slots, moved to this node, by family; those that no candidate pool serves any more are let go.

        `awaited`: families whose pool does not exist yet; nothing is decided about them. Raises PinnedElsewhere if a former holder is not gone
        by `deadline`, PodGone, ApiUnreachable.
        """
        brought: dict[Family, Held] = {}
        spared = set(awaited)
        for slot in await self._find():
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

            def decide(block: Block, slot: SlotId = slot) -> Block:
                return lease.pin(block, me, _ordinal(slot), self._identity, holder)

            if await self._keeper.change(slot.page, decide) is None or not self._is_kept(slot):
                raise PinnedElsewhere(
                    f"{slot} left this node while it was being pinned", hint="the kubelet tries again"
                )
            log.info("slot_pinned", address=str(slot), pod=f"{self._pod.namespace}/{self._pod.name}")

    def still_ours(self, picks: Iterable[Held]) -> None:
        """Right before the grant, after all the waiting. Raises PinnedElsewhere if a slot was taken away meanwhile."""
        for held in picks:
            if not self._is_kept(held.slot):
                raise PinnedElsewhere(f"{held.slot} left this node meanwhile", hint="the kubelet tries again")

    # Finding -------------------------------------------------------------------------------------------------------------------------

    async def _find(self) -> list[SlotId]:
        """Where the API says that the identity's pins are: looked up where this node or the SpiderEndpoint remembers them."""
        hints = {*self._keeper.pinned_to(self._identity), *await self._recorded()}
        found: list[SlotId] = []
        for page in sorted({slot.page for slot in hints}):
            pin = (await self._keeper.look(page)).pin_of(self._identity)
            if pin is not None:
                found.append(SlotId(page.domain, page.family, page.base + pin.slot))
        return found

    async def _recorded(self) -> list[SlotId]:
        """The addresses that the SpiderEndpoint of this name gives to this interface."""
        try:
            stored = await self._pins.store.get(ENDPOINT, self._identity.name, self._identity.namespace)
        except StoreError as error:
            raise ApiUnreachable(f"SpiderEndpoint {self._identity.name} could not be read: {error}") from error
        if stored is None or stored.status is UNSET:
            return []
        entries = (ip for ip in stored.status.current.ips if ip.interface == self._identity.interface)
        return [slot for entry in entries for slot in self._slots_of(entry)]

    def _slots_of(self, entry: IPAllocation) -> list[SlotId]:
        found: list[SlotId] = []
        for text, pool_name in ((entry.ipv4, entry.ipv4_pool), (entry.ipv6, entry.ipv6_pool)):
            if not text:
                continue
            pool = self._pins.world.pools.catalog.get(pool_name or "")
            try:
                address = Address.parse(text.split("/")[0])
            except BadValue as error:
                log.warning("endpoint_unreadable", pod=self._identity.name, error=str(error))
                continue
            found.append(SlotId(pool.domain if pool else "", address.family, address.value))
        return found

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
        while True:
            block = await self._keeper.look(slot.page)
            pin = block.pin_of(self._identity)
            if pin is None or pin.slot != _ordinal(slot):
                return None
            why = await self._why_held(slot, pin, block)
            if not why and not pool:
                await self._keeper.change(slot.page, partial(self._released, slot, pin.holder))
            elif not why and (held := await self._move(slot, pin.holder)) is not None:
                self._pins.stock.repool(slot, pool)
                return held
            if self._pins.clock.now() >= deadline:
                raise PinnedElsewhere(
                    f"{slot} belongs to {self._identity.namespace}/{self._identity.name}, but {why or 'is contended'}",
                    hint="the kubelet tries again; for a dead node, taint it out-of-service or delete it",
                )
            if why:
                await self._pins.clock.sleep(POLL_S)

    async def _move(self, slot: SlotId, displaced: Holder | None) -> Held | None:
        self._keep(slot)
        me, holder = self._keeper.me, self._holder()

        def decide(block: Block) -> Block:
            moved = lease.move_pin(block, self._identity, me, holder, displaced)
            return lease.clear_suspect(moved, me, slot.bit)

        if await self._keeper.change(slot.page, decide) is None or not self._is_kept(slot):
            return None
        log.info(
            "pin_moved",
            address=str(slot),
            pod=f"{self._pod.namespace}/{self._pod.name}",
            former=displaced and displaced.node,
        )
        return self._pins.stock.get(slot)

    def _released(self, slot: SlotId, former: Holder | None, block: Block) -> Block:
        vacant = lease.vacate_pin(block, self._keeper.me, _ordinal(slot), former.pod_uid) if former else block
        return lease.unpin(vacant, _ordinal(slot), self._identity, vacant.term)

    # Evidence ------------------------------------------------------------------------------------------------------------------------

    async def _why_held(self, slot: SlotId, pin: Pin, block: Block) -> str:
        """Why the address may not be used by this pod yet; "" if it may (I4, I5). Raises PodGone, ApiUnreachable."""
        pins, former = self._pins, pin.holder
        held = pins.stock.get(slot)
        if held is not None and held.state is State.LEAVING:
            return "its last sandbox on this node is just being accounted for"
        if (attachment := pins.allocator.holder_of(slot)) is not None:
            return f"container {attachment.key.container_id} on this node still has it"
        if former is not None and former.pod_uid != self._pod.uid and not self._is_on_record(former, slot, block):
            await self._require_current()
            if pins.is_silent is None and not await self._is_out_of_service(former.node):
                return f"pod {former.pod_uid} on node {former.node} is not known to be gone"
        if pins.is_silent is not None:
            return "" if await pins.is_silent(slot) else "somebody on the wire answers for it"
        if block.suspect & slot.bit:
            return "it was taken by force from a silent node, and nothing here can probe it"
        return ""

    def _is_on_record(self, former: Holder, slot: SlotId, block: Block) -> bool:
        """The former pod ran on this very node, whose journal no longer has it: its DEL was seen."""
        mine = block.lease_of(self._keeper.me)
        return former.node == self._keeper.me.name and mine is not None and bool(mine.slots & slot.bit)

    async def _require_current(self) -> None:
        """By a quorum read: this pod is the present one of its name, so any other UID of that name is gone from the API."""
        try:
            current = await self._pins.store.get(POD, self._pod.name, self._pod.namespace)
        except StoreError as error:
            raise ApiUnreachable(f"pod {self._pod.namespace}/{self._pod.name} could not be read: {error}") from error
        if current is None or current.uid != self._pod.uid:
            raise PodGone(f"pod {self._pod.namespace}/{self._pod.name} with UID {self._pod.uid} is gone")

    async def _is_out_of_service(self, name: str) -> bool:
        """An administrator said so by a taint, or removed the node, and the leader has wound up its leases."""
        try:
            node = await self._pins.store.get(NODE, name)
            if node is not None:
                return any(taint.key == OUT_OF_SERVICE for taint in node.spec.taints or ())
            return await self._pins.store.get(IP_NODE, name) is None
        except StoreError as error:
            raise ApiUnreachable(f"Node {name} could not be read: {error}") from error

    # Small -----------------------------------------------------------------------------------------------------------------------------

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
