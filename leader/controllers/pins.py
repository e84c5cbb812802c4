"""Ends pins whose identity is gone for good.

A StatefulSet that was deleted, or scaled down below the pod's ordinal; a plain pod whose address was adopted (`nephila migrate`) and that is gone.
"""

from __future__ import annotations

import structlog

from adapters.clock import Clock
from crds.core import POD, STATEFUL_SET
from ipam import lease, owners
from ipam.blocks import Block, NodeRef, PinOwner
from ipam.errors import BadValue
from ipam.slots import Page
from leader.controllers.endpoints import is_wanted
from leader.loop import Allowance
from leader.sight import Sight
from leader.writing import Writer

log = structlog.get_logger(__name__)

# Pins of owners of other kinds are ended by whoever made them: what they want is not known here.
STATEFUL, PLAIN = "StatefulSet", "Pod"


class Pins:
    def __init__(self, sight: Sight, writer: Writer, clock: Clock, orphan_s: float, allowance: Allowance) -> None:
        self._sight = sight
        self._writer = writer
        self._clock = clock
        self._orphan_s = orphan_s
        self._allowance = allowance
        self._suspected: dict[tuple[Page, int, PinOwner], float] = {}
        self.removed = 0

    async def work(self) -> None:
        """One pass. Raises StoreError, Deposed."""
        now = self._clock.now()
        gone = {
            (block.page, pin.slot, pin.owner)
            for block in self._sight.ledger.blocks()
            for pin in block.pins
            if pin.owner.kind in (STATEFUL, PLAIN) and not self._is_wanted(pin.owner)
        }
        self._suspected = {key: self._suspected.get(key, now) for key in gone}
        for key, since in sorted(self._suspected.items(), key=lambda item: (item[1], item[0][0], item[0][1])):
            if now - since >= self._orphan_s and self._allowance.take():
                await self._unpin(*key)

    def _is_wanted(self, owner: PinOwner) -> bool:
        if owner.kind == PLAIN:
            return self._sight.has_pod(owner.uid)
        name = set_of(owner)
        return is_wanted(self._sight.sets.get(name, owner.namespace), owner.name, name)

    async def _is_wanted_now(self, owner: PinOwner) -> bool:
        """The last look, at the truth and not at copies of it. Raises StoreError."""
        if owner.kind == PLAIN:
            pod = await self._writer.store.get(POD, owner.name, owner.namespace)
            return pod is not None and pod.uid == owner.uid
        name = set_of(owner)
        stored = await self._writer.store.get(STATEFUL_SET, name, owner.namespace) if name else None
        return bool(name) and is_wanted(stored, owner.name, name)

    async def _unpin(self, page: Page, slot: int, owner: PinOwner) -> None:
        if await self._is_wanted_now(owner):
            return

        def decide(block: Block) -> Block:
            pin = block.pin_at(slot)
            if pin is None or not pin.owner.same_identity(owner):
                return block
            if pin.holder is not None:
                if block.leased >> slot & 1 or self._sight.has_pod(pin.holder.pod_uid):
                    return block  # its node lives, or may: DEL empties the holder there
                block = lease.vacate_pin(block, NodeRef(pin.holder.node, ""), slot, pin.holder.pod_uid)
            return lease.unpin(block, slot, owner, self._writer.term)

        try:
            changed = await self._writer.change_block(page, decide)
        except BadValue as error:
            log.error("block_unreadable", block=page.name, error=str(error))
            return
        if changed is not None and changed[0] is not changed[1]:
            self.removed += 1
            log.info("pin_removed", block=page.name, slot=slot, namespace=owner.namespace, identity=owner.name)


def set_of(owner: PinOwner) -> str:
    """The StatefulSet that a pinned pod name spells; "" if it has no such form."""
    spelled = owners.ordinal(owner.name)
    return spelled[0] if spelled else ""
