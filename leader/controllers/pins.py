"""Ends pins whose identity is gone for good or cannot find them, and seats of migration sources that nobody is left to give up.

An identity is gone: a StatefulSet that was deleted, or scaled down below the pod's ordinal; a KubeVirt machine without instance and definition; an
`IPAMClaim` that was deleted; a plain pod whose address was adopted (`nephila migrate`).

It cannot find a pin that nobody has and its SpiderEndpoint does not tell of: an ADD that failed between pinning and telling left it, and the next
one, on another node, pinned another address.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import structlog

from adapters.clock import Clock
from adapters.kube.store import StoreError
from crds.identities import MACHINE
from crds.meta import UNSET
from ipam import lease
from ipam.addresses import Family
from ipam.blocks import Block, Holder, NodeRef, Pin, PinOwner
from ipam.errors import BadValue
from ipam.slots import Page
from leader.identities import ASKED, PLAIN, STATEFUL, is_wanted_now, set_of, wants
from leader.loop import Allowance
from leader.sight import Sight, addresses_of
from leader.views import ENDPOINT_VIEW, EndpointView
from leader.writing import Writer

log = structlog.get_logger(__name__)

RECORDED = frozenset({STATEFUL, MACHINE})  # whose SpiderEndpoint has their own name; a claim tells by its status too


class Pins:
    def __init__(self, sight: Sight, writer: Writer, clock: Clock, orphan_s: float, allowance: Allowance) -> None:
        self._sight = sight
        self._writer = writer
        self._clock = clock
        self._orphan_s = orphan_s
        self._allowance = allowance
        self._suspected: dict[tuple[Page, int, PinOwner], float] = {}
        self._left: dict[tuple[Page, int, Holder], float] = {}
        self.removed = 0

    async def work(self) -> None:
        """One pass. Raises StoreError, Deposed."""
        now = self._clock.now()
        await self._empty_seats(now)
        blocks = {block.page: block for block in self._sight.ledger.blocks()}
        pins = [(page, pin) for page, block in blocks.items() for pin in block.pins]
        gone = {(page, pin.slot, pin.owner) for page, pin in pins if self._is_suspicious(page, pin)}
        self._suspected = {key: self._suspected.get(key, now) for key in gone}
        for key, since in sorted(self._suspected.items(), key=lambda item: (item[1], item[0][0], item[0][1])):
            if now - since < self._orphan_s or not self._allowance.take():
                continue
            try:
                wanted = await is_wanted_now(self._writer.store, key[2])
            except StoreError as error:
                if key[2].kind not in ASKED:
                    raise
                log.warning("identity_unknown", kind=key[2].kind, name=key[2].name, error=str(error))
                self._suspected[key] = now  # the kind may not be served: nothing is known, so nothing ends
                continue
            if not wanted:
                await self._unpin(*key)
            elif await self._is_forgotten_now(*key):
                await self._end_forgotten(*key, blocks[key[0]].epoch)
            else:
                self._suspected[key] = now  # a machine that is switched off: asked again after a while

    def _is_suspicious(self, page: Page, pin: Pin) -> bool:
        """As far as our copies tell."""
        owner = pin.owner
        if owner.kind in RECORDED and not pin.seats:
            told = self._sight.endpoints.get(owner.name, owner.namespace)
            if not _tells(told, page, pin.slot, owner):
                return True
        if owner.kind == PLAIN:
            return not self._sight.has_pod(owner.uid)
        if owner.kind == STATEFUL:
            name = set_of(owner)
            return not wants(self._sight.sets.get(name, owner.namespace), owner.name, name)
        return owner.kind in ASKED and not any(self._sight.has_pod(seat.pod_uid) for seat in pin.seats)

    async def _empty_seats(self, now: float) -> None:
        """Migration sources whose node cannot tell us of their end any more."""
        left = {
            (block.page, pin.slot, pin.source)
            for block in self._sight.ledger.blocks()
            for pin in block.pins
            if pin.is_shared and pin.source is not None and self._is_over(pin.source)
        }
        self._left = {key: self._left.get(key, now) for key in left}
        for (page, slot, source), since in list(self._left.items()):
            if now - since >= self._orphan_s and self._allowance.take():
                await self._change(page, partial(self._without, slot, source))

    def _without(self, slot: int, source: Holder, block: Block) -> Block:
        if not self._is_over(source):
            return block
        return lease.vacate_pin(block, NodeRef(source.node, ""), slot, source.pod_uid)

    def _is_over(self, seat: Holder) -> bool:
        """The pod is gone from the API, and so is its node, or an administrator vouches that nothing runs there."""
        if self._sight.has_pod(seat.pod_uid):
            return False
        node = self._sight.nodes.get(seat.node)
        return node is None or node.is_out_of_service

    def _may_run(self, block: Block, slot: int, seat: Holder) -> bool:
        """Whether a sandbox of the pod may still have the address: DEL empties the seat, or the leader has taken the lease by force."""
        if self._sight.has_pod(seat.pod_uid):
            return True
        pin = block.pin_at(slot)
        if pin is None:
            return False
        if pin.source == seat:  # it has no lease whose loss could tell
            return not self._is_over(seat)
        return bool(block.leased >> slot & 1)  # its node lives, or may

    async def _unpin(self, page: Page, slot: int, owner: PinOwner) -> None:
        def decide(block: Block) -> Block:
            pin = block.pin_at(slot)
            if pin is None or not pin.owner.same_identity(owner):
                return block
            if any(self._may_run(block, slot, seat) for seat in pin.seats):
                return block
            vacant = block
            for seat in pin.seats:
                vacant = lease.vacate_pin(vacant, NodeRef(seat.node, ""), slot, seat.pod_uid)
            return lease.unpin(vacant, slot, owner, self._writer.term)

        if await self._change(page, decide):
            self.removed += 1
            log.info("pin_removed", block=page.name, slot=slot, namespace=owner.namespace, identity=owner.name)

    async def _is_forgotten_now(self, page: Page, slot: int, owner: PinOwner) -> bool:
        """The same question, asked of the API server. Raises StoreError."""
        if owner.kind not in RECORDED:
            return False
        told = await self._writer.store.get(ENDPOINT_VIEW, owner.name, owner.namespace)
        return not _tells(told, page, slot, owner)

    async def _end_forgotten(self, page: Page, slot: int, owner: PinOwner, epoch: int) -> None:
        """`epoch`: the block's before its identity's record was read. Any change since may be an ADD that has the pin, and tells of it next."""

        def decide(block: Block) -> Block:
            pin = block.pin_at(slot)
            if block.epoch != epoch or pin is None or pin.seats:
                return block
            return lease.unpin(block, slot, owner, self._writer.term)

        if await self._change(page, decide):
            self.removed += 1
            log.info(
                "forgotten_pin_removed", block=page.name, slot=slot, namespace=owner.namespace, identity=owner.name
            )

    async def _change(self, page: Page, decide: Callable[[Block], Block]) -> bool:
        try:
            changed = await self._writer.change_block(page, decide)
        except BadValue as error:
            log.error("block_unreadable", block=page.name, error=str(error))
            return False
        return changed is not None and changed[0] is not changed[1]


def _tells(endpoint: EndpointView | None, page: Page, slot: int, owner: PinOwner) -> bool:
    """Whether the record gives this address to the identity's interface: there the next ADD looks for the pin."""
    if endpoint is None or endpoint.status is UNSET:
        return False
    wanted = (page.family, page.base + slot)
    told = [
        found
        for item in endpoint.status.current.ips
        if item.interface == owner.interface
        for found in addresses_of(item)
    ]
    return any((Family(address.family), address.value) == wanted for _pool, address in told)
