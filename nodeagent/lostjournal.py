"""A node that finds its mailbox but no journal has forgotten which of its addresses pods use. It shuns them all until it is rebooted.

A probe would not help: a macvlan parent does not hear its own children, so an address that a pod of this very node uses looks silent from here.
Pods go on using theirs; new ones get others. The end (I7): a reboot, which takes every sandbox with it. A pinned slot may be
used earlier by its identity, once its former pod is known to be gone: its DEL tells (`nodeagent/forgotten.py`).

If the reboot came with the loss (a power cut on a disk that lies about `fsync`), the mailbox tells: its last heartbeat is of an earlier boot.
Nothing is handed out in a boot before a heartbeat of that boot was acknowledged, so no sandbox of this one has any of the addresses, and the leases
are taken up again.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from msgspec import UNSET

from adapters.journal import DropSlot, Journal, PutLease, PutSlot, SlotRecord
from adapters.journal.port import LeaseRecord
from adapters.kube.store import Store
from crds.blocks import block_from_wire
from crds.nephila import IP_BLOCK, IPNode
from ipam.addresses import Family
from ipam.blocks import Block, Lease, NodeRef
from ipam.errors import BadValue
from ipam.slots import SlotId

log = structlog.get_logger(__name__)

_EVIDENCE = "journal lost in boot "


def still_shunned(records: Iterable[SlotRecord], boot_id: str) -> set[SlotId]:
    """The slots that the journal says to shun, if it was written in this boot."""
    return {SlotId(r.domain, Family(r.family), r.value) for r in records if r.evidence == _EVIDENCE + boot_id}


def is_about_lost_journal(record: SlotRecord) -> bool:
    return record.evidence.startswith(_EVIDENCE)


def outlived(mailbox: IPNode, boot_id: str) -> bool:
    """Whether pods of the time before the loss may still run: not if the node's last heartbeat was of another boot."""
    beat = mailbox.status.heartbeat if mailbox.status is not UNSET else UNSET
    return beat is UNSET or beat.boot_id == boot_id


async def leases(store: Store, *names: NodeRef) -> list[LeaseRecord]:
    """What the blocks say that this node leases, under these names, for a journal that may not know. Raises StoreError."""
    return [_record(block, lease) for block, lease in await _leased(store, *names)]


async def shun(store: Store, journal: Journal, me: NodeRef, boot_id: str) -> set[SlotId]:
    """Find this node's leases, all of them, and journal that their slots are not to be used in this boot. Raises StoreError."""
    shunned: set[SlotId] = set()
    for block, lease in await _leased(store, me):
        slots = tuple(block.page.slot_ids(lease.slots))
        journal.commit(
            [
                PutLease(_record(block, lease)),
                *(
                    PutSlot(SlotRecord(s.domain, s.family, s.value, "quarantined", evidence=_EVIDENCE + boot_id))
                    for s in slots
                ),
            ]
        )
        shunned.update(slots)
    log.error("journal_lost", slots_shunned=len(shunned), until="reboot")
    return shunned


async def _leased(store: Store, *names: NodeRef) -> list[tuple[Block, Lease]]:
    found = []
    for stored in (await store.list(IP_BLOCK)).items:
        try:
            block = block_from_wire(stored)
        except BadValue as error:
            log.error("block_unreadable", block=stored.name, error=str(error))
            continue
        found += [(block, lease) for name in names if (lease := block.lease_of(name)) is not None]
    return found


def _record(block: Block, lease: Lease) -> LeaseRecord:
    return LeaseRecord(block.page.name, block.page.cidr, block.page.domain, lease.epoch, lease.slots)


def forget(journal: Journal, records: Iterable[SlotRecord], boot_id: str) -> None:
    """After a reboot: what an earlier boot shunned is free again."""
    over = [r for r in records if is_about_lost_journal(r) and r.evidence != _EVIDENCE + boot_id]
    if over:
        journal.commit([DropSlot(r.domain, r.family, r.value) for r in over])
