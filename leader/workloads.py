"""The applications that ask for pools, by the Subnet that they ask; and the Subnets. Event-driven: nothing is polled.

Kubernetes' own kinds of workload are watched; those of other controllers are told by their pods (`leader.foreign`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.kube.picture import Picture
from adapters.kube.reflector import Reflector
from adapters.kube.store import Store
from crds import convert
from crds.convert import as_owner, owner_references
from crds.core import (
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    JOB,
    REPLICA_SET,
    STATEFUL_SET,
    CronJob,
    DaemonSet,
    Deployment,
    Job,
    JobSpec,
    PodTemplate,
    ReplicaSet,
    StatefulSet,
)
from crds.meta import Kind, KubeObject
from crds.spiderpool import SUBNET, SpiderSubnet
from ipam.application_pools import wants_of
from ipam.applications import AppOwner
from ipam.errors import BadValue, NephilaError
from ipam.facts import Features
from ipam.owners import OwnerReference, TopOwner
from ipam.pools import Pool
from leader.asking import AppKey, Asking, key_of
from leader.foreign import Foreign
from leader.views import PodView

log = structlog.get_logger(__name__)

K = TypeVar("K", bound=KubeObject)
Workload: TypeAlias = Deployment | ReplicaSet | StatefulSet | DaemonSet | Job | CronJob

# What is controlled by these is not an application of its own.
_PARENTS = {"ReplicaSet": ("apps", "Deployment"), "Job": ("batch", "CronJob")}


class Workloads(Picture):
    """Run `run()` as a task; complete after `synced()`. `touched` is told of every Subnet, by name, whose pools may have to change, and of
    every application, by its keys, whose wishes changed."""

    def __init__(self, store: Store, clock: Clock, entropy: Entropy, features: Features) -> None:
        self._features = features

        def reflector(kind: Kind[K]) -> Reflector[K]:
            return Reflector(store, kind, clock, entropy, on_failure=_report)

        self.subnets = reflector(SUBNET)
        self._kinds: tuple[Reflector[Any], ...] = tuple(
            reflector(kind) for kind in (DEPLOYMENT, REPLICA_SET, STATEFUL_SET, DAEMON_SET, JOB, CRON_JOB)
        )
        self._foreign = Foreign(features)
        self._asking: dict[AppKey, Asking] = {}
        self._by_subnet: dict[str, set[AppKey]] = {}
        self._readable: dict[str, Pool] = {}
        self.touched: list[Callable[[frozenset[str], AppOwner | None], None]] = []
        self.subnets.listen(self._subnet_changed)
        for kind in self._kinds:
            kind.listen(self._workload_changed)

    @property
    def reflectors(self) -> tuple[Reflector[Any], ...]:
        return (self.subnets, *self._kinds)

    def older_than(self, subnet: Pool) -> Pool | None:
        """The oldest Subnet of the same L2 domain whose network overlaps and that is older."""
        rivals = [
            other
            for other in self._readable.values()
            if other.domain == subnet.domain
            and other.seniority < subnet.seniority
            and other.subnet.overlaps(subnet.subnet)
        ]
        return min(rivals, key=lambda other: other.seniority, default=None)

    def of_subnet(self, subnet: str) -> Iterator[Asking]:
        """Who asks the Subnet of this name, whether or not it exists."""
        for key in sorted(self._by_subnet.get(subnet, ())):
            yield self._asking[key]

    def unclear(self) -> frozenset[AppOwner]:
        """Living applications whose annotations cannot be read."""
        return frozenset(AppOwner.of(asking.owner) for asking in self._asking.values() if asking.error is not None)

    def get(self, owner: TopOwner) -> KubeObject | None:
        """The object behind an owner; None if its kind is not watched."""
        for reflector in self._kinds:
            if (reflector.kind.group, reflector.kind.kind) == (owner.group, owner.kind):
                found: KubeObject | None = reflector.get(owner.name, owner.namespace)
                return found
        return None

    def _subnet_changed(self, old: SpiderSubnet | None, new: SpiderSubnet | None) -> None:
        stored = new or old
        assert stored is not None
        self._readable.pop(stored.name, None)
        if new is not None:
            with suppress(BadValue):  # whoever acts on it reads it again, and says why
                self._readable[new.name] = convert.subnet(new)
        self._tell(frozenset({stored.name}), None)

    def _workload_changed(self, old: Workload | None, new: Workload | None) -> None:
        stored = new or old
        assert stored is not None
        after = asking_of(new, self._features) if new is not None and not new.deleting else None
        self._asks(as_owner(stored), after)

    def pod_changed(self, old: PodView | None, new: PodView | None) -> None:
        """Whoever sees the pods tells of each, those that are there at first as new."""
        owner = self._foreign.changed(old, new)
        if owner is not None:
            self._asks(owner, self._foreign.asking(key_of(owner)))

    def _asks(self, owner: TopOwner, after: Asking | None) -> None:
        key = key_of(owner)
        before = self._asking.get(key)
        if before == after:
            return  # its status, or something that is no business of ours
        for subnet in before.subnets if before else ():
            self._by_subnet[subnet].discard(key)
            if not self._by_subnet[subnet]:
                del self._by_subnet[subnet]
        self._asking.pop(key, None)
        if after is not None:
            self._asking[key] = after
            for subnet in after.subnets:
                self._by_subnet.setdefault(subnet, set()).add(key)
            if after.error is not None:
                log.warning("application_refused", kind=key[1], namespace=key[2], name=key[3], error=str(after.error))
        concerned = (before.subnets if before else frozenset()) | (after.subnets if after else frozenset())
        self._tell(concerned, AppOwner.of(owner))

    def _tell(self, subnets: frozenset[str], app: AppOwner | None) -> None:
        for tell in self.touched:
            tell(subnets, app)


def asking_of(workload: Workload, features: Features) -> Asking | None:
    """What the workload asks for; None if that is no application pool, or if a workload above it speaks for it."""
    owner = as_owner(workload)
    template, replicas = _template(workload)
    if template.spec.host_network or _is_spoken_for(owner, owner_references(workload)):
        return None
    try:
        wants = wants_of(owner, template.metadata.annotations or {}, features)
    except NephilaError as error:
        return Asking(owner, replicas, (), error)
    return Asking(owner, replicas, wants) if wants else None


def _is_spoken_for(owner: TopOwner, references: tuple[OwnerReference, ...]) -> bool:
    controller = next((reference for reference in references if reference.controller), None)
    if controller is None:
        return False
    return _PARENTS.get(owner.kind) == (controller.api_version.rpartition("/")[0], controller.kind)


def _template(workload: Workload) -> tuple[PodTemplate, int]:
    """The pods' template, and how many pods there shall be at a time."""
    match workload:
        case CronJob():
            return workload.spec.job_template.spec.template, _job_size(workload.spec.job_template.spec)
        case Job():
            return workload.spec.template, _job_size(workload.spec)
        case DaemonSet():
            return workload.spec.template, workload.status.desired_number_scheduled
        case _:
            replicas = workload.spec.replicas
            return workload.spec.template, 1 if replicas is None else replicas


def _job_size(spec: JobSpec) -> int:
    """Spiderpool counts completions, else parallelism."""
    return spec.completions or spec.parallelism or 1


def _report(error: Exception) -> None:
    log.warning("watch_failed", error=str(error), kind=type(error).__name__)
