"""`nephila nodes`: what each node holds, and whether its agent may hand it out."""

from __future__ import annotations

from cli.cluster import Cluster
from cli.output import Column, Record
from cli.words import age
from crds.meta import UNSET
from crds.nephila import Heartbeat, IPNode

KIND = "ipnode.nephila.io"
SILENT_S = 90.0  # three heartbeats


class NodeRow(Record):
    """One node. `leased` counts the slots of its leases; `used` … `quarantined` are what its agent reported last."""

    name: str
    state: str
    heartbeat_age_seconds: float | None
    leased: int
    used: int
    free: int
    cooling: int
    wanted: int
    quarantined: int
    open_recalls: int
    conflicts: int
    probe: str
    probe_reason: str
    version: str
    parent: str


NODE_COLUMNS: tuple[Column[NodeRow], ...] = (
    Column("NAME", lambda row: row.name),
    Column("STATE", lambda row: row.state, style=lambda text: "green" if text == "Ready" else "red"),
    Column("HEARTBEAT", lambda row: "" if row.heartbeat_age_seconds is None else age(row.heartbeat_age_seconds)),
    Column("LEASED", lambda row: row.leased),
    Column("USED", lambda row: row.used),
    Column("FREE", lambda row: row.free),
    Column("COOLING", lambda row: row.cooling, wide=True),
    Column("WANTED", lambda row: row.wanted),
    Column("QUARANTINED", lambda row: row.quarantined, wide=True),
    Column("RECALLS", lambda row: row.open_recalls, wide=True),
    Column("CONFLICTS", lambda row: row.conflicts),
    Column("PROBE", lambda row: row.probe),
    Column("PROBE-REASON", lambda row: row.probe_reason, wide=True),
    Column("PARENT", lambda row: row.parent, wide=True),
    Column("VERSION", lambda row: row.version, wide=True),
)


def node_rows(cluster: Cluster) -> tuple[NodeRow, ...]:
    """Every name that is a Node, has a mailbox or holds a lease."""
    leased: dict[str, int] = {}
    for block in cluster.blocks.values():
        for lease in block.leases:
            leased[lease.node.name] = leased.get(lease.node.name, 0) + lease.slots.bit_count()
    known = {*cluster.node_of_name, *cluster.mailbox_of_name, *leased}
    return tuple(_row(cluster, name, leased.get(name, 0)) for name in sorted(known))


def _row(cluster: Cluster, name: str, leased: int) -> NodeRow:
    mailbox = cluster.mailbox_of_name.get(name)
    status = mailbox.status if mailbox is not None and mailbox.status is not UNSET else None
    stocks = status.pools if status else ()
    answered = {answer.id for answer in status.recalls} if status else set()
    probe = status.probe if status is not None else UNSET
    return NodeRow(
        name=name,
        state=state_of(cluster, name),
        heartbeat_age_seconds=heartbeat_age(cluster, name),
        leased=leased,
        used=sum(stock.used for stock in stocks),
        free=sum(stock.free for stock in stocks),
        cooling=sum(stock.cooling for stock in stocks),
        wanted=sum(stock.wanted for stock in stocks),
        quarantined=sum(stock.quarantined for stock in stocks),
        open_recalls=sum(1 for recall in mailbox.spec.recalls if recall.id not in answered) if mailbox else 0,
        conflicts=len(status.conflicts) if status else 0,
        probe=probe.mode if probe is not UNSET else "",
        probe_reason=probe.reason if probe is not UNSET else "",
        version=status.version if status else "",
        parent=status.parent if status else "",
    )


def heartbeat_age(cluster: Cluster, name: str) -> float | None:
    """Seconds since the agent's last heartbeat by its own clock's text; None if it never beat."""
    beat = _heartbeat(cluster.mailbox_of_name.get(name))
    return None if beat is None else max(cluster.wall - beat.renew_time.timestamp(), 0.0)


def standing_mark(mailbox: IPNode) -> str:
    """The id of the fence mark that the node has not answered; "" if none stands."""
    answered = mailbox.status.cleared_fence if mailbox.status is not UNSET else ""
    mark = mailbox.spec.fence
    return mark.id if mark is not UNSET and mark.id != answered else ""


def state_of(cluster: Cluster, name: str) -> str:
    """`Ready`, or what keeps the node from handing out new addresses."""
    node, mailbox = cluster.node_of_name.get(name), cluster.mailbox_of_name.get(name)
    if node is None:
        return "NodeGone"
    if node.is_out_of_service:
        return "OutOfService"
    if mailbox is None:
        return "NoAgent"
    if standing_mark(mailbox):
        return "Fenced"
    beat = _heartbeat(mailbox)
    if beat is None:
        return "NoHeartbeat"
    if cluster.wall - beat.renew_time.timestamp() > SILENT_S:
        return "Silent"
    if beat.node_uid and beat.node_uid != node.uid:
        return "Replaced"
    return "Ready"


def _heartbeat(mailbox: IPNode | None) -> Heartbeat | None:
    if mailbox is None or mailbox.status is UNSET or mailbox.status.heartbeat is UNSET:
        return None
    return mailbox.status.heartbeat
