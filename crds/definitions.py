"""What a CRD has beside the schema: printer columns, selectable fields, rules that see the object's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crds import nephila, spiderpool
from crds.meta import Kind

WIDE = 10  # columns of this priority appear with `kubectl get -o wide` only, as Spiderpool's do


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0
    description: str = ""


@dataclass(frozen=True, slots=True)
class Definition:
    """One CRD. `selectable`: paths usable in field selectors, so that a watch can be narrowed by the API server."""

    kind: Kind[Any]
    columns: tuple[Column, ...] = ()
    selectable: tuple[str, ...] = ()
    rules: tuple[dict[str, str], ...] = ()


_FAMILY = Column("VERSION", ".spec.ipVersion", description="ipVersion")
_SUBNET = (
    _FAMILY,
    Column("SUBNET", ".spec.subnet", description="subnet"),
    Column("ALLOCATED-IP-COUNT", ".status.allocatedIPCount", "integer", description="allocatedIPCount"),
    Column("TOTAL-IP-COUNT", ".status.totalIPCount", "integer", description="totalIPCount"),
)
_AGE = Column("AGE", ".metadata.creationTimestamp", "date")

DEFINITIONS: tuple[Definition, ...] = (
    Definition(
        spiderpool.IP_POOL,
        (
            *_SUBNET,
            Column("DEFAULT", ".spec.default", "boolean", description="default"),
            Column("DISABLE", ".spec.disable", "boolean", WIDE, "disable"),
            Column("NodeName", ".spec.nodeName", "string", WIDE, "nodeName"),
            Column("MultusName", ".spec.multusName", "string", WIDE, "multusName"),
            Column(
                "APP-NAMESPACE",
                r".spec.podAffinity.matchLabels['ipam\.spidernet\.io/app-namespace']",
                "string",
                WIDE,
                "Namespace of the application that an auto-created pool belongs to",
            ),
        ),
    ),
    Definition(spiderpool.SUBNET, _SUBNET),
    Definition(spiderpool.RESERVED_IP, (_FAMILY,)),
    Definition(
        spiderpool.ENDPOINT,
        (
            Column("INTERFACE", ".status.current.ips[0].interface", description="interface"),
            Column("IPV4POOL", ".status.current.ips[0].ipv4Pool", description="ipv4Pool"),
            Column("IPV4", ".status.current.ips[0].ipv4", description="ipv4"),
            Column("IPV6POOL", ".status.current.ips[0].ipv6Pool", description="ipv6Pool"),
            Column("IPV6", ".status.current.ips[0].ipv6", description="ipv6"),
            Column("NODE", ".status.current.node", description="node"),
        ),
        selectable=(".status.current.node",),
    ),
    Definition(spiderpool.COORDINATOR),
    Definition(spiderpool.MULTUS_CONFIG),
    Definition(
        nephila.IP_BLOCK,
        (
            Column("PAGE", ".spec.page"),
            Column("DOMAIN", ".spec.domain"),
            # The API server prints the first result of a path only, so no column can show every lease.
            Column("FIRST-HOLDER", ".spec.leases[0].node", description="The first node that holds a lease"),
            Column("SUSPECT", ".spec.suspect", "string", WIDE, "Slots taken by force"),
            Column("EPOCH", ".spec.epoch", "integer", WIDE),
            Column("TERM", ".spec.term", "integer", WIDE),
            _AGE,
        ),
        selectable=(".spec.domain",),
        rules=nephila.BLOCK_NAME_RULES,
    ),
    Definition(
        nephila.IP_NODE,
        (
            Column("HEARTBEAT", ".status.heartbeat.renewTime", "date", description="Time since the last heartbeat"),
            Column("PROBE", ".status.probe.mode"),
            Column("FENCE", ".spec.fence.id", description="Fence mark, if any"),
            Column("CLEARED", ".status.clearedFence", "string", WIDE, "Last fence mark that was fully answered"),
            Column("PARENT", ".status.parent", "string", WIDE),
            Column("VERSION", ".status.version"),
            _AGE,
        ),
    ),
    Definition(
        nephila.LEADER_LOCK,
        (
            Column("HOLDER", ".spec.holder"),
            Column("TERM", ".spec.term", "integer"),
            Column("RENEWALS", ".spec.renewCount", "integer"),
            _AGE,
        ),
    ),
)
