"""Spiderpool's kinds (group `spiderpool.spidernet.io/v2beta1`), field by field as in Spiderpool v1.2."""

from __future__ import annotations

from typing import Any

import msgspec

from crds.meta import UNSET, Condition, Kind, KubeObject, LabelSelector, UnsetType, WireStruct, constant

GROUP = "spiderpool.spidernet.io"
VERSION = "v2beta1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "spiderpool"
FINALIZER = "spiderpool.spidernet.io"


class Route(WireStruct):
    """A route for pods: `dst` in CIDR notation through `gw`."""

    dst: str
    gw: str


class IPPoolSpec(WireStruct):
    ip_version: int | UnsetType = UNSET
    subnet: str
    ips: tuple[str, ...] = ()
    exclude_ips: tuple[str, ...] = ()
    gateway: str = ""
    routes: tuple[Route, ...] | UnsetType = UNSET
    pod_affinity: LabelSelector | UnsetType = UNSET
    namespace_affinity: LabelSelector | UnsetType = UNSET
    namespace_name: tuple[str, ...] = ()
    node_affinity: LabelSelector | UnsetType = UNSET
    node_name: tuple[str, ...] = ()
    multus_name: tuple[str, ...] = ()
    default: bool = False
    disable: bool = False


class IPPoolStatus(WireStruct):
    allocated_ips: str | UnsetType = UNSET
    total_ip_count: int | UnsetType = UNSET
    allocated_ip_count: int | UnsetType = UNSET
    free_ip_count: int | UnsetType = UNSET
    conditions: tuple[Condition, ...] = ()


class SpiderIPPool(KubeObject):
    """Addresses of one subnet that pods may receive, with the affinities that say which pods."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("SpiderIPPool")
    spec: IPPoolSpec
    status: IPPoolStatus | UnsetType = UNSET


class SubnetSpec(WireStruct):
    ip_version: int | UnsetType = UNSET
    subnet: str
    ips: tuple[str, ...] = ()
    exclude_ips: tuple[str, ...] = ()
    gateway: str = ""
    routes: tuple[Route, ...] | UnsetType = UNSET


class SubnetStatus(WireStruct):
    controlled_ip_pools: str | UnsetType = UNSET
    total_ip_count: int | UnsetType = UNSET
    allocated_ip_count: int | UnsetType = UNSET
    conditions: tuple[Condition, ...] = ()


class SpiderSubnet(KubeObject):
    """Addresses from which pools are made, by hand or automatically per application."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("SpiderSubnet")
    spec: SubnetSpec
    status: SubnetStatus | UnsetType = UNSET


class ReservedIPSpec(WireStruct):
    ip_version: int | UnsetType = UNSET
    ips: tuple[str, ...] = ()


class SpiderReservedIP(KubeObject):
    """Addresses withheld from every pool of their family."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("SpiderReservedIP")
    spec: ReservedIPSpec


class IPAllocation(WireStruct):
    interface: str
    ipv4: str | UnsetType = UNSET
    ipv4_pool: str | UnsetType = UNSET
    ipv4_gateway: str | UnsetType = UNSET
    ipv6: str | UnsetType = UNSET
    ipv6_pool: str | UnsetType = UNSET
    ipv6_gateway: str | UnsetType = UNSET
    vlan: int | UnsetType = UNSET
    mac: str | UnsetType = UNSET
    clean_gateway: bool | UnsetType = UNSET
    routes: tuple[Route, ...] = ()


class PodIPAllocation(WireStruct):
    uid: str
    node: str
    ips: tuple[IPAllocation, ...]


class EndpointStatus(WireStruct):
    current: PodIPAllocation
    owner_controller_type: str
    owner_controller_name: str


class SpiderEndpoint(KubeObject):
    """The addresses of one pod (same name and namespace), or of one KubeVirt machine."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("SpiderEndpoint")
    status: EndpointStatus | UnsetType = UNSET


class SpiderMultusConfig(KubeObject):
    """Stored, not acted upon: kept so that users' manifests apply."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("SpiderMultusConfig")
    spec: dict[str, Any] = msgspec.field(default_factory=dict)


class SpiderCoordinator(KubeObject):
    """Stored, not acted upon: kept so that users' manifests apply."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("SpiderCoordinator")
    spec: dict[str, Any] = msgspec.field(default_factory=dict)


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
