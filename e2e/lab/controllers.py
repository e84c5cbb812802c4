"""What the controller manager and the scheduler of a cluster would do next, as a pure function of what they see.

Covers what the lab's manifests use: Deployments with rolling updates through ReplicaSets, StatefulSets (OrderedReady and Parallel, with
updates from the highest ordinal), DaemonSets without updates, Jobs whose pods never end, garbage collection by owner, and a scheduler that spreads
and honours nodeSelector and taints.
"""

import copy
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from e2e.lab.objects import (
    Key,
    Object,
    controller_of,
    is_deleted,
    is_running,
    key_of,
    name_of,
    namespace_of,
    node_of,
    owner_reference,
    phase_of,
    uid_of,
)

Objects: TypeAlias = Mapping[Key, Object]
HOSTNAME = "kubernetes.io/hostname"


@dataclass(frozen=True, slots=True)
class View:
    """One consistent look at the caches."""

    deployments: Objects = field(default_factory=dict)
    replica_sets: Objects = field(default_factory=dict)
    stateful_sets: Objects = field(default_factory=dict)
    pods: Objects = field(default_factory=dict)
    nodes: Objects = field(default_factory=dict)
    daemon_sets: Objects = field(default_factory=dict)
    jobs: Objects = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Create:
    kind: str
    new: Object


@dataclass(frozen=True, slots=True)
class Delete:
    kind: str
    key: Key


@dataclass(frozen=True, slots=True)
class Scale:
    """Sets a ReplicaSet's `spec.replicas`."""

    key: Key
    replicas: int


@dataclass(frozen=True, slots=True)
class Bind:
    key: Key
    node: str


@dataclass(frozen=True, slots=True)
class Count:
    """Tells in a DaemonSet's status how many pods it should have."""

    key: Key
    desired: int


Action: TypeAlias = Create | Delete | Scale | Bind | Count


def plan(view: View, suffix: Callable[[], str]) -> list[Action]:
    """All actions that are due now. `suffix` gives the random part of a ReplicaSet pod's name."""
    owned = _pods_by_controller(view.pods)
    actions: list[Action] = list(_collect_garbage(view))
    for deployment in view.deployments.values():
        if not is_deleted(deployment):
            actions += _deployment(deployment, view.replica_sets.values(), owned)
    for replica_set in view.replica_sets.values():
        if not is_deleted(replica_set):
            actions += _replica_set(replica_set, owned.get(uid_of(replica_set), []), suffix)
    for stateful_set in view.stateful_sets.values():
        if not is_deleted(stateful_set):
            actions += _stateful_set(stateful_set, owned.get(uid_of(stateful_set), []), view.pods)
    for daemon_set in view.daemon_sets.values():
        if not is_deleted(daemon_set):
            actions += _daemon_set(daemon_set, owned.get(uid_of(daemon_set), []), view.nodes, suffix)
    for job in view.jobs.values():
        if not is_deleted(job):
            actions += _job(job, owned.get(uid_of(job), []), suffix)
    actions += _schedule(view)
    return actions


def _pods_by_controller(pods: Objects) -> dict[str, list[Object]]:
    owned: dict[str, list[Object]] = {}
    for pod in pods.values():
        owner = controller_of(pod)
        if owner is not None:
            owned.setdefault(owner["uid"], []).append(pod)
    return owned


def _collect_garbage(view: View) -> Iterator[Action]:
    """Background propagation: what the owner left behind goes."""
    deployments = {uid_of(item) for item in view.deployments.values() if not is_deleted(item)}
    for key, replica_set in view.replica_sets.items():
        owner = controller_of(replica_set)
        if (
            owner is not None
            and owner["kind"] == "Deployment"
            and owner["uid"] not in deployments
            and not is_deleted(replica_set)
        ):
            yield Delete("ReplicaSet", key)
    owners = (view.replica_sets, view.stateful_sets, view.daemon_sets, view.jobs)
    sets = {uid_of(item) for kind in owners for item in kind.values() if not is_deleted(item)}
    for key, pod in view.pods.items():
        owner = controller_of(pod)
        known = owner is not None and owner["kind"] in ("ReplicaSet", "StatefulSet", "DaemonSet", "Job")
        if known and owner is not None and owner["uid"] not in sets and not is_deleted(pod):
            yield Delete("Pod", key)


def _deployment(
    deployment: Object, replica_sets: Iterable[Object], owned: Mapping[str, list[Object]]
) -> Iterator[Action]:
    desired = _replicas(deployment)
    revision = template_hash(deployment)
    mine = [
        item
        for item in replica_sets
        if (controller_of(item) or {}).get("uid") == uid_of(deployment) and not is_deleted(item)
    ]
    current = next((item for item in mine if _revision(item) == revision), None)
    old = [item for item in mine if _revision(item) != revision]
    old_total = sum(_replicas(item) for item in old)
    surge, unavailable = _rolling(deployment, desired)
    wanted = desired if old_total == 0 else max(0, min(desired, desired + surge - old_total))
    if current is None:
        yield Create("ReplicaSet", _new_replica_set(deployment, revision, wanted))
    elif _replicas(current) != wanted and (old_total == 0 or wanted > _replicas(current)):
        yield Scale(key_of(current), wanted)
    ready = sum(map(is_running, owned.get(uid_of(current), []))) if current is not None else 0
    keep = max(0, desired - unavailable - ready)
    for item in old:
        stay = min(_replicas(item), keep)
        keep -= stay
        if stay != _replicas(item):
            yield Scale(key_of(item), stay)


def _new_replica_set(deployment: Object, revision: str, replicas: int) -> Object:
    template = copy.deepcopy(deployment["spec"]["template"])
    labels = {**(template.setdefault("metadata", {}).get("labels") or {}), "pod-template-hash": revision}
    template["metadata"]["labels"] = labels
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{name_of(deployment)}-{revision}",
            "namespace": namespace_of(deployment),
            "labels": labels,
            "ownerReferences": [owner_reference({**deployment, "kind": "Deployment"})],
        },
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def _replica_set(replica_set: Object, pods: list[Object], suffix: Callable[[], str]) -> Iterator[Action]:
    live = [pod for pod in pods if not is_deleted(pod)]
    missing = _replicas(replica_set) - len(live)
    for _ in range(missing):
        yield Create("Pod", new_pod({**replica_set, "kind": "ReplicaSet"}, f"{name_of(replica_set)}-{suffix()}"))
    if missing < 0:
        # As the real one: not yet running first, then the youngest.
        live.sort(
            key=lambda pod: (not is_running(pod), pod["metadata"].get("creationTimestamp", ""), name_of(pod)),
            reverse=True,
        )
        for pod in live[:-missing]:
            yield Delete("Pod", key_of(pod))


def _stateful_set(stateful_set: Object, pods: list[Object], everything: Objects) -> Iterator[Action]:
    spec = stateful_set["spec"]
    start = int((spec.get("ordinals") or {}).get("start", 0))
    names = [f"{name_of(stateful_set)}-{ordinal}" for ordinal in range(start, start + _replicas(stateful_set))]
    parallel = spec.get("podManagementPolicy") == "Parallel"
    revision = template_hash(stateful_set)
    by_name = {name_of(pod): pod for pod in pods}
    for name in names:
        if (namespace_of(stateful_set), name) not in everything:
            pod = new_pod({**stateful_set, "kind": "StatefulSet"}, name)
            pod["metadata"].setdefault("labels", {}).update(
                {"statefulset.kubernetes.io/pod-name": name, "controller-revision-hash": revision}
            )
            yield Create("Pod", pod)
        if not parallel and not (name in by_name and is_running(by_name[name])):
            return
    surplus = sorted((pod for pod in pods if name_of(pod) not in names), key=_ordinal, reverse=True)
    for pod in surplus if parallel else surplus[:1]:
        if not is_deleted(pod):
            yield Delete("Pod", key_of(pod))
    if surplus or not all(name in by_name and is_running(by_name[name]) for name in names):
        return
    stale = [name for name in names if _revision(by_name[name]) != revision]
    if stale:
        yield Delete("Pod", key_of(by_name[stale[-1]]))


def daemon_nodes(daemon_set: Object, nodes: Objects) -> list[str]:
    """Where a DaemonSet wants a pod."""
    pod = {"spec": daemon_set["spec"]["template"].get("spec") or {}}
    return sorted(name_of(node) for node in nodes.values() if fits(pod, node))


def _daemon_set(daemon_set: Object, pods: list[Object], nodes: Objects, suffix: Callable[[], str]) -> Iterator[Action]:
    wanted = daemon_nodes(daemon_set, nodes)
    if ((daemon_set.get("status") or {}).get("desiredNumberScheduled") or 0) != len(wanted):
        yield Count(key_of(daemon_set), len(wanted))
    placed = {_placed_on(pod): pod for pod in pods if not is_deleted(pod)}
    for node in wanted:
        if node not in placed:
            pod = new_pod({**daemon_set, "kind": "DaemonSet"}, f"{name_of(daemon_set)}-{suffix()}")
            pod["spec"].setdefault("nodeSelector", {})[HOSTNAME] = node
            yield Create("Pod", pod)
    for node, pod in placed.items():
        if node not in wanted:
            yield Delete("Pod", key_of(pod))


def _placed_on(pod: Object) -> str:
    return str(((pod.get("spec") or {}).get("nodeSelector") or {}).get(HOSTNAME, ""))


def _job(job: Object, pods: list[Object], suffix: Callable[[], str]) -> Iterator[Action]:
    """`parallelism` pods at once; they have no process that could end, so none is ever complete."""
    live = [pod for pod in pods if not is_deleted(pod)]
    for _ in range(job_pods(job) - len(live)):
        owner = {**job, "kind": "Job", "apiVersion": "batch/v1"}
        yield Create("Pod", new_pod(owner, f"{name_of(job)}-{suffix()}"))


def job_pods(job: Object) -> int:
    parallelism = job["spec"].get("parallelism")
    return 1 if parallelism is None else int(parallelism)


def new_pod(owner: Object, name: str) -> Object:
    """The pod that the controller makes from its template."""
    template = copy.deepcopy(owner["spec"]["template"])
    metadata = template.get("metadata") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **metadata,
            "name": name,
            "namespace": namespace_of(owner),
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": template.get("spec") or {},
    }


def _schedule(view: View) -> Iterator[Action]:
    """Spreads the pods of one controller first, then all pods; ties go by node name."""
    total: Counter[str] = Counter()
    per_owner: Counter[tuple[str, str]] = Counter()
    for pod in view.pods.values():
        if node_of(pod):
            total[node_of(pod)] += 1
            per_owner[_owner_uid(pod), node_of(pod)] += 1
    for key, pod in sorted(view.pods.items()):
        if node_of(pod) or is_deleted(pod) or phase_of(pod) != "Pending":
            continue
        fitting = sorted(name_of(node) for node in view.nodes.values() if fits(pod, node))
        if fitting:
            owner = _owner_uid(pod)
            node = min(fitting, key=lambda name: (per_owner[owner, name], total[name], name))
            total[node] += 1
            per_owner[owner, node] += 1
            yield Bind(key, node)


def fits(pod: Object, node: Object) -> bool:
    """nodeSelector, cordon and NoSchedule/NoExecute taints (tolerations are not modelled)."""
    labels = node["metadata"].get("labels") or {}
    selector = (pod.get("spec") or {}).get("nodeSelector") or {}
    spec = node.get("spec") or {}
    tainted = any(taint["effect"] in ("NoSchedule", "NoExecute") for taint in spec.get("taints") or ())
    return (
        not spec.get("unschedulable")
        and not tainted
        and all(labels.get(key) == value for key, value in selector.items())
    )


def template_hash(workload: Object) -> str:
    text = json.dumps(workload["spec"].get("template"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _revision(thing: Object) -> str:
    labels = thing["metadata"].get("labels") or {}
    return str(labels.get("pod-template-hash") or labels.get("controller-revision-hash") or "")


def _replicas(workload: Object) -> int:
    replicas = workload["spec"].get("replicas")
    return 1 if replicas is None else int(replicas)


def _rolling(deployment: Object, desired: int) -> tuple[int, int]:
    """maxSurge (rounded up) and maxUnavailable (rounded down) as counts; 25 % each unless said."""
    strategy = deployment["spec"].get("strategy") or {}
    if strategy.get("type") == "Recreate":
        return 0, desired
    rolling = strategy.get("rollingUpdate") or {}
    surge = _share(rolling.get("maxSurge", "25%"), desired, math.ceil)
    unavailable = _share(rolling.get("maxUnavailable", "25%"), desired, math.floor)
    return (surge, unavailable) if surge or unavailable else (0, 1)


def _share(value: int | str, of: int, rounding: Callable[[float], int]) -> int:
    if isinstance(value, str) and value.endswith("%"):
        return rounding(of * float(value[:-1]) / 100)
    return int(value)


def _owner_uid(pod: Object) -> str:
    owner = controller_of(pod)
    return str(owner["uid"]) if owner is not None else ""


def _ordinal(pod: Object) -> int:
    return int(name_of(pod).rpartition("-")[2])
