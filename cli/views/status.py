"""`nephila status`: the cluster on one screen."""

from __future__ import annotations

from collections.abc import Sequence

from cli.cluster import Cluster
from cli.output import Record, styled
from cli.views.blocks import ConflictRow, conflict_rows
from cli.views.nodes import NodeRow, node_rows
from cli.views.pools import PoolRow, pool_rows
from cli.words import count, number_text, some

BAR = 20
SHOWN = 15


class Status(Record):
    """`leader` "" means that nobody leads. `problems`: what somebody should look at, worst first."""

    leader: str
    term: int
    pools: tuple[PoolRow, ...]
    nodes: tuple[NodeRow, ...]
    blocks: int
    pods_with_address: int
    conflicts: tuple[ConflictRow, ...]
    problems: tuple[str, ...]


def status_of(cluster: Cluster) -> Status:
    pools, nodes, conflicts = pool_rows(cluster), node_rows(cluster), conflict_rows(cluster)
    lock = cluster.lock
    return Status(
        leader=lock.spec.holder if lock else "",
        term=lock.spec.term if lock else 0,
        pools=pools,
        nodes=nodes,
        blocks=len(cluster.stored_blocks),
        pods_with_address=len({holding.uid for holding in cluster.holdings if holding.alive}),
        conflicts=conflicts,
        problems=_problems(cluster, pools, nodes, conflicts),
    )


def _problems(
    cluster: Cluster, pools: Sequence[PoolRow], nodes: Sequence[NodeRow], conflicts: Sequence[ConflictRow]
) -> tuple[str, ...]:
    found = [f"{name} cannot be read at all: see kubectl get" for name in cluster.undecodable]
    found += [f"IPBlock {name} cannot be understood: {error}" for name, error in cluster.block_errors.items()]
    if cluster.lock is None or not cluster.lock.spec.holder:
        found.append(
            "nobody leads: no recall, no reclaim, no pool status; ADDs go on (do the nephila-leader pods run?)"
        )
    by_state: dict[str, list[str]] = {}
    for node in nodes:
        if node.state != "Ready":
            by_state.setdefault(node.state, []).append(node.name)
    for state, names in sorted(by_state.items()):
        found.append(f"{count(len(names), 'node')} {_NODE_WORDS.get(state, state)}: {some(names)}")
    found += [f"pool {row.name}: {row.state}" for row in pools if row.state not in ("Ready", "Disabled")]
    waiting = sum(node.wanted for node in nodes if node.free < node.wanted)
    if waiting:
        found.append(f"{count(waiting, 'address is', 'addresses are')} wanted by nodes beyond what they hold")
    found += [
        f"{row.ip} of pool {row.pool or '?'} is used by {row.mac} (seen by {row.node})" for row in conflicts[:SHOWN]
    ]
    return tuple(found)


_NODE_WORDS = {
    "NodeGone": "gone, but still with leases or a mailbox",
    "OutOfService": "out of service",
    "NoAgent": "without an agent",
    "Fenced": "fenced",
    "NoHeartbeat": "whose agent never beat",
    "Silent": "silent",
    "Replaced": "replaced under the same name",
}


def status_text(status: Status, *, colour: bool = False) -> str:
    """One screen, at least 80 columns wide."""
    ready = sum(1 for node in status.nodes if node.state == "Ready")
    lines = [
        f"leader  {status.leader or 'nobody'} (term {status.term})",
        f"nodes   {ready} of {len(status.nodes)} ready, "
        f"{count(sum(node.leased for node in status.nodes), 'address', 'addresses')} leased, {count(status.blocks, 'block')}",
        f"pods    {status.pods_with_address} with an address",
        "",
    ]
    width = max((len(row.name) for row in status.pools), default=0)
    for row in sorted(status.pools, key=_fullest)[:SHOWN]:
        state = row.state.partition(":")[0]
        style = {"Ready": "green", "Disabled": "dim"}.get(state, "red")
        numbers = f"{number_text(row.used)} used, {number_text(row.free)} free"
        text = f"pool    {row.name.ljust(width)}  {_bar(row)}  {numbers.ljust(24)}  "
        lines.append(text + (styled(state, style) if colour else state))
    if len(status.pools) > SHOWN:
        lines.append(f"        and {len(status.pools) - SHOWN} more: nephila pools")
    lines.append("")
    if not status.problems:
        lines.append(styled("no problems", "green") if colour else "no problems")
    label = styled("problem", "red") if colour else "problem"
    lines += [f"{label} {problem}" for problem in status.problems]
    return "\n".join(lines) + "\n"


def _fullest(row: PoolRow) -> tuple[float, str]:
    size = row.used + row.free
    return (-row.used / size if size else -2.0, row.name)


def _bar(row: PoolRow) -> str:
    size = row.used + row.free
    filled = min(-(-row.used * BAR // size), BAR) if size else 0
    return "[" + "#" * filled + "." * (BAR - filled) + "]"
