"""How a leader writes: only while it leads, by compare-and-swap, with its term, and with a read after an unknown outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol, TypeVar

import structlog

from adapters.clock import Clock
from adapters.kube.store import Deleted, Missing, Outcome, Refused, Store, Stored, Unknown
from crds.blocks import block_changes, block_from_wire
from crds.meta import Kind, KubeObject
from crds.nephila import IP_BLOCK
from ipam.blocks import Block
from ipam.lease import LeaseRefused, forget_expired
from ipam.slots import Page

log = structlog.get_logger(__name__)

T = TypeVar("T", bound=KubeObject)
MAX_ATTEMPTS = 4


class Deposed(Exception):
    """This process does not lead (any more). Its work ends; the next leader starts from what stands in the API."""


class Authority(Protocol):
    """Leadership, as asked before every write."""

    @property
    def term(self) -> int:
        """Our fencing number."""

    def check(self) -> None:
        """Raises Deposed unless we lead now."""


class Writer:
    """All writes of one reign go through here. Reads may raise StoreError."""

    def __init__(self, store: Store, clock: Clock, authority: Authority) -> None:
        self.store = store
        self.authority = authority
        self._clock = clock

    @property
    def term(self) -> int:
        return self.authority.term

    async def create(self, kind: Kind[T], new: T) -> Outcome[T]:
        self.authority.check()
        return await self.store.create(kind, new)

    async def patch(
        self,
        kind: Kind[T],
        seen: T,
        changes: Mapping[str, object],
        *,
        subresource: str = "",
    ) -> Outcome[T]:
        """A merge patch on the object as `seen`; a Conflict if anybody wrote it since."""
        self.authority.check()
        return await self.store.patch(
            kind,
            seen.name,
            changes,
            namespace=seen.namespace,
            resource_version=seen.resource_version,
            subresource=subresource,
        )

    async def delete(self, kind: Kind[T], seen: T) -> bool:
        """Delete the object exactly as `seen`; True if it is gone, or on its way out."""
        self.authority.check()
        outcome = await self.store.delete(
            kind, seen.name, namespace=seen.namespace, uid=seen.uid, resource_version=seen.resource_version
        )
        return isinstance(outcome, Deleted | Missing | Stored)

    async def change_block(self, page: Page, decide: Callable[[Block], Block]) -> tuple[Block, Block] | None:
        """Read a block, decide, write by compare-and-swap; on conflict read and decide again.

        Returns it as it was and as it is now (the same object if there was nothing to do), or None if it does not exist, if `decide` refuses,
        or if others are always faster. Raises StoreError, Deposed, BadValue (a block that cannot be read).
        """
        for _attempt in range(MAX_ATTEMPTS):
            stored = await self.store.get(IP_BLOCK, page.name)
            if stored is None:
                return None
            before = block_from_wire(stored)
            try:
                wanted = decide(before)
            except LeaseRefused as refusal:
                log.info("block_left_alone", block=page.name, why=str(refusal))
                return None
            if wanted is before:
                return before, before
            wanted = replace(forget_expired(wanted, self._clock.wall()), term=self.term)
            self.authority.check()
            if wanted.is_disposable(self._clock.wall()):
                outcome = await self.store.delete(
                    IP_BLOCK, page.name, uid=stored.uid, resource_version=stored.resource_version
                )
            else:
                outcome = await self.store.patch(
                    IP_BLOCK, page.name, block_changes(wanted), resource_version=stored.resource_version
                )
            match outcome:
                case Stored() | Deleted():
                    return before, wanted
                case Unknown(cause):
                    log.warning("write_outcome_unknown", block=page.name, cause=cause)
                    if await self._stands(wanted):
                        return before, wanted
                case Refused(_, reason, message):
                    log.warning("block_write_refused", block=page.name, reason=reason, message=message)
                    return None
                case _:
                    pass
        return None

    async def _stands(self, wanted: Block) -> bool:
        """After an unknown outcome: is what we wrote what is there? Epochs never repeat, so equality says whose write it was."""
        stored = await self.store.get(IP_BLOCK, wanted.page.name)
        if stored is None:
            return wanted.is_disposable(self._clock.wall())
        return block_from_wire(stored) == wanted
