"""Facts about a pod, an interface and the configuration, and the rule whether a pod may get addresses at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ipam.addresses import Address, Family
from ipam.errors import PodGone
from ipam.owners import TopOwner


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod with its node's and its namespace's metadata. `owner` None: not resolved (see `selection.needs_owner`)."""

    namespace: str
    name: str
    uid: str
    node: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    node_labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    namespace_annotations: Mapping[str, str] = field(default_factory=dict)
    owner: TopOwner | None = None
    deleting: bool = False
    phase: str = "Pending"
    restart_policy: str = "Always"
    status_reason: str = ""


@dataclass(frozen=True, slots=True)
class NicFacts:
    """One interface being set up, with what its network configuration says.

    `nad` is the NetworkAttachmentDefinition (`namespace/name`) behind it, None if nothing tells
    (`multus.nad_of_interface`).
    `master_addresses` None: `match_master_subnet` is off; otherwise the addresses of the PF behind the VF.
    """

    interface: str = "eth0"
    nad: str | None = None
    default_v4: tuple[str, ...] = ()
    default_v6: tuple[str, ...] = ()
    clean_gateway: bool = False
    master_addresses: tuple[Address, ...] | None = None


@dataclass(frozen=True, slots=True)
class Features:
    """What the configuration switches on. `agent_namespace` completes `multusName` items without a namespace."""

    ipv4: bool = True
    ipv6: bool = True
    subnets: bool = False
    auto_pools: bool = False
    agent_namespace: str = "kube-system"

    @property
    def families(self) -> tuple[Family, ...]:
        """The families switched on, IPv4 first."""
        return tuple(family for family, on in ((Family.V4, self.ipv4), (Family.V6, self.ipv6)) if on)


def pod_refusal(pod: PodFacts) -> PodGone | None:
    """Why a pod may get no address because it will not run (again); the error is returned, not raised."""
    why = ""
    if pod.deleting:
        why = "is being deleted"
    elif pod.phase == "Succeeded" and pod.restart_policy != "Always":
        why = f"has succeeded and its restartPolicy is {pod.restart_policy}"
    elif pod.phase == "Failed" and pod.restart_policy == "Never":
        why = "has failed and its restartPolicy is Never"
    elif pod.phase == "Failed" and pod.status_reason == "Evicted":
        why = "was evicted"
    if not why:
        return None
    return PodGone(f"pod {pod.namespace}/{pod.name} {why}", "nothing to do: it needs no address any more")
