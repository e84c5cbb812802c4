"""What the server serves: the built-in kinds and, beside them, the custom ones that come and go at run time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from e2e.apiserver import events
from e2e.apiserver.cel_rules import Evaluator
from e2e.apiserver.errors import Obj
from e2e.apiserver.schema import Node

FieldPath = tuple[str, ...]
BASE_FIELDS: dict[str, FieldPath] = {
    "metadata.name": ("metadata", "name"),
    "metadata.namespace": ("metadata", "namespace"),
}


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    path: str
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class CustomVersion:
    """What a CRD says of one served version."""

    schema: Node
    rules: Evaluator | None
    raw_schema: Obj


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource in one served version."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    singular: str = ""
    list_kind: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: frozenset[str] = frozenset()
    selectable: Mapping[str, FieldPath] = field(default_factory=lambda: BASE_FIELDS)
    generation: bool = False
    unconditional_update: bool = True
    create_on_update: bool = False
    columns: tuple[Column, ...] = ()
    custom: CustomVersion | None = None
    storage: str = ""
    storage_version: str = ""
    to_storage: Callable[[Obj], Obj] | None = None
    from_storage: Callable[[Obj], Obj] | None = None

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def stored_as(self) -> str:
        """Name of the collection."""
        return self.storage or f"{self.group}/{self.plural}"

    @property
    def names(self) -> tuple[str, str]:
        return self.group, self.plural

    @property
    def representation(self) -> str:
        return "stored" if self.from_storage is None else self.api_version

    @property
    def kind_of_list(self) -> str:
        return self.list_kind or f"{self.kind}List"

    @property
    def verbs(self) -> list[str]:
        return ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources


def _fields(*labels: str) -> dict[str, FieldPath]:
    return BASE_FIELDS | {label: tuple(label.split(".")) for label in labels}


def _built_in(group: str, version: str, plural: str, kind: str, short: str = "", **options: object) -> Resource:
    defaults: dict[str, object] = {"short_names": tuple(short.split()), "singular": kind.lower()}
    return Resource(group, version, plural, kind, **(defaults | options))  # type: ignore[arg-type]


_STATUS = frozenset({"status"})
_SCALED = frozenset({"status", "scale"})
_ALL = ("all",)

_POD_FIELDS = _fields(
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
)
_EVENT_FIELDS = _fields(
    *(
        f"involvedObject.{name}"
        for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    ),
    "reason",
    "reportingComponent",
    "source",
    "type",
)
_NEW_EVENT_FIELDS = _EVENT_FIELDS | {
    label.replace("involvedObject", "regarding"): path for label, path in _EVENT_FIELDS.items()
}


def _core() -> Iterator[Resource]:
    yield _built_in(
        "",
        "v1",
        "namespaces",
        "Namespace",
        "ns",
        namespaced=False,
        subresources=frozenset({"status", "finalize"}),
        selectable=_fields("status.phase"),
    )
    yield _built_in(
        "",
        "v1",
        "pods",
        "Pod",
        "po",
        categories=_ALL,
        subresources=frozenset({"status", "binding", "eviction"}),
        selectable=_POD_FIELDS,
        generation=True,
    )
    yield _built_in(
        "",
        "v1",
        "nodes",
        "Node",
        "no",
        namespaced=False,
        subresources=_STATUS,
        selectable=_fields("spec.unschedulable"),
    )
    yield _built_in("", "v1", "services", "Service", "svc", categories=_ALL, subresources=_STATUS)
    yield _built_in("", "v1", "endpoints", "Endpoints", "ep", create_on_update=True)
    yield _built_in("", "v1", "configmaps", "ConfigMap", "cm")
    yield _built_in("", "v1", "secrets", "Secret", selectable=_fields("type"))
    yield _built_in("", "v1", "serviceaccounts", "ServiceAccount", "sa", subresources=frozenset({"token"}))
    yield _built_in("", "v1", "events", "Event", "ev", create_on_update=True, selectable=_EVENT_FIELDS)
    yield _built_in(
        "events.k8s.io",
        "v1",
        "events",
        "Event",
        "ev",
        create_on_update=True,
        selectable=_NEW_EVENT_FIELDS,
        storage="/events",
        storage_version="v1",
        to_storage=events.to_core,
        from_storage=events.from_core,
    )


def _others() -> Iterator[Resource]:
    yield _built_in(
        "apps", "v1", "deployments", "Deployment", "deploy", categories=_ALL, subresources=_SCALED, generation=True
    )
    yield _built_in(
        "apps", "v1", "replicasets", "ReplicaSet", "rs", categories=_ALL, subresources=_SCALED, generation=True
    )
    yield _built_in(
        "apps", "v1", "statefulsets", "StatefulSet", "sts", categories=_ALL, subresources=_SCALED, generation=True
    )
    yield _built_in(
        "apps", "v1", "daemonsets", "DaemonSet", "ds", categories=_ALL, subresources=_STATUS, generation=True
    )
    yield _built_in("batch", "v1", "jobs", "Job", categories=_ALL, subresources=_STATUS, generation=True)
    yield _built_in("batch", "v1", "cronjobs", "CronJob", "cj", categories=_ALL, subresources=_STATUS, generation=True)
    yield _built_in("coordination.k8s.io", "v1", "leases", "Lease", create_on_update=True, unconditional_update=False)
    yield _built_in("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", generation=True)
    yield _built_in(
        "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", "pdb", subresources=_STATUS, generation=True
    )
    rbac = "rbac.authorization.k8s.io"
    yield _built_in(rbac, "v1", "roles", "Role")
    yield _built_in(rbac, "v1", "rolebindings", "RoleBinding")
    yield _built_in(rbac, "v1", "clusterroles", "ClusterRole", namespaced=False)
    yield _built_in(rbac, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
    admission = "admissionregistration.k8s.io"
    for plural, kind in (
        ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration"),
        ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
        ("validatingadmissionpolicies", "ValidatingAdmissionPolicy"),
        ("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"),
    ):
        yield _built_in(admission, "v1", plural, kind, namespaced=False, generation=True)
    yield _built_in(
        "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", "pc", namespaced=False, generation=True
    )
    yield _built_in(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        "crd crds",
        namespaced=False,
        subresources=_STATUS,
        generation=True,
        unconditional_update=False,
        categories=("api-extensions",),
    )


CRDS = "apiextensions.k8s.io/customresourcedefinitions"
NAMESPACES = "/namespaces"
PODS = "/pods"


class Registry:
    """Resources by group, version and plural; custom ones can be set and removed while the server runs."""

    def __init__(self) -> None:
        self._by_path: dict[tuple[str, str, str], Resource] = {}
        for resource in (*_core(), *_others()):
            self.add(resource)

    def add(self, resource: Resource) -> None:
        self._by_path[resource.group, resource.version, resource.plural] = resource

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._by_path.get((group, version, plural))

    def remove(self, group: str, plural: str) -> None:
        for key in [key for key in self._by_path if key[0] == group and key[2] == plural]:
            del self._by_path[key]

    def all(self) -> Iterator[Resource]:
        return iter(tuple(self._by_path.values()))

    def groups(self) -> dict[str, dict[str, list[Resource]]]:
        """Resources by group and version, the core group first."""
        groups: dict[str, dict[str, list[Resource]]] = {}
        for resource in self._by_path.values():
            groups.setdefault(resource.group, {}).setdefault(resource.version, []).append(resource)
        return groups

    def stored(self, collection: str) -> Resource | None:
        """The resource whose version is the one in storage."""
        for resource in self._by_path.values():
            if resource.stored_as == collection and resource.from_storage is None:
                return resource
        return None

    def by_kind(self, api_version: str, kind: str) -> Resource | None:
        for resource in self._by_path.values():
            if resource.kind == kind and resource.api_version == api_version:
                return resource
        return None
