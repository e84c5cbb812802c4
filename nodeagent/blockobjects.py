"""`IPBlock` objects read and written, one at a time; every write is a compare-and-swap on what was read. Nothing is remembered here."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from adapters.entropy import Entropy
from adapters.kube.store import Conflict, Deleted, Exists, Missing, Store, Stored, StoreError, Unknown
from crds.blocks import block_changes, block_from_wire, block_to_wire
from crds.nephila import IP_BLOCK
from ipam import lease
from ipam.blocks import Block
from ipam.errors import ApiUnreachable
from ipam.slots import Page
from nodeagent.leaseview import Seen

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class BlockCounters:
    """For metrics: compare-and-swaps tried, and lost to another writer."""

    attempts: int = 0
    conflicts: int = 0


class BlockObjects:
    def __init__(self, store: Store, entropy: Entropy) -> None:
        self._store = store
        self._entropy = entropy
        self.counters = BlockCounters()

    async def read(self, page: Page) -> Seen:
        """The block as it stands in the API; a new one if there is no object. Raises ApiUnreachable."""
        try:
            stored = await self._store.get(IP_BLOCK, page.name)
        except StoreError as error:
            raise ApiUnreachable(
                f"IPBlock {page.name} could not be read: {error}", hint="check the API server"
            ) from error
        if stored is None:
            return self._absent(page)
        return Seen(block_from_wire(stored), stored.resource_version)

    async def write(self, seen: Seen, wanted: Block, wall: float) -> Seen | Unknown | None:
        """What stands in the API afterwards; None if another writer was first. A block without content is deleted. Raises ApiUnreachable."""
        self.counters.attempts += 1
        name, version = wanted.page.name, seen.resource_version
        if not version:
            outcome = await self._store.create(IP_BLOCK, block_to_wire(wanted))
        elif wanted.is_disposable(wall):
            outcome = await self._store.delete(IP_BLOCK, name, resource_version=version)
        else:
            outcome = await self._store.patch(IP_BLOCK, name, block_changes(wanted), resource_version=version)
        match outcome:
            case Stored(stored):
                return Seen(wanted, stored.resource_version)
            case Deleted():
                return self._absent(wanted.page)
            case Conflict() | Exists() | Missing():
                self.counters.conflicts += 1
                return None
            case Unknown(cause):
                log.warning("write_outcome_unknown", block=name, cause=cause)
                return outcome
            case refused:
                raise ApiUnreachable(
                    f"IPBlock {name} could not be written: {refused.message}",
                    hint="check the agent's RBAC and the CRDs' version",
                )

    def _absent(self, page: Page) -> Seen:
        return Seen(lease.new_block(page, self._entropy.bits(lease.SEED_BITS)), "")
