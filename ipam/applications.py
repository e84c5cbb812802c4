"""Application pools: the pools that a SpiderSubnet gives to one application and one interface.

Such a pool carries five podAffinity labels which are compared with the pod's top controller, not with the pod's labels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

from ipam.addresses import Family
from ipam.owners import TopOwner
from ipam.selectors import LabelSelector

PREFIX = "ipam.spidernet.io"
_KEYS = tuple(
    f"{PREFIX}/{word}" for word in ("app-api-group", "app-api-version", "app-kind", "app-namespace", "app-name")
)
MAX_NAME = 253
_MAX_LABEL = 63


@dataclass(frozen=True, slots=True)
class AppOwner:
    """The application of a pool, by five keys. The UID is none of them: a re-created application is the same one."""

    api_group: str
    api_version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, owner: TopOwner) -> AppOwner:
        """The keys of a top controller. A name too long for a label stands as its beginning and a hash."""
        return cls(owner.group, owner.version, owner.kind, owner.namespace, label_value(owner.name))

    @classmethod
    def from_selector(cls, selector: LabelSelector | None) -> AppOwner | None:
        """The keys that a pool's podAffinity holds, or None unless it names at least kind, namespace and name."""
        labels = dict(selector.match_labels) if selector else {}
        group, version, kind, namespace, name = (labels.get(key, "") for key in _KEYS)
        return cls(group, version, kind, namespace, name) if kind and namespace and name else None

    def selector(self) -> LabelSelector:
        """The podAffinity of a pool of this application."""
        values = (self.api_group, self.api_version, self.kind, self.namespace, self.name)
        return LabelSelector(tuple(sorted(zip(_KEYS, values, strict=True))))

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def label_value(name: str) -> str:
    """An object name as the value of a label: one that is too long is cut, and told apart by a hash."""
    if len(name) <= _MAX_LABEL:
        return name
    digest = blake2b(name.encode(), digest_size=5).hexdigest()
    return f"{name[: _MAX_LABEL - len(digest) - 1].rstrip('-.')}-{digest}"


def foreign_keys(selector: LabelSelector) -> tuple[str, ...]:
    """What an application pool's podAffinity holds beyond the five keys: label keys and expressions, in words."""
    extra = [key for key, _ in selector.match_labels if key not in _KEYS]
    return tuple(extra + [str(requirement) for requirement in selector.match_expressions])


@dataclass(frozen=True, slots=True)
class PoolNumber:
    """How many addresses an application pool shall hold: `fixed` in all, or (if None) `extra` beyond the replicas."""

    fixed: int | None = None
    extra: int = 0

    def wanted(self, replicas: int) -> int:
        """Total number of addresses; an application scaled to 0 counts as 1."""
        return self.fixed if self.fixed is not None else max(replicas, 1) + self.extra


@dataclass(frozen=True, slots=True)
class WantedPool:
    """An application pool that a request needs, whether or not it exists yet. `number` is None if not stated."""

    name: str
    family: Family
    subnet: str
    interface: str
    owner: TopOwner
    number: PoolNumber | None
    reclaim: bool


def pool_name(family: Family, owner: TopOwner, interface: str) -> str:
    """`auto4-<application>-<interface>-<5 characters of the UID>`, lower case, cut to the length of an object name."""
    tail = f"{interface}-{owner.uid.rpartition('-')[2][:5]}"
    head = f"auto{int(family)}-{owner.name}"[: MAX_NAME - len(tail) - 1].rstrip("-.")
    return re.sub(r"[^a-z0-9.-]", "-", f"{head}-{tail}".lower())
