"""What the leader reads of the most numerous kinds, and no more: it keeps 150,000 pods and as many SpiderEndpoints in memory."""

from __future__ import annotations

from datetime import datetime

import msgspec

from crds.core import PodIP
from crds.meta import UNSET, Kind, KubeObject, OwnerReference, UnsetType, WireStruct, constant
from crds.spiderpool import API_VERSION, GROUP, VERSION
from ipam import annotations as notes
from ipam.errors import BadAnnotation
from ipam.jsontext import parse_json
from ipam.multus import NETWORK_STATUS, NETWORKS


class NameMeta(WireStruct):
    """`metadata` without labels, annotations and owners."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: datetime | None = None


class DatedMeta(NameMeta):
    creation_timestamp: datetime | None = None


class SubnetNotes(WireStruct):
    """The annotations by which a pod asks for application pools; of the others nothing is kept."""

    subnets: str | UnsetType = msgspec.field(name=notes.SUBNETS, default=UNSET)
    subnet: str | UnsetType = msgspec.field(name=notes.SUBNET, default=UNSET)
    number: str | UnsetType = msgspec.field(name=notes.IPPOOL_NUMBER, default=UNSET)
    reclaim: str | UnsetType = msgspec.field(name=notes.IPPOOL_RECLAIM, default=UNSET)


class PodMeta(NameMeta):
    """Owners, notes and age of those pods only that ask for a SpiderSubnet: few do, and all of them would take much memory."""

    annotations: SubnetNotes | None = None
    owner_references: tuple[OwnerReference, ...] | None = None
    creation_timestamp: datetime | None = None

    def __post_init__(self) -> None:
        asks = self.annotations is not None and (self.annotations.subnets or self.annotations.subnet)
        if not asks:
            for name in ("annotations", "owner_references", "creation_timestamp"):
                msgspec.structs.force_setattr(self, name, None)


class PodPlace(WireStruct):
    node_name: str = ""
    host_network: bool = False


class PodAddresses(WireStruct):
    phase: str = ""
    pod_ips: tuple[PodIP, ...] | None = None


class PodView(KubeObject):
    """A pod's identity, node and addresses, and what it asks of SpiderSubnets. It has no labels: asking for them fails."""

    api_version: str = constant("v1")
    kind: str = constant("Pod")
    metadata: PodMeta = PodMeta()  # type: ignore[assignment]  # a part of ObjectMeta: see above
    spec: PodPlace = PodPlace()
    status: PodAddresses = PodAddresses()

    @property
    def notes(self) -> dict[str, str]:
        """The annotations of `SubnetNotes`; empty unless the pod asks for a SpiderSubnet."""
        found = self.metadata.annotations
        return msgspec.to_builtins(found) if found is not None else {}


class InterfaceNotes(WireStruct):
    """What Multus was asked to attach to a pod, and what it says that it attached."""

    asked: str | UnsetType = msgspec.field(name=NETWORKS, default=UNSET)
    attached: str | UnsetType = msgspec.field(name=NETWORK_STATUS, default=UNSET)


class InterfacesMeta(NameMeta):
    annotations: InterfaceNotes | None = None


class PodInterfaces(KubeObject):
    """A pod on its node with its addresses, and whether those are all it may have. Read when it is asked for, never kept."""

    api_version: str = constant("v1")
    kind: str = constant("Pod")
    metadata: InterfacesMeta = InterfacesMeta()  # type: ignore[assignment]  # a part of ObjectMeta: see above
    spec: PodPlace = PodPlace()
    status: PodAddresses = PodAddresses()

    @property
    def tells_all(self) -> bool:
        """Whether `podIPs`, which are those of `eth0`, are all addresses that the pod can have: it has them, and no other interface."""
        found = self.metadata.annotations
        if not self.status.pod_ips or (found is not None and found.asked):
            return False
        return found is None or not found.attached or _count(found.attached) <= 1


def _count(attached: str) -> float:
    """How many interfaces Multus tells of; without bound if that cannot be read."""
    try:
        listed = parse_json(attached, NETWORK_STATUS)
    except BadAnnotation:
        return float("inf")
    return len(listed) if isinstance(listed, list) else float("inf")


class AddressView(WireStruct):
    """Addresses of one interface; `ipv4` and `ipv6` are with prefix length."""

    interface: str = ""
    ipv4: str | UnsetType = UNSET
    ipv4_pool: str | UnsetType = UNSET
    ipv6: str | UnsetType = UNSET
    ipv6_pool: str | UnsetType = UNSET
    mac: str | UnsetType = UNSET


class CurrentView(WireStruct):
    uid: str = ""
    node: str = ""
    ips: tuple[AddressView, ...] = ()


class EndpointStatusView(WireStruct):
    current: CurrentView = CurrentView()
    owner_controller_type: str = ""
    owner_controller_name: str = ""


class EndpointView(KubeObject):
    """A SpiderEndpoint without routes and owners."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("SpiderEndpoint")
    metadata: DatedMeta = DatedMeta()  # type: ignore[assignment]  # a part of ObjectMeta: see above
    status: EndpointStatusView | UnsetType = UNSET


POD_VIEW = Kind("", "v1", "Pod", "pods", "pod", True, PodView, has_status=True)
POD_INTERFACES = Kind("", "v1", "Pod", "pods", "pod", True, PodInterfaces, has_status=True)
ENDPOINT_VIEW = Kind(GROUP, VERSION, "SpiderEndpoint", "spiderendpoints", "spiderendpoint", True, EndpointView)
