"""What follows from an object's other fields, as a merge patch with what is missing: decided here for the leader and for the webhook alike. Pure.

Nothing that a user wrote changes its meaning: a gateway is inherited only where the field is absent, routes only where the list is absent (an empty
one says: none), and both only when the pool is first seen, so that a later change of the Subnet does not reach it. Ranges are merged and sorted.
"""

from __future__ import annotations

from typing import Any

import msgspec

from crds import convert
from crds.meta import UNSET
from crds.spiderpool import (
    API_VERSION,
    FINALIZER,
    IPPoolSpec,
    SpiderIPPool,
    SpiderReservedIP,
    SpiderSubnet,
    SubnetSpec,
)
from ipam.addresses import Network
from ipam.applications import PREFIX, label_value
from ipam.errors import BadValue
from ipam.ranges import RangeSet

POOL_CIDR, SUBNET_CIDR = f"{PREFIX}/ippool-cidr", f"{PREFIX}/subnet-cidr"


def cidr_label(cidr: str) -> str:
    """A CIDR as a label value: `172.100.0.0/16` is `172-100-0-0-16`."""
    return cidr.replace(".", "-").replace(":", "-").replace("/", "-").strip("-")


def of_pool(pool: SpiderIPPool, subnet: SpiderSubnet | None) -> dict[str, Any]:
    """A merge patch with what is missing; empty if nothing is."""
    spec: dict[str, Any] = {}
    labels: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    if pool.deleting or (version := _version(pool.spec.subnet)) is None:
        return {}
    if FINALIZER not in (finalizers := pool.metadata.finalizers or ()):
        metadata["finalizers"] = [*finalizers, FINALIZER]
    if pool.spec.ip_version is UNSET:
        spec["ipVersion"] = version
    spec |= _merged(pool.spec)
    if pool.labels.get(POOL_CIDR) != cidr_label(pool.spec.subnet):
        labels[POOL_CIDR] = cidr_label(pool.spec.subnet)
    if subnet is not None and convert.OWNER_SUBNET not in pool.labels:
        # The label marks that the pool was seen together with its Subnet: from now on it stands on its own.
        labels[convert.OWNER_SUBNET] = label_value(subnet.name)
        if pool.controller is None:
            metadata["ownerReferences"] = [*_references(pool), _owned_by(subnet)]
        if pool.spec.gateway is UNSET and subnet.spec.gateway is not UNSET:
            spec["gateway"] = subnet.spec.gateway
        if pool.spec.routes is UNSET and subnet.spec.routes is not UNSET:
            spec["routes"] = [{"dst": route.dst, "gw": route.gw} for route in subnet.spec.routes]
    if labels:
        metadata["labels"] = labels
    return _patch(metadata, spec)


def of_subnet(subnet: SpiderSubnet, *, is_used: bool) -> dict[str, Any]:
    """A merge patch with what is missing. The finalizer keeps a Subnet that is being deleted until no pool is left of it."""
    finalizers = list(subnet.metadata.finalizers or ())
    if subnet.deleting:
        if FINALIZER not in finalizers or is_used:
            return {}
        return {"metadata": {"finalizers": [name for name in finalizers if name != FINALIZER] or None}}
    version = _version(subnet.spec.subnet)
    if version is None:
        return {}
    metadata: dict[str, Any] = {}
    if FINALIZER not in finalizers:
        metadata["finalizers"] = [*finalizers, FINALIZER]
    if subnet.labels.get(SUBNET_CIDR) != cidr_label(subnet.spec.subnet):
        metadata["labels"] = {SUBNET_CIDR: cidr_label(subnet.spec.subnet)}
    family = {"ipVersion": version} if subnet.spec.ip_version is UNSET else {}
    return _patch(metadata, {**family, **_merged(subnet.spec)})


def of_reserved(reserved: SpiderReservedIP) -> dict[str, Any]:
    """The family of the first item."""
    if reserved.deleting or reserved.spec.ip_version is not UNSET or not reserved.spec.ips:
        return {}
    return {"spec": {"ipVersion": 6 if ":" in reserved.spec.ips[0] else 4}}


def _version(cidr: str) -> int | None:
    try:
        return int(Network.parse(cidr).family)
    except BadValue:
        return None  # the pool's condition says so


def _merged(spec: IPPoolSpec | SubnetSpec) -> dict[str, list[str]]:
    """`ips` and `excludeIPs` in their shortest form, where that is another; what cannot be read is left to the condition."""
    found: dict[str, list[str]] = {}
    for name, items in (("ips", spec.ips), ("excludeIPs", spec.exclude_ips)):
        if len(items) < 2:
            continue
        try:
            shortest = RangeSet.parse(Network.parse(spec.subnet).family, items).format()
        except BadValue:
            continue
        if shortest != items:
            found[name] = list(shortest)
    return found


def _references(pool: SpiderIPPool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [msgspec.to_builtins(item) for item in pool.metadata.owner_references or ()]
    return found


def _owned_by(subnet: SpiderSubnet) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "SpiderSubnet",
        "name": subnet.name,
        "uid": subnet.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _patch(metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    return {key: part for key, part in (("metadata", metadata), ("spec", spec)) if part}
