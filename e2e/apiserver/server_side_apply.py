"""Server-side apply: merge what a manager states into the live object, refuse what others own, drop what it no longer states."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from e2e.apiserver.errors import Cause, Obj, apply_conflict
from e2e.apiserver.ownership import (
    Path,
    Shape,
    applied_entry,
    element,
    managed_part,
    member,
    owned_by,
    paths,
    split_entries,
    to_fields,
)
from e2e.apiserver.schema import copied

_MISSING = object()


class Conflicts(Enum):
    REFUSE = "refuse"
    FORCE = "force"


@dataclass(frozen=True, slots=True)
class Applier:
    manager: str
    api_version: str
    subresource: str
    conflicts: Conflicts
    now: str


def apply(live: Obj, config: Obj, shape: Shape, applier: Applier, *, split: bool) -> Obj:
    """The object after the apply, with its managedFields. Raises 409 naming every field that another manager owns."""
    stated = managed_part(config, status=applier.subresource == "status", split=split)
    wanted = set(paths(stated, shape)) - {()}
    prior, others = split_entries(live["metadata"].get("managedFields") or [], applier.manager, applier.subresource)
    others = _settle(live, stated, wanted, others, shape, applier)
    merged: Obj = _merge(live, stated, shape)
    held_by_others: set[Path] = set().union(*(owned_by(entry) for entry in others)) if others else set()
    # Whole elements before what is in them: an element goes as one, unless somebody else states a part of it.
    for path in sorted(prior - wanted, key=len):
        if not _is_key(path) and not any(one[: len(path)] == path for one in held_by_others | wanted):
            _drop(merged, path, shape)
    entries = [*others]
    if wanted:
        same_as_before = wanted == prior and merged == live
        entry = applied_entry(applier.manager, applier.api_version, applier.subresource, wanted, applier.now)
        if same_as_before:
            entry["time"] = _time_of(live, applier) or applier.now
        entries.append(entry)
    metadata = {**merged["metadata"], "managedFields": entries}
    return {**merged, "metadata": metadata}


def _is_key(path: Path) -> bool:
    """A field that identifies its list element stays as long as the element does."""
    return len(path) > 1 and path[-2].startswith("k:") and path[-1][2:] in msgspec.json.decode(path[-2][2:])


def _time_of(live: Obj, applier: Applier) -> str | None:
    for entry in live["metadata"].get("managedFields") or []:
        if (entry.get("manager"), entry.get("operation")) == (applier.manager, "Apply") and entry.get(
            "subresource", ""
        ) == applier.subresource:
            return str(entry.get("time"))
    return None


def _settle(live: Obj, stated: Obj, wanted: set[Path], others: list[Obj], shape: Shape, applier: Applier) -> list[Obj]:
    """Others' entries after forced conflicts; raises 409 for unforced ones."""
    causes: list[Cause] = []
    result: list[Obj] = []
    for entry in others:
        owned = owned_by(entry)
        disputed = {
            path
            for path in owned & wanted
            if not path[-1].startswith(("k:", "v:")) and _read(live, path, shape) != _read(stated, path, shape)
        }
        if not disputed:
            result.append(entry)
        elif applier.conflicts is Conflicts.FORCE:
            if left := owned - disputed:
                result.append(entry | {"fieldsV1": to_fields(left)})
        else:
            who = f'conflict with "{entry.get("manager")}"'
            if entry.get("subresource"):
                who += f' with subresource "{entry["subresource"]}"'
            if entry.get("operation") == "Update":
                who += f" using {entry.get('apiVersion')}"
            causes += [Cause("FieldManagerConflict", who, dotted(path)) for path in sorted(disputed)]
    if causes:
        raise apply_conflict(causes)
    return result


def dotted(path: Path) -> str:
    """`.spec.items[name="a"].value`, as conflicts are reported."""
    text = ""
    for step in path:
        kind, _, rest = step.partition(":")
        if kind == "f":
            text += f".{rest}"
        elif kind == "k":
            text += "[" + ",".join(f"{key}={_word(value)}" for key, value in msgspec.json.decode(rest).items()) + "]"
        else:
            text += f"[={rest}]"
    return text


def _word(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _descend(value: Any, step: str, shape: Shape) -> tuple[Any, Shape]:
    if step.startswith("f:") and isinstance(value, dict):
        name = step[2:]
        return value.get(name, _MISSING), shape.child(name)
    if step.startswith("k:") and isinstance(value, list):
        keys = shape.keys(value)
        found = next((item for item in value if keys and element(item, keys) == step), _MISSING)
        return found, shape.item()
    if step.startswith("v:") and isinstance(value, list):
        return (step[2:] if any(member(item) == step for item in value) else _MISSING), shape.item()
    return _MISSING, shape


def _read(value: Any, path: Path, shape: Shape) -> Any:
    for step in path:
        value, shape = _descend(value, step, shape)
    return value


def _merge(live: Any, stated: Any, shape: Shape) -> Any:
    if isinstance(stated, dict) and isinstance(live, dict) and not shape.atomic_map:
        result = dict(live)
        for name, value in stated.items():
            result[name] = _merge(live[name], value, shape.child(name)) if name in live else copied(value)
        return result
    if isinstance(stated, list) and isinstance(live, list):
        if keys := shape.keys(live + stated):
            new = {element(item, keys): item for item in stated}
            known = [element(item, keys) for item in live]
            kept = [
                _merge(item, new[step], shape.item()) if step in new else item
                for step, item in zip(known, live, strict=True)
            ]
            return kept + [copied(item) for step, item in new.items() if step not in known]
        if shape.is_set:
            return live + [item for item in stated if item not in live]
    return copied(stated)


def _drop(value: Any, path: Path, shape: Shape) -> None:
    """Removes one path from a merged object, copying nothing that is shared: the levels on the way are replaced."""
    step = path[0]
    if step.startswith("f:") and isinstance(value, dict):
        name = step[2:]
        if name not in value:
            return
        if len(path) == 1:
            del value[name]
            return
        value[name] = child = _shallow(value[name])
        _drop(child, path[1:], shape.child(name))
        if not child:
            del value[name]
    elif step.startswith("k:") and isinstance(value, list):
        keys = shape.keys(value)
        for index, item in enumerate(value):
            if keys and element(item, keys) == step:
                if len(path) == 1:
                    del value[index]
                else:
                    value[index] = child = _shallow(item)
                    _drop(child, path[1:], shape.item())
                return
    elif step.startswith("v:") and isinstance(value, list):
        value[:] = [item for item in value if member(item) != step]


def _shallow(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else list(value) if isinstance(value, list) else value
