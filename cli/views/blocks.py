"""`nephila blocks` and `nephila conflicts`."""

from __future__ import annotations

from cli.cluster import Cluster
from cli.output import Column, Record
from cli.words import age
from crds.nephila import IPBlock
from ipam.blocks import Block
from ipam.slots import format_slots

KIND = "ipblock.nephila.io"


class LeaseRow(Record):
    node: str
    node_uid: str
    slots: str
    epoch: int


class BlockRow(Record):
    """One page. `free`: slots in no lease, pin or mark; `problem` is why the block cannot be read, "" if it can."""

    name: str
    page: str
    domain: str
    pools: tuple[str, ...]
    leases: tuple[LeaseRow, ...]
    free: int
    pins: int
    suspect: str
    cooling: str
    epoch: int
    term: int
    problem: str


BLOCK_COLUMNS: tuple[Column[BlockRow], ...] = (
    Column("NAME", lambda row: row.name),
    Column("PAGE", lambda row: row.page),
    Column("DOMAIN", lambda row: row.domain, wide=True),
    Column("POOLS", lambda row: ",".join(row.pools)),
    Column("FREE", lambda row: row.free),
    Column("PINS", lambda row: row.pins),
    Column("SUSPECT", lambda row: row.suspect),
    Column("COOLING", lambda row: row.cooling),
    Column("EPOCH", lambda row: row.epoch, wide=True),
    Column("TERM", lambda row: row.term, wide=True),
    Column("LEASES", lambda row: row.problem or " ".join(f"{lease.node}:{lease.slots}" for lease in row.leases)),
)


def block_rows(cluster: Cluster, *, pool: str = "", node: str = "") -> tuple[BlockRow, ...]:
    """Every block, or those with addresses of a pool, or those that a node has leased from."""
    rows = []
    readable = {page.name: block for page, block in cluster.blocks.items()}
    for stored in cluster.stored_blocks:
        problem = cluster.block_errors.get(stored.name)
        if problem is not None:
            rows.append(_broken(stored, str(problem)))
            continue
        row = _row(cluster, readable[stored.name])
        if (not pool or pool in row.pools) and (not node or any(lease.node == node for lease in row.leases)):
            rows.append(row)
    return tuple(rows)


def _row(cluster: Cluster, block: Block) -> BlockRow:
    taken = block.leased | block.pinned | block.suspect
    return BlockRow(
        name=block.page.name,
        page=block.page.cidr,
        domain=block.page.domain,
        pools=tuple(name for name, mask in cluster.coverage.of_page(block.page) if mask),
        leases=tuple(
            LeaseRow(node=lease.node.name, node_uid=lease.node.uid, slots=format_slots(lease.slots), epoch=lease.epoch)
            for lease in block.leases
        ),
        free=64 - taken.bit_count(),
        pins=len(block.pins),
        suspect=format_slots(block.suspect),
        cooling=format_slots(block.cooling_at(cluster.wall)),
        epoch=block.epoch,
        term=block.term,
        problem="",
    )


def _broken(stored: IPBlock, problem: str) -> BlockRow:
    return BlockRow(
        name=stored.name,
        page=stored.spec.page,
        domain=stored.spec.domain,
        pools=(),
        leases=(),
        free=0,
        pins=len(stored.spec.pins),
        suspect=stored.spec.suspect,
        cooling="",
        epoch=stored.spec.epoch,
        term=stored.spec.term,
        problem=problem,
    )


class ConflictRow(Record):
    """An address of ours that another station was seen to use."""

    ip: str
    mac: str
    pool: str
    node: str
    seen: str
    age_seconds: float
    how: str


CONFLICT_COLUMNS: tuple[Column[ConflictRow], ...] = (
    Column("IP", lambda row: row.ip),
    Column("MAC", lambda row: row.mac),
    Column("POOL", lambda row: row.pool),
    Column("SEEN-BY", lambda row: row.node),
    Column("AGO", lambda row: age(row.age_seconds)),
    Column("HOW", lambda row: row.how),
)


def conflict_rows(cluster: Cluster) -> tuple[ConflictRow, ...]:
    """Latest first."""
    rows = [
        ConflictRow(
            ip=conflict.seen.ip,
            mac=conflict.seen.mac,
            pool=conflict.seen.pool,
            node=conflict.node,
            seen=conflict.seen.seen.isoformat(),
            age_seconds=round(cluster.wall - conflict.seen.seen.timestamp(), 1),
            how=conflict.seen.how,
        )
        for conflict in cluster.conflicts
    ]
    return tuple(sorted(rows, key=lambda row: (row.age_seconds, row.ip)))
