"""Spiderpool's kinds (group `spiderpool.spidernet.io/v2beta1`), field by field as in Spiderpool v1.2."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from crds.meta import UNSET, Conditions, Kind, KubeObject, LabelSelector, UnsetType, WireStruct, constant
from crds.rules import (
    ADDRESS_LENGTH,
    ADDRESS_RULES,
    CIDR_LENGTH,
    CIDR_RULES,
    MAX_NAMES,
    MAX_RANGES,
    MAX_ROUTES,
    RANGE_LENGTH,
    RANGE_RULES,
    RESERVED_RULES,
    ROUTE_RULES,
    SELECTOR_NOT_EMPTY,
    SUBNET_IMMUTABLE,
    SUBNET_RULES,
    map_list,
    say,
)

GROUP = "spiderpool.spidernet.io"
VERSION = "v2beta1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "spiderpool"
FINALIZER = "spiderpool.spidernet.io"


class Route(WireStruct):
    """A route of pods."""

    dst: Annotated[str, say("Destination, in CIDR notation.", maxLength=CIDR_LENGTH)]
    gw: Annotated[str, say("Next hop, an IP address.", maxLength=ADDRESS_LENGTH)]


IPVersion = Annotated[int, say("Family of the addresses; left out, it follows from them.", enum=[4, 6])]
Subnet = Annotated[
    str,
    say("The subnet, in network form (10.0.0.0/16).", rules=[*CIDR_RULES, SUBNET_IMMUTABLE], maxLength=CIDR_LENGTH),
]
IPRange = Annotated[str, say(rules=RANGE_RULES, minLength=1, maxLength=RANGE_LENGTH)]
IPs = Annotated[
    tuple[IPRange, ...],
    say("Addresses, each one address or a range of full addresses (10.0.0.5-10.0.0.9).", maxItems=MAX_RANGES),
]
ExcludeIPs = Annotated[
    tuple[IPRange, ...], say("Addresses of ips that are not handed out, written as in ips.", maxItems=MAX_RANGES)
]
Gateway = Annotated[
    str,
    say("Gateway of the default route, inside subnet.", rules=ADDRESS_RULES, maxLength=ADDRESS_LENGTH),
]
CheckedRoute = Annotated[Route, say(rules=ROUTE_RULES)]
Routes = Annotated[
    tuple[CheckedRoute, ...],
    say("Further routes of pods; no default route, each dst once.", maxItems=MAX_ROUTES, **map_list("dst")),
]
Count = Annotated[int, say(minimum=0)]
NodeName = Annotated[str, say(maxLength=253)]
NamespaceName = Annotated[str, say(maxLength=63)]
NetworkName = Annotated[str, say(maxLength=317)]


class IPPoolSpec(WireStruct):
    """Addresses of one subnet, and which pods may have them."""

    ip_version: IPVersion | UnsetType = UNSET
    subnet: Subnet
    ips: IPs = ()
    exclude_ips: ExcludeIPs = ()
    gateway: Gateway | UnsetType = UNSET
    routes: Routes | UnsetType = UNSET
    pod_affinity: (
        Annotated[LabelSelector, say("Only for pods with these labels.", rules=[SELECTOR_NOT_EMPTY])] | UnsetType
    ) = UNSET
    namespace_affinity: Annotated[LabelSelector, say("Only for pods of namespaces with these labels.")] | UnsetType = (
        UNSET
    )
    namespace_name: Annotated[
        tuple[NamespaceName, ...],
        say("Only for pods of these namespaces; beats namespaceAffinity.", maxItems=MAX_NAMES),
    ] = ()
    node_affinity: Annotated[LabelSelector, say("Only for pods on nodes with these labels.")] | UnsetType = UNSET
    node_name: Annotated[
        tuple[NodeName, ...], say("Only for pods on these nodes; beats nodeAffinity.", maxItems=MAX_NAMES)
    ] = ()
    multus_name: Annotated[
        tuple[NetworkName, ...],
        say("Only for interfaces of these networks, each namespace/name or name.", maxItems=MAX_NAMES),
    ] = ()
    default: Annotated[bool, say("A default pool of the cluster.", default=False)] = False
    disable: Annotated[bool, say("No new allocation; release still works.", default=False)] = False


class IPPoolStatus(WireStruct):
    """What the leader last counted and observed."""

    allocated_ips: (
        Annotated[str, say('Who has which address: JSON {"<ip>": {"pod": "<namespace>/<name>", "podUid": "<uid>"}}.')]
        | UnsetType
    ) = UNSET
    total_ip_count: Annotated[int, say("Size of ips without excludeIPs.", minimum=0)] | UnsetType = UNSET
    allocated_ip_count: Annotated[int, say("Addresses that pods have.", minimum=0)] | UnsetType = UNSET
    free_ip_count: Annotated[int, say("Addresses that a pod could get.", minimum=0)] | UnsetType = UNSET
    cooling_ip_count: Annotated[int, say("Free addresses that rest after their last use.", minimum=0)] | UnsetType = (
        UNSET
    )
    quarantined_ip_count: (
        Annotated[int, say("Addresses held back because someone else was seen to use them.", minimum=0)] | UnsetType
    ) = UNSET
    node_count: Annotated[int, say("Nodes that hold or want addresses of this pool.", minimum=0)] | UnsetType = UNSET
    conditions: Conditions = ()


class SpiderIPPool(KubeObject):
    """Addresses of one subnet that pods may receive, with the affinities that say which pods."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("SpiderIPPool")
    spec: Annotated[IPPoolSpec, say(rules=SUBNET_RULES)]
    status: IPPoolStatus | UnsetType = UNSET


class SubnetSpec(WireStruct):
    """Addresses of one subnet from which pools are made."""

    ip_version: IPVersion | UnsetType = UNSET
    subnet: Subnet
    ips: IPs = ()
    exclude_ips: ExcludeIPs = ()
    gateway: Gateway | UnsetType = UNSET
    routes: Routes | UnsetType = UNSET


class SubnetStatus(WireStruct):
    """What the leader last counted and observed."""

    controlled_ip_pools: (
        Annotated[
            str, say('Which pool has which addresses: JSON {"<pool>": {"ips": ["<range>"], "application": "<id>"}}.')
        ]
        | UnsetType
    ) = UNSET
    total_ip_count: Annotated[int, say("Size of ips without excludeIPs.", minimum=0)] | UnsetType = UNSET
    allocated_ip_count: Annotated[int, say("Addresses given to pools (not to pods).", minimum=0)] | UnsetType = UNSET
    conditions: Conditions = ()


class SpiderSubnet(KubeObject):
    """Addresses from which pools are made, by hand or automatically per application."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("SpiderSubnet")
    spec: Annotated[SubnetSpec, say(rules=SUBNET_RULES)]
    status: SubnetStatus | UnsetType = UNSET


class ReservedIPSpec(WireStruct):
    """Addresses of one family."""

    ip_version: IPVersion | UnsetType = UNSET
    ips: IPs = ()


class SpiderReservedIP(KubeObject):
    """Addresses withheld from every pool of their family; existing allocations are not touched."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("SpiderReservedIP")
    spec: Annotated[ReservedIPSpec, say(rules=RESERVED_RULES)]


_InterfaceAddress = Annotated[str, say("Address with prefix length.", maxLength=CIDR_LENGTH)]
_PoolName = Annotated[str, say("Pool the address is from.", maxLength=253)]
_GatewayAddress = Annotated[str, say("Gateway of the pool.", maxLength=ADDRESS_LENGTH)]


class IPAllocation(WireStruct):
    """The addresses of one interface."""

    interface: Annotated[str, say("Name of the interface in the pod.", maxLength=63)]
    ipv4: _InterfaceAddress | UnsetType = UNSET
    ipv4_pool: _PoolName | UnsetType = UNSET
    ipv4_gateway: _GatewayAddress | UnsetType = UNSET
    ipv6: _InterfaceAddress | UnsetType = UNSET
    ipv6_pool: _PoolName | UnsetType = UNSET
    ipv6_gateway: _GatewayAddress | UnsetType = UNSET
    vlan: Annotated[int, say("VLAN id.", minimum=0, maximum=4094, default=0)] | UnsetType = UNSET
    mac: Annotated[str, say("MAC address of the interface, once it is known.", maxLength=59)] | UnsetType = UNSET
    clean_gateway: Annotated[bool, say("No default route on this interface.")] | UnsetType = UNSET
    routes: Annotated[tuple[Route, ...], say("Routes of this interface.", maxItems=2 * MAX_ROUTES)] = ()


class PodIPAllocation(WireStruct):
    """The pod that holds the addresses, and the addresses."""

    uid: Annotated[str, say("UID of the pod.", maxLength=128)]
    node: Annotated[str, say("Node of the pod.", maxLength=253)]
    ips: Annotated[tuple[IPAllocation, ...], say("One item per interface.", maxItems=64)]


class EndpointStatus(WireStruct):
    """Who has which addresses."""

    current: PodIPAllocation
    owner_controller_type: Annotated[str, say("Kind of the pod's top controller; Pod if it has none.", maxLength=253)]
    owner_controller_name: Annotated[str, say("Name of the pod's top controller.", maxLength=253)]


class SpiderEndpoint(KubeObject):
    """The addresses of one pod (same name and namespace), or of one KubeVirt machine."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("SpiderEndpoint")
    status: EndpointStatus | UnsetType = UNSET


class SpiderMultusConfig(KubeObject):
    """Stored, not acted upon: accepted so that users' manifests apply. Write NetworkAttachmentDefinitions instead."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("SpiderMultusConfig")
    spec: Annotated[dict[str, Any], say("Any of Spiderpool's fields.")] = msgspec.field(default_factory=dict)


class SpiderCoordinator(KubeObject):
    """Stored, not acted upon: accepted so that users' manifests apply."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("SpiderCoordinator")
    spec: Annotated[dict[str, Any], say("Any of Spiderpool's fields.")] = msgspec.field(default_factory=dict)
    status: Annotated[dict[str, Any], say("Any of Spiderpool's fields.")] = msgspec.field(default_factory=dict)


_CATEGORIES = (CATEGORY,)
IP_POOL = Kind(
    GROUP, VERSION, "SpiderIPPool", "spiderippools", "spiderippool", False, SpiderIPPool, ("sp",), _CATEGORIES, True
)
SUBNET = Kind(
    GROUP, VERSION, "SpiderSubnet", "spidersubnets", "spidersubnet", False, SpiderSubnet, ("ss",), _CATEGORIES, True
)
RESERVED_IP = Kind(
    GROUP,
    VERSION,
    "SpiderReservedIP",
    "spiderreservedips",
    "spiderreservedip",
    False,
    SpiderReservedIP,
    ("sr",),
    _CATEGORIES,
)
ENDPOINT = Kind(
    GROUP, VERSION, "SpiderEndpoint", "spiderendpoints", "spiderendpoint", True, SpiderEndpoint, ("se",), _CATEGORIES
)
COORDINATOR = Kind(
    GROUP,
    VERSION,
    "SpiderCoordinator",
    "spidercoordinators",
    "spidercoordinator",
    False,
    SpiderCoordinator,
    ("scc",),
    _CATEGORIES,
    True,
)
MULTUS_CONFIG = Kind(
    GROUP,
    VERSION,
    "SpiderMultusConfig",
    "spidermultusconfigs",
    "spidermultusconfig",
    True,
    SpiderMultusConfig,
    ("smc",),
    _CATEGORIES,
)
