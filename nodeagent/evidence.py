"""Whether a pinned address may be used by the pod that starts here: the pods that had it must be known to be gone, or be the same machine migrating.

A pod is known to be gone if this node's own journal saw its DEL, or if the API has no such pod any more and, besides, the address is silent or its
node is out of service (I4, I5). Nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from adapters.clock import Clock
from adapters.kube.store import Store, StoreError
from crds.core import NODE, Pod
from crds.nephila import IP_NODE
from ipam.blocks import Block, Holder, Pin
from ipam.errors import ApiUnreachable, PodGone
from ipam.slots import SlotId
from ipam.stock import State, Stock
from nodeagent.allocator import Allocator
from nodeagent.blockkeeper import BlockKeeper
from nodeagent.identities import Identities, Identity
from nodeagent.lastresort import release_command

WATCH_S = 4.0  # longer than `pins.GRANT_S`, whatever the rates of the two nodes' clocks

WhyNotSilent: TypeAlias = Callable[[SlotId], Awaitable[str]]
"""A full probe: who answers for the address on the wire, or why that could not be found out; "" if nobody does."""


class Evidence:
    """`why_not_silent` None: nothing can be probed; then only what the API server knows counts."""

    def __init__(
        self,
        store: Store,
        keeper: BlockKeeper,
        allocator: Allocator,
        stock: Stock,
        identities: Identities,
        clock: Clock,
        why_not_silent: WhyNotSilent | None = None,
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._allocator = allocator
        self._stock = stock
        self._identities = identities
        self._clock = clock
        self.why_not_silent = why_not_silent
        self._watched: dict[SlotId, tuple[Holder, int, float]] = {}  # whose seat, under which epoch, since when
        self.sees: Callable[[SlotId], bool] = lambda _slot: True  # which slots a probe can reach, where probes are made

    async def migration_source(self, identity: Identity, pod: Pod, pin: Pin) -> Holder | None:
        """The pod that this one's machine migrates from, if it lives and has the address. Raises ApiUnreachable."""
        if pin.seats_pod(pod.uid):
            return pin.source if pin.is_shared and pin.holder is not None and pin.holder.pod_uid == pod.uid else None
        source = pin.holder
        if not identity.migrating or source is None or source.node == self._keeper.me.name:
            return None  # KubeVirt never migrates a machine to the node that it is on
        return source if await self._identities.source_of(pod, source) else None

    def why_crowded(self, slot: SlotId, pin: Pin, pod: Pod) -> str:
        """Why a migration may not share the address yet; "" if it may."""
        if pin.is_shared and pin.source is not None and not pin.seats_pod(pod.uid):
            return f"pod {pin.source.pod_uid} on node {pin.source.node} has not left it since the last migration"
        return self._why_used_here(slot)

    async def why_held(self, slot: SlotId, pin: Pin, block: Block, identity: Identity, pod: Pod) -> str:
        """Why the address may not be used by this pod yet; "" if it may. Raises PodGone, ApiUnreachable."""
        if why := self._why_used_here(slot):
            return why
        for former in pin.seats:
            if former.pod_uid == pod.uid or self._is_on_record(former, slot, block):
                continue
            if self._is_forgotten(former, slot):
                return f"this node lost its journal, and pod {former.pod_uid} may still run on it: its DEL will tell, or a reboot"
            if why := await self._why_not_gone(former, slot, identity, pod):
                return why
            early = self._why_too_early(former, slot, block)
            if early and not await self.is_out_of_service(former.node):  # nothing runs there, no ADD either
                return early
        if (probe := self._probe_for(slot)) is not None:
            return await probe(slot)
        if block.suspect & slot.bit:
            return f"it was taken by force from a silent node, and nothing here can probe it: is it unused, `{release_command(slot)}`"
        return ""

    async def is_out_of_service(self, name: str) -> bool:
        """An administrator said so by a taint, or removed the node, and the leader has wound up its leases. Raises ApiUnreachable."""
        try:
            node = await self._store.get(NODE, name)
            if node is not None:
                return node.is_out_of_service
            return await self._store.get(IP_NODE, name) is None
        except StoreError as error:
            raise ApiUnreachable(f"Node {name} could not be read: {error}") from error

    def _probe_for(self, slot: SlotId) -> WhyNotSilent | None:
        """None: no interface of this node is on the slot's segment, so that its silence here would mean nothing."""
        return self.why_not_silent if self.sees(slot) else None

    def _why_used_here(self, slot: SlotId) -> str:
        held = self._stock.get(slot)
        if held is not None and held.state is State.LEAVING:
            return "its last sandbox on this node is just being accounted for"
        if (attachment := self._allocator.holder_of(slot)) is not None:
            return f"container {attachment.key.container_id} on this node still has it"
        return ""

    async def _why_not_gone(self, former: Holder, slot: SlotId, identity: Identity, pod: Pod) -> str:
        if not await self._identities.is_current(pod):
            raise PodGone(f"pod {pod.namespace}/{pod.name} with UID {pod.uid} is gone")
        # Of a StatefulSet, this pod is the present one of its name, so any other UID of that name is gone. Other identities' pods differ in name.
        if identity.owner.kind != "StatefulSet" and not await self._identities.is_gone(former, pod.namespace):
            return f"pod {former.pod_uid} on node {former.node} still exists"
        if self._probe_for(slot) is None and not await self.is_out_of_service(former.node):
            return f"pod {former.pod_uid} on node {former.node} is not known to be gone"
        return ""

    def _why_too_early(self, former: Holder, slot: SlotId, block: Block) -> str:
        """An ADD of the former pod may be under way, with no sandbox on the wire yet: it grants soon after it wrote the pin, or not at all."""
        epoch = next((lease.epoch for lease in block.leases if lease.slots & slot.bit), 0)
        now = self._clock.now()
        seen = self._watched.get(slot)
        if seen is None or seen[:2] != (former, epoch):
            seen = self._watched[slot] = (former, epoch, now)
        return "" if now - seen[2] >= WATCH_S else f"pod {former.pod_uid} on node {former.node} may be starting"

    def _is_on_record(self, former: Holder, slot: SlotId, block: Block) -> bool:
        """The former pod ran on this very node, whose journal no longer has it: its DEL was seen."""
        mine = block.lease_of(self._keeper.me)
        leased = mine is not None and bool(mine.slots & slot.bit)
        return leased and former.node == self._keeper.me.name and not self._is_forgotten(former, slot)

    def _is_forgotten(self, former: Holder, slot: SlotId) -> bool:
        """The journal that had the former pod was lost, so it says nothing; nor does silence, since a node does not hear its own pods."""
        return former.node == self._keeper.me.name and slot in self._keeper.shunned
