"""Multus annotations: which NetworkAttachmentDefinition an interface of a pod comes from.

Source: Multus `parsePodNetworkAnnotation`; both notations, `ns/name@if,…` and a JSON list, may be spread over lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ipam.errors import BadAnnotation
from ipam.jsontext import items, optional_string, parse_json

NETWORKS = "k8s.v1.cni.cncf.io/networks"
NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"  # written by Multus: what it has attached
DEFAULT_NETWORK = "v1.multus-cni.io/default-network"
FIRST_INTERFACE = "eth0"

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class NetworkRef:
    """One attachment; `interface` is the one asked for, else Multus' default for its position (`net1`, `net2`, …).

    `claim`: the `IPAMClaim` in the pod's namespace whose addresses the interface shall have (`ipam-claim-reference`), "" for none.
    """

    namespace: str
    name: str
    interface: str
    claim: str = ""

    @property
    def nad(self) -> str:
        """`namespace/name` of the NetworkAttachmentDefinition."""
        return f"{self.namespace}/{self.name}"


def parse_networks(text: str, default_namespace: str, key: str = NETWORKS) -> tuple[NetworkRef, ...]:
    """The attachments in order; raises BadAnnotation. Blank text means none."""
    if not text.strip():
        return ()
    if any(mark in text for mark in '[{"'):
        parts = _json_parts(text, key)
    else:
        parts = [_comma_part(item.strip(), f"{key}[{index}]") for index, item in enumerate(text.split(","))]
    refs: list[NetworkRef] = []
    for index, (namespace, name, interface, claim) in enumerate(parts):
        for word in (namespace, name, claim):
            if word and not _NAME.fullmatch(word):
                raise BadAnnotation(
                    f"{key}[{index}]", f"{word!r} is not an object name", "write namespace/name@interface"
                )
        if not name:
            raise BadAnnotation(f"{key}[{index}]", "the name is empty", "write namespace/name@interface")
        refs.append(NetworkRef(namespace or default_namespace, name, interface or f"net{index + 1}", claim))
    return tuple(refs)


def nad_of_interface(
    interface: str, annotations: Mapping[str, str], *, pod_namespace: str, agent_namespace: str, cluster_network: str
) -> str | None:
    """The NetworkAttachmentDefinition (`namespace/name`) behind an interface, or None if nothing says so.

    For `eth0` that is the pod's default-network annotation, else `cluster_network` (environment
    `MULTUS_CLUSTER_NETWORK`), both in the agent's namespace unless they name one; for others the entry of the networks
    annotation. Raises BadAnnotation.
    """
    if interface != FIRST_INTERFACE:
        refs = parse_networks(annotations.get(NETWORKS, ""), pod_namespace)
        return next((ref.nad for ref in refs if ref.interface == interface), None)
    chosen = parse_networks(annotations.get(DEFAULT_NETWORK, ""), agent_namespace, DEFAULT_NETWORK)
    if len(chosen) > 1:
        raise BadAnnotation(DEFAULT_NETWORK, "names several networks", "name exactly one")
    if chosen:
        return chosen[0].nad
    return qualified(cluster_network, agent_namespace) if cluster_network else None


def claim_of_interface(interface: str, annotations: Mapping[str, str], pod_namespace: str) -> str:
    """The `IPAMClaim` that an interface's network selection element names, "" for none. Raises BadAnnotation."""
    if interface == FIRST_INTERFACE:
        refs = parse_networks(annotations.get(DEFAULT_NETWORK, ""), pod_namespace, DEFAULT_NETWORK)
        return refs[0].claim if refs else ""
    refs = parse_networks(annotations.get(NETWORKS, ""), pod_namespace)
    return next((ref.claim for ref in refs if ref.interface == interface), "")


def position(interface: str, annotations: Mapping[str, str], pod_namespace: str) -> int | None:
    """0 for `eth0`, n for the n-th entry of the networks annotation, None if the interface is neither."""
    if interface == FIRST_INTERFACE:
        return 0
    refs = parse_networks(annotations.get(NETWORKS, ""), pod_namespace)
    return next((index + 1 for index, ref in enumerate(refs) if ref.interface == interface), None)


def qualified(name: str, default_namespace: str) -> str:
    """`name` as `namespace/name`."""
    return name if "/" in name else f"{default_namespace}/{name}"


def _comma_part(item: str, field: str) -> tuple[str, str, str, str]:
    rest, at, interface = item.partition("@")
    namespace, slash, name = rest.rpartition("/")
    if "@" in interface or "/" in namespace or (at and not interface) or (slash and not namespace):
        raise BadAnnotation(field, f"{item!r} is malformed", "write namespace/name@interface")
    return namespace.strip(), name.strip(), interface.strip(), ""


def _json_parts(text: str, key: str) -> list[tuple[str, str, str, str]]:
    return [
        (
            optional_string(item, "namespace", field),
            optional_string(item, "name", field),
            optional_string(item, "interface", field) or optional_string(item, "interfacerequest", field),
            optional_string(item, "ipam-claim-reference", field),
        )
        for field, item in items(parse_json(text, key), key)
    ]
