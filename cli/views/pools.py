"""`nephila pools` and `nephila free`."""

from __future__ import annotations

from cli.budget import Budget, budget
from cli.cluster import Cluster
from cli.output import Column, Record
from cli.words import count, number_text, some
from ipam.pools import Pool, pool_problems
from ipam.ranges import RangeSet

KIND = "spiderippool.spiderpool.spidernet.io"
FIRST_RANGES = 20


class PoolRow(Record):
    """One pool. Counts are addresses; `total` is ips less excludeIPs, the others are parts of what may be handed out."""

    name: str
    family: int
    subnet: str
    total: int
    used: int
    free: int
    warm: int
    cooling: int
    pinned: int
    conflicts: int
    reserved: int
    nodes: int
    default: bool
    state: str


POOL_COLUMNS: tuple[Column[PoolRow], ...] = (
    Column("NAME", lambda row: row.name),
    Column("VERSION", lambda row: row.family),
    Column("SUBNET", lambda row: row.subnet),
    Column("USED", lambda row: number_text(row.used)),
    Column("FREE", lambda row: number_text(row.free)),
    Column("TOTAL", lambda row: number_text(row.total)),
    Column("WARM", lambda row: number_text(row.warm), wide=True),
    Column("COOLING", lambda row: number_text(row.cooling), wide=True),
    Column("PINNED", lambda row: number_text(row.pinned), wide=True),
    Column("CONFLICTS", lambda row: number_text(row.conflicts), wide=True),
    Column("RESERVED", lambda row: number_text(row.reserved), wide=True),
    Column("NODES", lambda row: row.nodes, wide=True),
    Column("DEFAULT", lambda row: "true" if row.default else "false"),
    Column("STATE", lambda row: row.state, style=lambda text: _style(text)),
)


def pool_rows(cluster: Cluster) -> tuple[PoolRow, ...]:
    """Every pool by name; one that cannot be read is there too, with the reason as its state."""
    rows = [_row(cluster, pool) for pool in cluster.catalog]
    for name, error in cluster.pools.unreadable.items():
        rows.append(
            PoolRow(
                name=name,
                family=0,
                subnet="",
                total=0,
                used=0,
                free=0,
                warm=0,
                cooling=0,
                pinned=0,
                conflicts=0,
                reserved=0,
                nodes=0,
                default=False,
                state=f"Invalid: {error}",
            )
        )
    return tuple(sorted(rows, key=lambda row: row.name))


def _row(cluster: Cluster, pool: Pool) -> PoolRow:
    found = budget(cluster, pool)
    return PoolRow(
        name=pool.name,
        family=int(pool.family),
        subnet=str(pool.subnet),
        total=pool.total_count,
        used=found.used.size,
        free=found.free.size,
        warm=found.warm.size,
        cooling=found.cooling.size,
        pinned=found.pinned.size,
        conflicts=found.disputed.size,
        reserved=found.reserved.size,
        nodes=cluster.stock_nodes.get(pool.name, 0),
        default=pool.default,
        state=state_of(cluster, pool, found),
    )


def state_of(cluster: Cluster, pool: Pool, found: Budget) -> str:
    """One word, and why: what keeps the pool from serving comes first."""
    if problems := pool_problems(pool):
        return f"Invalid: {problems[0]}"
    if pool.deleting:
        return f"Deleting: waits for {count(found.used.size, 'address', 'addresses')}" if found.used else "Deleting"
    if pool.disable:
        return "Disabled"
    if not found.free:
        return f"Exhausted: {why_none_free(cluster, pool, found)}"
    if found.lost:
        return (
            f"Overlapping: {older_claimants(cluster, pool)} owns {count(found.lost.size, 'address', 'addresses')} of it"
        )
    return "Ready"


def why_none_free(cluster: Cluster, pool: Pool, found: Budget) -> str:
    """Why a pool has no free address, in the order of what an administrator can change."""
    if not pool.ips - pool.exclude:
        return "spec.ips less spec.excludeIPs is empty"
    if not pool.usable:
        return "the gateway is its only address"
    parts = []
    if found.used:
        parts.append(f"{found.used.size} in use by pods")
    if found.pinned:
        parts.append(f"{found.pinned.size} pinned to identities that do not run")
    if found.disputed:
        parts.append(f"{found.disputed.size} used by machines that are not ours")
    if found.reserved:
        parts.append(f"{found.reserved.size} withheld by SpiderReservedIP {reservers(cluster, pool)}")
    if found.lost:
        parts.append(f"{found.lost.size} owned by older pool {older_claimants(cluster, pool)}")
    return f"of {count(pool.usable.size, 'address', 'addresses')}, {', '.join(parts)}"


def reservers(cluster: Cluster, pool: Pool) -> str:
    """The SpiderReservedIPs that withhold addresses of the pool."""
    named = [
        name
        for name, addresses in sorted(cluster.reserved_by_name.items())
        if addresses.family is pool.family and addresses & pool.usable
    ]
    return some(named)


def older_claimants(cluster: Cluster, pool: Pool) -> str:
    """The older pools that also claim addresses of this one, and get them."""
    return some([older.name for older, younger, _ in cluster.overlapping if younger.name == pool.name])


def _style(state: str) -> str:
    word = state.partition(":")[0]
    return {"Ready": "green", "Disabled": "dim", "Deleting": "yellow", "Overlapping": "yellow"}.get(word, "red")


class FreePart(Record):
    """Free addresses of one kind: how many, and the first ranges."""

    count: int
    ranges: tuple[str, ...]
    complete: bool


class FreeReport(Record):
    """The free addresses of a pool. `unleased` + `warm` + `cooling` + `suspect` = `free`."""

    pool: str
    free: FreePart
    unleased: FreePart
    warm: FreePart
    cooling: FreePart
    suspect: FreePart
    state: str


def free_report(cluster: Cluster, pool: Pool, limit: int = FIRST_RANGES) -> FreeReport:
    """Ranges, never single addresses of large pools: `limit` bounds how many are listed."""
    found = budget(cluster, pool)

    def part(addresses: RangeSet) -> FreePart:
        listed = RangeSet(addresses.family, addresses.spans[:limit]).format()
        return FreePart(count=addresses.size, ranges=listed, complete=len(addresses.spans) <= limit)

    return FreeReport(
        pool=pool.name,
        free=part(found.free),
        unleased=part(found.unleased),
        warm=part(found.warm),
        cooling=part(found.cooling),
        suspect=part(found.suspect),
        state=state_of(cluster, pool, found),
    )


def free_text(report: FreeReport) -> str:
    """For people."""
    head = f"{report.pool}: {count(report.free.count, 'free address', 'free addresses')}\n"
    if not report.free.count:
        return head + f"  {report.state}\n"
    body = "".join(f"  {item}\n" for item in report.free.ranges)
    if not report.free.complete:
        body += "  and more ranges: see -o json --limit\n"
    kinds = (
        ("nobody's", report.unleased),
        ("warm on nodes", report.warm),
        ("cooling", report.cooling),
        ("suspect (probed before use)", report.suspect),
    )
    parts = [f"{number_text(part.count)} {name}" for name, part in kinds if part.count]
    return f"{head}{body}  of these: {', '.join(parts)}\n"
