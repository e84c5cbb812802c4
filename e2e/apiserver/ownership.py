"""Field ownership (`metadata.managedFields`): which manager set which field, as flat sets of paths.

A path is a tuple of FieldsV1 steps: `f:name` for a field, `k:{…}` for an element of a list of maps, `v:…` for a member of a set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from e2e.apiserver.errors import Obj
from e2e.apiserver.patches import MERGE_KEYS, MERGED_SETS
from e2e.apiserver.schema import Node

Path = tuple[str, ...]
_UNMANAGED_METADATA = frozenset(
    [
        "managedFields",
        "resourceVersion",
        "uid",
        "creationTimestamp",
        "generation",
        "selfLink",
        "deletionTimestamp",
        "name",
        "namespace",
        "deletionGracePeriodSeconds",
        "generateName",
    ]
)
MAX_UPDATE_MANAGERS = 10


@dataclass(frozen=True, slots=True)
class Shape:
    """How a value merges: by schema where there is one, else by the names known of the built-in kinds."""

    node: Node | None = None
    field: str = ""

    def child(self, name: str) -> Shape:
        if self.node is None:
            return Shape(None, name)
        return Shape(self.node.properties.get(name, self.node.additional), name)

    def item(self) -> Shape:
        return Shape(self.node.items if self.node is not None else None, "")

    @property
    def atomic_map(self) -> bool:
        if self.node is not None:
            return self.node.raw.get("x-kubernetes-map-type") == "atomic"
        return self.field in {"matchLabels", "nodeSelector", "selector"}

    @property
    def is_set(self) -> bool:
        return self.node.list_type == "set" if self.node is not None else self.field in MERGED_SETS

    def keys(self, items: list[Any]) -> tuple[str, ...]:
        """The keys of a list of maps, empty if the list is not one."""
        if not all(isinstance(item, dict) for item in items):
            return ()
        if self.node is not None:
            return self.node.map_keys if self.node.list_type == "map" else ()
        if self.field == "ports":
            return (
                ("containerPort", "protocol")
                if any("containerPort" in item for item in items)
                else ("port", "protocol")
            )
        if self.field == "addresses":
            return ()
        key = MERGE_KEYS.get(self.field)
        return (key,) if key and all(key in item for item in items) else ()


def element(item: Obj, keys: tuple[str, ...]) -> str:
    identity = {key: item.get(key, "TCP" if key == "protocol" else None) for key in sorted(keys)}
    return "k:" + msgspec.json.encode(identity).decode()


def member(item: Any) -> str:
    return "v:" + msgspec.json.encode(item).decode()


def paths(value: Any, shape: Shape, prefix: Path = ()) -> Iterator[Path]:
    """Every path that `value` sets. Lists of maps give their elements as well as what is in them."""
    if isinstance(value, dict) and value and not shape.atomic_map:
        for name, item in value.items():
            yield from paths(item, shape.child(name), (*prefix, f"f:{name}"))
    elif isinstance(value, list) and value and (keys := shape.keys(value)):
        for item in value:
            inner = (*prefix, element(item, keys))
            yield inner
            yield from paths(item, shape.item(), inner)
    elif isinstance(value, list) and value and shape.is_set:
        for item in value:
            yield (*prefix, member(item))
    else:
        yield prefix


def managed_part(obj: Obj, *, status: bool, split: bool) -> Obj:
    """What ownership speaks of: no identity, and of an object with a status subresource only the written side."""
    metadata = {name: value for name, value in obj.get("metadata", {}).items() if name not in _UNMANAGED_METADATA}
    part = {name: value for name, value in obj.items() if name not in ("apiVersion", "kind", "metadata", "status")}
    if split and status:
        return {"status": obj["status"]} if "status" in obj else {}
    if not split and "status" in obj:
        part["status"] = obj["status"]
    if metadata:
        part["metadata"] = metadata
    return part


def differences(old: Any, new: Any, shape: Shape, prefix: Path = ()) -> Iterator[tuple[Path, str]]:
    """(path, "set" | "gone") of what differs; equal subtrees cost one comparison."""
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict) and not shape.atomic_map:
        for name in old.keys() - new.keys():
            yield from ((path, "gone") for path in paths(old[name], shape.child(name), (*prefix, f"f:{name}")))
        for name, value in new.items():
            where = (*prefix, f"f:{name}")
            if name not in old:
                yield from ((path, "set") for path in paths(value, shape.child(name), where))
            else:
                yield from differences(old[name], value, shape.child(name), where)
        return
    if isinstance(old, list) and isinstance(new, list) and (keys := shape.keys(old + new)):
        before = {element(item, keys): item for item in old}
        after = {element(item, keys): item for item in new}
        for step in before.keys() - after.keys():
            yield (*prefix, step), "gone"
            yield from ((path, "gone") for path in paths(before[step], shape.item(), (*prefix, step)))
        for step, item in after.items():
            if step not in before:
                yield (*prefix, step), "set"
            yield from differences(before.get(step, {}), item, shape.item(), (*prefix, step))
        return
    lost = set(paths(old, shape, prefix)) - set(now := list(paths(new, shape, prefix)))
    yield from ((path, "gone") for path in lost)
    yield from ((path, "set") for path in now)


def to_fields(owned: Iterable[Path]) -> Obj:
    """FieldsV1 of a set of paths."""
    root: Obj = {}
    for path in sorted(owned):
        level = root
        for step in path:
            level = level.setdefault(step, {})
        level["."] = {}
    return _without_lone_dots(root)


def _without_lone_dots(level: Obj) -> Obj:
    if level.keys() == {"."}:
        return {}
    return {step: {} if step == "." else _without_lone_dots(below) for step, below in level.items()}


def from_fields(fields: Obj, prefix: Path = ()) -> Iterator[Path]:
    for step, below in fields.items():
        if step == ".":
            yield prefix
        elif not below:
            yield (*prefix, step)
        else:
            yield from from_fields(below, (*prefix, step))


def owned_by(entry: Obj) -> set[Path]:
    return set(from_fields(entry.get("fieldsV1") or {}))


def track_update(
    old: Obj | None, new: Obj, shape: Shape, *, manager: str, api_version: str, subresource: str, split: bool, now: str
) -> list[Obj]:
    """managedFields after an update: the manager gets what it changed, everybody loses what is gone."""
    given = new["metadata"].get("managedFields")
    entries: list[Obj] = (
        given if given is not None else (old or {"metadata": {}})["metadata"].get("managedFields") or []
    )
    if entries == [{}]:
        entries = []
    status = subresource == "status"
    before = managed_part(old, status=status, split=split) if old is not None else {}
    changes = list(differences(before, managed_part(new, status=status, split=split), shape))
    if not changes:
        return entries
    changed = {path for path, what in changes if what == "set"}
    gone = {path for path, what in changes if what == "gone"}
    result: list[Obj] = []
    mine: set[Path] = set()
    for entry in entries:
        owned = owned_by(entry)
        if _same(entry, manager, "Update", subresource):
            mine = owned
        elif left := owned - changed - gone:
            result.append(entry if left == owned else entry | {"fieldsV1": to_fields(left)})
    if mine := (mine | changed) - gone:
        result.append(_entry(manager, "Update", api_version, subresource, mine, now))
    return result


def _same(entry: Obj, manager: str, operation: str, subresource: str) -> bool:
    return (
        entry.get("manager") == manager
        and entry.get("operation") == operation
        and entry.get("subresource", "") == subresource
    )


def _entry(manager: str, operation: str, api_version: str, subresource: str, owned: set[Path], now: str) -> Obj:
    entry: Obj = {
        "manager": manager,
        "operation": operation,
        "apiVersion": api_version,
        "time": now,
        "fieldsType": "FieldsV1",
        "fieldsV1": to_fields(owned),
    }
    if subresource:
        entry["subresource"] = subresource
    return entry


def split_entries(entries: list[Obj], manager: str, subresource: str) -> tuple[set[Path], list[Obj]]:
    """(what this manager applied before, everybody else's entries)."""
    mine: set[Path] = set()
    others: list[Obj] = []
    for entry in entries:
        if _same(entry, manager, "Apply", subresource):
            mine = owned_by(entry)
        else:
            others.append(entry)
    return mine, others


def applied_entry(manager: str, api_version: str, subresource: str, owned: set[Path], now: str) -> Obj:
    return _entry(manager, "Apply", api_version, subresource, owned, now)
