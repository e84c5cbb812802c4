"""Objects of the API → values of the domain.

Each function raises `BadValue`, which names the field and the cure, if the object was stored under older rules or slipped
past the CEL rules. One unreadable object must never hide the others: lists go through `readable`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from crds import core, meta, spiderpool
from crds.meta import UNSET, KubeObject, UnsetType
from ipam.addresses import Address, Family, Network
from ipam.application_pools import Entry
from ipam.applications import AppOwner
from ipam.errors import BadValue
from ipam.facts import PodFacts
from ipam.owners import OwnerReference, TopOwner
from ipam.pools import Pool
from ipam.ranges import RangeSet
from ipam.routes import Route
from ipam.selectors import LabelSelector

L2_DOMAIN = "nephila.io/l2-domain"  # annotation of a pool: only pools of one L2 domain share addresses
INTERFACE = "ipam.spidernet.io/interface"
OWNER_SUBNET = "ipam.spidernet.io/owner-spider-subnet"

# A part of an IPBlock's name, which may hold 253 characters, 44 of them for the page.
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_MAX_DOMAIN = 200
_NO_LABELS: Mapping[str, str] = {}

Stored = TypeVar("Stored", bound=KubeObject)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Readable(Generic[Value]):
    """The values of the objects that could be read, and by name why the others could not."""

    values: tuple[Value, ...] = ()
    unreadable: Mapping[str, BadValue] = field(default_factory=dict)


def readable(objects: Iterable[Stored], convert: Callable[[Stored], Value]) -> Readable[Value]:
    """Convert every object; one that cannot be read is set aside with its error."""
    values: list[Value] = []
    unreadable: dict[str, BadValue] = {}
    for stored in objects:
        try:
            values.append(convert(stored))
        except BadValue as error:
            unreadable[stored.name] = error
    return Readable(tuple(values), unreadable)


def pool(stored: spiderpool.SpiderIPPool) -> Pool:
    """The domain value of a pool. Raises BadValue."""
    spec = stored.spec
    affinity = selector(spec.pod_affinity, "spec.podAffinity")
    basis = _addresses(spec)
    return Pool(
        name=stored.name,
        family=basis.family,
        subnet=basis.subnet,
        ips=basis.ips,
        exclude=basis.exclude,
        uid=stored.uid,
        created=_created(stored),
        gateway=basis.gateway,
        routes=basis.routes,
        pod_affinity=affinity,
        namespace_affinity=selector(spec.namespace_affinity, "spec.namespaceAffinity"),
        namespace_names=spec.namespace_name,
        node_affinity=selector(spec.node_affinity, "spec.nodeAffinity"),
        node_names=spec.node_name,
        multus_names=spec.multus_name,
        default=spec.default,
        disable=spec.disable,
        deleting=stored.deleting,
        app=AppOwner.from_selector(affinity),
        app_interface=stored.labels.get(INTERFACE, ""),
        owner_subnet=stored.labels.get(OWNER_SUBNET, ""),
        domain=_domain(stored),
    )


def subnet(stored: spiderpool.SpiderSubnet) -> Pool:
    """The addresses of a SpiderSubnet, as a Pool without affinities: the same arithmetic and checks apply. Raises BadValue."""
    basis = _addresses(stored.spec)
    return Pool(
        name=stored.name,
        family=basis.family,
        subnet=basis.subnet,
        ips=basis.ips,
        exclude=basis.exclude,
        uid=stored.uid,
        created=_created(stored),
        gateway=basis.gateway,
        routes=basis.routes,
        deleting=stored.deleting,
        domain=_domain(stored),
    )


def controlled_pools(stored: spiderpool.SpiderSubnet, family: Family) -> dict[str, Entry]:
    """`status.controlledIPPools`: which pool has which addresses. Empty if it cannot be read: then the leader writes it anew."""
    text = stored.status.controlled_ip_pools if stored.status is not UNSET else UNSET
    if not text:
        return {}
    try:
        return {
            name: Entry(RangeSet.parse(family, item["ips"]), str(item.get("application", "")))
            for name, item in json.loads(text).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, BadValue):
        return {}


def allocated(stored: spiderpool.SpiderIPPool) -> dict[int, str]:
    """`status.allocatedIPs`: which pod (namespace/name) has which address, by address value; what cannot be read is left out."""
    text = stored.status.allocated_ips if stored.status is not UNSET else UNSET
    if not text:
        return {}
    try:
        return {Address.parse(ip).value: str(use["pod"]) for ip, use in json.loads(text).items()}
    except (ValueError, KeyError, TypeError, AttributeError, BadValue):
        return {}


def reserved(stored: spiderpool.SpiderReservedIP) -> RangeSet | None:
    """The withheld addresses; None if the object names none and no family. Raises BadValue."""
    spec = stored.spec
    if spec.ip_version is not UNSET:
        family = _family(spec.ip_version)
    elif spec.ips:
        family = Family.V6 if ":" in spec.ips[0] else Family.V4
    else:
        return None
    return _ranges(family, spec.ips, "spec.ips")


def reserved_union(sets: Iterable[RangeSet | None]) -> dict[Family, RangeSet]:
    """All withheld addresses by family, both families present."""
    spans: dict[Family, list[tuple[int, int]]] = {family: [] for family in Family}
    for item in sets:
        if item is not None:
            spans[item.family].extend(item.spans)
    return {family: RangeSet.of(family, found) for family, found in spans.items()}


def selector(wire: meta.LabelSelector | UnsetType, where: str) -> LabelSelector | None:
    """A label selector; None if absent. Raises BadValue whose field starts with `where`."""
    if wire is UNSET:
        return None
    expressions = [(item.key, item.operator, item.values) for item in wire.match_expressions]
    try:
        return LabelSelector.of(wire.match_labels, expressions)
    except BadValue as error:
        raise error.within(where) from error


def pod_facts(
    pod: core.Pod, namespace: core.Namespace | None, node: core.Node | None, owner: TopOwner | None = None
) -> PodFacts:
    """What selection needs to know of a pod. A namespace or node that is not known counts as one without labels."""
    return PodFacts(
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        node=pod.spec.node_name,
        labels=pod.labels,
        annotations=pod.annotations,
        node_labels=node.labels if node else _NO_LABELS,
        namespace_labels=namespace.labels if namespace else _NO_LABELS,
        namespace_annotations=namespace.annotations if namespace else _NO_LABELS,
        owner=owner,
        deleting=pod.deleting,
        phase=pod.status.phase or "Pending",
        restart_policy=pod.spec.restart_policy,
        status_reason=pod.status.reason,
    )


def owner_references(stored: KubeObject) -> tuple[OwnerReference, ...]:
    """`metadata.ownerReferences` as the domain sees them."""
    return tuple(
        OwnerReference(item.api_version, item.kind, item.name, item.uid, bool(item.controller))
        for item in stored.metadata.owner_references or ()
    )


def as_owner(stored: KubeObject) -> TopOwner:
    """The object itself as an owner: of a bare pod, the pod."""
    return TopOwner(stored.api_version, stored.kind, stored.namespace, stored.name, stored.uid)


def ordinals(stored: core.StatefulSet) -> tuple[int, int]:
    """(start, replicas) of a StatefulSet; absent `replicas` means 1."""
    replicas = stored.spec.replicas
    return stored.spec.ordinals.start, 1 if replicas is None else replicas


@dataclass(frozen=True, slots=True)
class _Addresses:
    """The part of a spec that pools and subnets share."""

    family: Family
    subnet: Network
    ips: RangeSet
    exclude: RangeSet
    gateway: Address | None
    routes: tuple[Route, ...]


def _addresses(spec: spiderpool.IPPoolSpec | spiderpool.SubnetSpec) -> _Addresses:
    whole = _parsed("spec.subnet", Network.parse, spec.subnet)
    if spec.ip_version is not UNSET and spec.ip_version != whole.family:
        raise BadValue(
            "spec.ipVersion",
            f"{spec.ip_version} does not fit subnet {whole}",
            f"write {int(whole.family)}, or leave it out",
        )
    return _Addresses(
        family=whole.family,
        subnet=whole,
        ips=_ranges(whole.family, spec.ips, "spec.ips"),
        exclude=_ranges(whole.family, spec.exclude_ips, "spec.excludeIPs"),
        gateway=_parsed("spec.gateway", Address.parse, spec.gateway) if spec.gateway else None,
        routes=_routes(spec.routes or ()),
    )


def _routes(wire: Sequence[spiderpool.Route]) -> tuple[Route, ...]:
    found: list[Route] = []
    for index, item in enumerate(wire):
        try:
            found.append(Route.parse(_network_form(item.dst), item.gw))
        except BadValue as error:
            raise error.within(f"spec.routes[{index}]") from error
    return tuple(found)


def _network_form(dst: str) -> str:
    """`dst` without host bits: Spiderpool accepts a route to 10.0.0.1/16, and means 10.0.0.0/16."""
    head, _, tail = dst.partition("/")
    try:
        address = Address.parse(head)
    except BadValue:
        return dst
    if not (tail.isascii() and tail.isdecimal()) or len(tail) > 3 or int(tail) > address.family.bits:
        return dst
    return str(Network.around(address, int(tail)))


def _ranges(family: Family, items: Sequence[str], where: str) -> RangeSet:
    try:
        return RangeSet.parse(family, items)
    except BadValue as error:
        raise error.within(where) from error


def _family(number: int) -> Family:
    if number not in (4, 6):
        raise BadValue("spec.ipVersion", f"{number} is no IP version", "write 4 or 6, or leave it out")
    return Family(number)


def _parsed(where: str, parse: Callable[[str], Value], text: str) -> Value:
    try:
        return parse(text)
    except BadValue as error:
        raise error.within(where) from error


def _domain(stored: KubeObject) -> str:
    text = stored.annotations.get(L2_DOMAIN, "")
    if text and (len(text) > _MAX_DOMAIN or not _DOMAIN.fullmatch(text)):
        raise BadValue(
            f"metadata.annotations[{L2_DOMAIN}]",
            f"{text!r} is not a domain name",
            f"use lower case letters, digits, '-' and '.', at most {_MAX_DOMAIN} characters",
        )
    return text


def _created(stored: KubeObject) -> str:
    created = stored.metadata.creation_timestamp
    return created.strftime("%Y-%m-%dT%H:%M:%SZ") if created else ""
