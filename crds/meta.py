"""What every Kubernetes object has in common, and `Kind`, which ties a typed model to its REST path.

Wire structs are frozen (caches share them between readers), ignore fields they do not know when decoding, and omit
what equals its default when encoding. Decoding is deliberately lenient about values: limits live in the generated
schemas, which the API server enforces, so an object stored under older rules still decodes.

A typed object is never written back whole: it lacks the fields this version does not know. Changes are merge patches.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar, dataclass_transform
from urllib.parse import quote

import msgspec
from msgspec import UNSET, UnsetType

from crds.rules import EXPRESSION_VALUES, map_list, say

__all__ = [
    "UNSET",
    "Condition",
    "Conditions",
    "Kind",
    "KubeObject",
    "LabelSelector",
    "LabelSelectorRequirement",
    "ListMeta",
    "ObjectList",
    "ObjectMeta",
    "OwnerReference",
    "UnsetType",
    "WireStruct",
    "constant",
    "wire_name",
]

_ACRONYMS = {"ip": "IP", "ips": "IPs", "uid": "UID", "id": "ID", "cidr": "CIDR", "mac": "MAC", "api": "API"}


def wire_name(attribute: str) -> str:
    """The JSON name of an attribute: camelCase with Kubernetes' acronyms (`node_uid` → `nodeUID`)."""
    first, *rest = attribute.rstrip("_").split("_")
    return first + "".join(_ACRONYMS.get(word, word[:1].upper() + word[1:]) for word in rest)


def constant(value: str) -> Any:
    """A field whose default is `value` and which is encoded all the same (`omit_defaults` skips plain defaults)."""
    return msgspec.field(default_factory=lambda: value)


class _WireMeta(msgspec.StructMeta):
    """Makes every subclass keyword-only; msgspec inherits its other options, but not this one."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> type:
        return super().__new__(mcls, name, bases, namespace, **{"kw_only": True, **options})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class WireStruct(msgspec.Struct, metaclass=_WireMeta, frozen=True, omit_defaults=True, rename=wire_name):
    """Base of everything that crosses the API: camelCase on the wire, unknown fields ignored, defaults omitted."""


class OwnerReference(WireStruct):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(WireStruct):
    """`metadata` of an object. Timestamps may be null: embedded pod templates carry `creationTimestamp: null`."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: tuple[str, ...] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None


class KubeObject(WireStruct):
    """An API object. Subclasses give `api_version` and `kind` their constants, because items of a list lack both."""

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta = ObjectMeta()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def resource_version(self) -> str:
        return self.metadata.resource_version

    @property
    def labels(self) -> dict[str, str]:
        return self.metadata.labels or {}

    @property
    def annotations(self) -> dict[str, str]:
        return self.metadata.annotations or {}

    @property
    def deleting(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    @property
    def controller(self) -> OwnerReference | None:
        """The owner reference with `controller: true`, of which Kubernetes allows at most one."""
        return next((ref for ref in self.metadata.owner_references or () if ref.controller), None)


class ListMeta(WireStruct):
    resource_version: str = ""
    continue_: str = ""
    remaining_item_count: int | None = None


class ObjectList(WireStruct):
    """One page of a list. Items stay raw so that one that does not decode cannot fail the others."""

    metadata: ListMeta = ListMeta()
    items: tuple[msgspec.Raw, ...] | None = None


LabelKey = Annotated[str, say("A label key, with its optional prefix.", maxLength=317)]
LabelValue = Annotated[str, say(maxLength=63)]


class LabelSelectorRequirement(WireStruct):
    """One expression of a label selector."""

    key: LabelKey
    operator: Annotated[str, say("How values relate to the label.", enum=["In", "NotIn", "Exists", "DoesNotExist"])]
    values: Annotated[tuple[LabelValue, ...], say("Needed by In and NotIn, refused by the others.", maxItems=256)] = ()


Expression = Annotated[LabelSelectorRequirement, say(rules=[EXPRESSION_VALUES])]


class LabelSelector(WireStruct):
    """A label selector (metav1.LabelSelector): every part must match; an empty selector matches everything."""

    match_labels: Annotated[dict[str, LabelValue], say("Labels that must have these values.", maxProperties=64)] = {}
    match_expressions: Annotated[tuple[Expression, ...], say("Expressions that must hold.", maxItems=64)] = ()


class Condition(WireStruct):
    """One observation about an object (metav1.Condition)."""

    type: Annotated[str, say("What is observed, in CamelCase.", maxLength=316)]
    status: Annotated[str, say("Whether it holds.", enum=["True", "False", "Unknown"])]
    reason: Annotated[str, say("Why, as one CamelCase word.", minLength=1, maxLength=1024)]
    last_transition_time: Annotated[datetime, say("When status last changed.")]
    message: Annotated[str, say("Why, for people.", maxLength=32768)] = ""
    observed_generation: Annotated[int, say("The metadata.generation this was observed of.", minimum=0)] = 0


Conditions = Annotated[tuple[Condition, ...], say("Observations about this object.", maxItems=16, **map_list("type"))]


T = TypeVar("T", bound=KubeObject)


@functools.cache
def _decoder(struct: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(struct)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A kind of API object: its group and names, its scope, and the struct that its objects decode to."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    struct: type[T]
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    has_status: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The REST path of the collection, or of one object when `name` is given.

        A namespaced kind without `namespace` means the collection over all namespaces. Raises ValueError for a
        combination that has no path: these are mistakes in a program, not in data.
        """
        if namespace and not self.namespaced:
            raise ValueError(f"{self.kind} is cluster scoped, but namespace {namespace!r} was given")
        if name and self.namespaced and not namespace:
            raise ValueError(f"{self.kind} {name!r} needs a namespace")
        if subresource and not name:
            raise ValueError(f"subresource {subresource!r} of {self.kind} needs a name")
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    def decode(self, raw: bytes | str | msgspec.Raw) -> T:
        """One object from JSON. Raises msgspec.ValidationError or msgspec.DecodeError, which name the place."""
        decoded: T = _decoder(self.struct).decode(raw)
        return decoded

    def from_builtins(self, value: object) -> T:
        """One object from already parsed JSON or YAML. Raises msgspec.ValidationError."""
        return msgspec.convert(value, self.struct)
