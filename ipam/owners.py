"""Who stands behind a pod: its top controller, and the ordinal rule of StatefulSets.

The rule may need an object that only the caller can fetch, so it answers either with the owner or with what it must
know (`OwnerNeeded`); the caller adds that object's ownerReferences to `known` and asks again. One question at most.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ipam.errors import OwnerMissing

_ORDINAL = re.compile(r"(.*)-([0-9]+)")

# Which controller of which kind stands above a built-in one; all others are the top of their chain.
_PARENTS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("apps", "ReplicaSet"): ("apps", "Deployment"),
    ("batch", "Job"): ("batch", "CronJob"),
}
_BUILT_IN = frozenset(
    {
        ("", "Pod"),
        ("apps", "Deployment"),
        ("apps", "ReplicaSet"),
        ("apps", "StatefulSet"),
        ("apps", "DaemonSet"),
        ("batch", "Job"),
        ("batch", "CronJob"),
    }
)


@dataclass(frozen=True, slots=True)
class OwnerReference:
    """One item of `metadata.ownerReferences`."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False


@dataclass(frozen=True, slots=True)
class TopOwner:
    """The controller at the top of a pod's chain; for a bare pod, the pod itself (kind `Pod`)."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    @property
    def group(self) -> str:
        """API group, "" for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """API version without the group."""
        return self.api_version.rpartition("/")[2]

    @property
    def is_bare_pod(self) -> bool:
        """Whether no controller stands behind the pod."""
        return (self.group, self.kind) == ("", "Pod")

    @property
    def is_third_party(self) -> bool:
        """Whether it is none of the workload kinds that Kubernetes itself ships."""
        return (self.group, self.kind) not in _BUILT_IN

    @property
    def is_stateful_set(self) -> bool:
        """Whether it is a native StatefulSet, whoever owns that."""
        return (self.group, self.kind) == ("apps", "StatefulSet")


@dataclass(frozen=True, slots=True)
class OwnerNeeded:
    """The object whose ownerReferences must be known before the rule can go on."""

    owner: TopOwner


def top_owner(
    pod: TopOwner,
    references: Sequence[OwnerReference],
    known: Mapping[str, Sequence[OwnerReference] | None],
) -> TopOwner | OwnerNeeded:
    """The top controller of `pod`, or the owner to look up first.

    `known` maps an owner's UID to its own ownerReferences, or to None if no object of that UID was found: then
    OwnerMissing is raised. A ReplicaSet leads to its Deployment and a Job to its CronJob, if those control it; any
    other kind, above all a StatefulSet and a kind of another API group, is the top, whoever owns it.
    """
    reference = _controller(references)
    if reference is None:
        return pod
    owner = _owner(reference, pod.namespace)
    parent_kind = _PARENTS.get((owner.group, owner.kind))
    if parent_kind is None:
        return owner
    if owner.uid not in known:
        return OwnerNeeded(owner)
    above = known[owner.uid]
    if above is None:
        raise OwnerMissing(
            f"{owner.kind} {owner.namespace}/{owner.name}, which owns pod {pod.name}, does not exist",
            "it was deleted or is not visible yet; the pod is retried",
        )
    parent_reference = _controller(above)
    if parent_reference is None:
        return owner
    parent = _owner(parent_reference, pod.namespace)
    return parent if (parent.group, parent.kind) == parent_kind else owner


def _controller(references: Sequence[OwnerReference]) -> OwnerReference | None:
    return next((reference for reference in references if reference.controller), None)


def _owner(reference: OwnerReference, namespace: str) -> TopOwner:
    return TopOwner(reference.api_version, reference.kind, namespace, reference.name, reference.uid)


def ordinal(pod_name: str) -> tuple[str, int] | None:
    """Name of the StatefulSet and ordinal that a pod name spells (`web-0`), or None if it has no such form."""
    found = _ORDINAL.fullmatch(pod_name)
    return (found[1], int(found[2])) if found else None


def is_wanted_ordinal(pod_name: str, *, set_name: str, start: int, replicas: int) -> bool:
    """Whether the StatefulSet at its present size has a pod of this name: ordinal in [start, start + replicas)."""
    spelled = ordinal(pod_name)
    return spelled is not None and spelled[0] == set_name and start <= spelled[1] < start + replicas
