"""What the leader reads of the most numerous kinds, and no more: it keeps 150,000 pods and as many SpiderEndpoints in memory."""

from __future__ import annotations

from datetime import datetime

from crds.core import PodIP
from crds.meta import UNSET, Kind, KubeObject, UnsetType, WireStruct, constant
from crds.spiderpool import API_VERSION, GROUP, VERSION


class NameMeta(WireStruct):
    """`metadata` without labels, annotations and owners."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: datetime | None = None


class DatedMeta(NameMeta):
    creation_timestamp: datetime | None = None


class PodPlace(WireStruct):
    node_name: str = ""
    host_network: bool = False


class PodAddresses(WireStruct):
    phase: str = ""
    pod_ips: tuple[PodIP, ...] | None = None


class PodView(KubeObject):
    """A pod's identity, node and addresses. It has no labels, annotations or owners: asking for them fails."""

    api_version: str = constant("v1")
    kind: str = constant("Pod")
    metadata: NameMeta = NameMeta()  # type: ignore[assignment]  # a part of ObjectMeta: see above
    spec: PodPlace = PodPlace()
    status: PodAddresses = PodAddresses()


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
ENDPOINT_VIEW = Kind(GROUP, VERSION, "SpiderEndpoint", "spiderendpoints", "spiderendpoint", True, EndpointView)
