"""Whose address an interface's is: that of an identity which outlives the pod, or nobody's in particular.

In this order: the `IPAMClaim` that the interface's network selection element names; the KubeVirt machine that the pod runs; the ordinal of a native
StatefulSet, whoever owns that. Only claims, and targets of a live migration, cost an API call here.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapters.kube.store import Store, StoreError
from crds.convert import as_owner, owner_references
from crds.core import POD, Pod
from crds.identities import (
    CLAIM,
    IPAM_CLAIM,
    KUBEVIRT,
    MACHINE,
    MIGRATION_JOB,
    VIRTUAL_MACHINE_MIGRATION,
    IPAMClaim,
)
from ipam.blocks import Holder, PinOwner
from ipam.errors import ApiUnreachable, BadAnnotation, OwnerMissing
from ipam.multus import NETWORKS, claim_of_interface
from ipam.owners import TopOwner, top_owner
from nodeagent.config import FeatureSettings

FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Identity:
    """`endpoint`: the name of the SpiderEndpoint that records its addresses; `claim`: the claim, which records them too.

    `migrating`: the pod is the target of a live migration that is under way, so the machine's other pod may have the address as well.
    """

    owner: PinOwner
    endpoint: str
    claim: IPAMClaim | None = None
    migrating: bool = False


def machine_of(pod: Pod) -> TopOwner | None:
    """The KubeVirt machine that the pod runs, if any."""
    owner = top_owner(as_owner(pod), owner_references(pod), {})
    is_machine = isinstance(owner, TopOwner) and (owner.group, owner.kind) == (KUBEVIRT, MACHINE)
    return owner if is_machine and isinstance(owner, TopOwner) else None


def record_of(pod: Pod, features: FeatureSettings) -> tuple[str, bool]:
    """The name of the pod's SpiderEndpoint, and whether that outlives the pod."""
    if features.enable_kubevirt_static_ip and (machine := machine_of(pod)) is not None:
        return machine.name, True
    return pod.name, features.enable_stateful_set and _stateful_set_of(pod) is not None


class Identities:
    def __init__(self, store: Store, features: FeatureSettings) -> None:
        self._store = store
        self._features = features

    def is_nobodys(self, pod: Pod, interface: str) -> bool:
        """True if `of` would surely answer None; it costs no call. Raises BadAnnotation."""
        if claim_of_interface(interface, pod.annotations, pod.namespace):
            return False
        if not pod.metadata.owner_references:
            return True
        return not (
            (self._features.enable_kubevirt_static_ip and machine_of(pod) is not None)
            or (self._features.enable_stateful_set and _stateful_set_of(pod) is not None)
        )

    async def of(self, pod: Pod, interface: str, network: str) -> Identity | None:
        """None: the address is the pod's alone. `network`: the name of the CNI configuration.

        Raises BadAnnotation, OwnerMissing (the claim does not exist), ApiUnreachable.
        """
        machine = machine_of(pod) if self._features.enable_kubevirt_static_ip else None
        if name := claim_of_interface(interface, pod.annotations, pod.namespace):
            claim = await self._claim(pod, interface, network, name)
            owner = PinOwner(CLAIM, pod.namespace, name, interface, claim.uid)
            return Identity(owner, record_of(pod, self._features)[0], claim, await self._is_target(pod, machine))
        if machine is not None:
            owner = PinOwner(MACHINE, pod.namespace, machine.name, interface, machine.uid)
            return Identity(owner, machine.name, None, await self._is_target(pod, machine))
        stateful = _stateful_set_of(pod) if self._features.enable_stateful_set else None
        if stateful is None:
            return None
        return Identity(PinOwner("StatefulSet", pod.namespace, pod.name, interface, stateful.uid), pod.name)

    async def source_of(self, pod: Pod, holder: Holder) -> bool:
        """Whether `holder` is the living pod of the very machine that `pod` runs: then a migration takes it from there. Raises ApiUnreachable."""
        machine = machine_of(pod)
        found = await self._on_node(holder, pod.namespace)
        if machine is None or found is None or found.status.phase in FINISHED:
            return False
        other = machine_of(found)
        return other is not None and other.uid == machine.uid

    async def is_gone(self, holder: Holder, namespace: str) -> bool:
        """Whether the API has no pod of that UID any more, by a quorum read. Raises ApiUnreachable."""
        return await self._on_node(holder, namespace) is None

    async def is_current(self, pod: Pod) -> bool:
        """Whether the API still has this very pod, by a quorum read. Raises ApiUnreachable."""
        try:
            current = await self._store.get(POD, pod.name, pod.namespace)
        except StoreError as error:
            raise ApiUnreachable(f"pod {pod.namespace}/{pod.name} could not be read: {error}") from error
        return current is not None and current.uid == pod.uid

    async def _on_node(self, holder: Holder, namespace: str) -> Pod | None:
        """A pin names its holder by node and UID: the node's pods of the namespace are few enough to look through."""
        try:
            listed = await self._store.list(POD, namespace=namespace, fields=f"spec.nodeName={holder.node}")
        except StoreError as error:
            raise ApiUnreachable(f"pods of {namespace} on {holder.node} could not be listed: {error}") from error
        return next((found for found in listed.items if found.uid == holder.pod_uid), None)

    async def _claim(self, pod: Pod, interface: str, network: str, name: str) -> IPAMClaim:
        try:
            claim = await self._store.get(IPAM_CLAIM, name, pod.namespace)
        except StoreError as error:
            raise ApiUnreachable(
                f"IPAMClaim {pod.namespace}/{name} could not be read: {error}",
                hint="is the CRD of IPAMClaim installed, and does the API server answer?",
            ) from error
        if claim is None:
            raise OwnerMissing(
                f"IPAMClaim {pod.namespace}/{name}, which {NETWORKS} names for {interface}, does not exist",
                "create it, or remove ipam-claim-reference; the kubelet tries again",
            )
        if claim.spec.network and claim.spec.network != network:
            raise BadAnnotation(
                NETWORKS,
                f"IPAMClaim {name} is for network {claim.spec.network!r}, but {interface} is on {network!r}",
                "refer to a claim of this network",
            )
        return claim

    async def _is_target(self, pod: Pod, machine: TopOwner | None) -> bool:
        job = pod.annotations.get(MIGRATION_JOB, "")
        if machine is None or not job:
            return False
        try:
            migration = await self._store.get(VIRTUAL_MACHINE_MIGRATION, job, pod.namespace)
        except StoreError as error:
            raise ApiUnreachable(f"migration {pod.namespace}/{job} could not be read: {error}") from error
        return migration is not None and not migration.is_over and migration.spec.vmi_name == machine.name


def _stateful_set_of(pod: Pod) -> TopOwner | None:
    owner = top_owner(as_owner(pod), owner_references(pod), {})
    return owner if isinstance(owner, TopOwner) and owner.is_stateful_set else None
