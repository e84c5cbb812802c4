"""Table responses: printer columns evaluated with the JSONPath subset that CRDs may use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from e2e.apiserver.errors import Obj
from e2e.apiserver.resources import Column, Resource

_STEP = re.compile(
    r"""\.(?P<field>(?:\\.|[^.\[\]\\])+)|\[(?P<index>-?\d+)\]"""
    r"""|\[(?P<star>\*)\]|\[\?\(@\.(?P<by>[\w.]+)\s*==\s*(?P<q2>['"])(?P<is>.*?)(?P=q2)\)\]"""
)
NAME = Column("Name", ".metadata.name", format="name", description="Name must be unique within a namespace.")
AGE = Column("Age", ".metadata.creationTimestamp", type="date", description="CreationTimestamp of the object.")


def compile_path(path: str) -> tuple[re.Match[str], ...]:
    """The steps of a JSONPath such as `.status.items[0]['a/b']`. Raises ValueError for anything beyond the subset."""
    text = path.strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    # A quoted key is itself read as a path, as Kubernetes does: dots in it must be escaped.
    text = re.sub(r"\[\s*'([^']*)'\s*\]", r".\1", text.removeprefix("$"))
    steps: list[re.Match[str]] = []
    position = 0
    while position < len(text):
        step = _STEP.match(text, position)
        if step is None:
            raise ValueError(f"invalid JSONPath {path!r} at {text[position:]!r}")
        steps.append(step)
        position = step.end()
    return tuple(steps)


def find(obj: Any, steps: Iterable[re.Match[str]]) -> list[Any]:
    """All values that the path leads to; nothing for what is absent."""
    values = [obj]
    for step in steps:
        values = [found for value in values for found in _step(value, step)]
    return values


def _step(value: Any, step: re.Match[str]) -> list[Any]:
    if step["field"]:
        name = step["field"].replace("\\", "")
        if name == "*" and isinstance(value, (dict, list)):
            return list(value.values()) if isinstance(value, dict) else value
        if isinstance(value, dict) and name in value:
            return [value[name]]
        return []
    if not isinstance(value, list):
        return list(value.values()) if step["star"] and isinstance(value, dict) else []
    if step["star"]:
        return value
    if step["index"] is not None:
        index = int(step["index"])
        return [value[index]] if -len(value) <= index < len(value) else []
    return [item for item in value if isinstance(item, dict) and str(item.get(step["by"])) == step["is"]]


def human_age(stamp: Any, now: datetime) -> str:
    """How long ago, in the words of kubectl: 45s, 5m30s, 3h, 2d5h."""
    if not isinstance(stamp, str):
        return "<unknown>"
    try:
        seconds = int((now - datetime.fromisoformat(stamp)).total_seconds())
    except ValueError:
        return "<invalid>"
    if seconds < 0:
        return "0s" if seconds >= -1 else "<invalid>"
    if seconds < 120:
        return f"{seconds}s"
    units = ((600, 60, "m", 1, "s"), (10800, 60, "m", 0, ""), (28800, 3600, "h", 60, "m"), (172800, 3600, "h", 0, ""))
    for limit, size, unit, below, small in units:
        if seconds < limit:
            return _two(seconds, size, unit, below, small)
    if seconds < 691200:
        return _two(seconds, 86400, "d", 3600, "h")
    return f"{seconds // 86400}d" if seconds < 63072000 else _two(seconds, 31536000, "y", 86400, "d")


def _two(seconds: int, size: int, unit: str, below: int, small: str) -> str:
    rest = seconds % size // below if below else 0
    return f"{seconds // size}{unit}" + (f"{rest}{small}" if rest else "")


def _cell(column: Column, obj: Obj, now: datetime) -> Any:
    values = find(obj, compile_path(column.path))
    if not values:
        return "<unknown>" if column.type == "date" and column is AGE else None
    value = values[0]
    if column.type == "date":
        return human_age(value, now)
    if column.type in ("integer", "number", "boolean"):
        return value if isinstance(value, (int, float, bool)) else None
    if len(values) > 1:
        return ",".join(_text(item) for item in values)
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ",".join(f'"{item}"' if isinstance(item, str) else _text(item) for item in value) + "]"
    return str(value)


# Cells of built-in kinds that are more than one path.


def _pod_ready(pod: Obj) -> str:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return f"{sum(bool(one.get('ready')) for one in statuses)}/{len(pod.get('spec', {}).get('containers') or [])}"


def _pod_status(pod: Obj) -> str:
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    status = pod.get("status", {})
    for one in status.get("containerStatuses") or []:
        if reason := (one.get("state", {}).get("waiting") or {}).get("reason"):
            return str(reason)
    return str(status.get("reason") or status.get("phase") or "Unknown")


def _restarts(pod: Obj) -> str:
    return str(sum(one.get("restartCount", 0) for one in pod.get("status", {}).get("containerStatuses") or []))


def _node_status(node: Obj) -> str:
    ready = [one for one in node.get("status", {}).get("conditions") or [] if one.get("type") == "Ready"]
    words = ["Ready" if ready and ready[0].get("status") == "True" else "NotReady" if ready else "Unknown"]
    if node.get("spec", {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _node_roles(node: Obj) -> str:
    prefix = "node-role.kubernetes.io/"
    roles = [key.removeprefix(prefix) for key in node["metadata"].get("labels") or {} if key.startswith(prefix)]
    return ",".join(sorted(roles)) or "<none>"


def _event_object(event: Obj) -> str:
    involved = event.get("involvedObject", {})
    return f"{involved.get('kind', '').lower()}/{involved.get('name', '')}"


def _ready_of(obj: Obj) -> str:
    return f"{obj.get('status', {}).get('readyReplicas', 0)}/{obj.get('spec', {}).get('replicas', 1)}"


def _count(name: str) -> Callable[[Obj], int]:
    return lambda obj: len(obj.get(name) or {})


Cell = Callable[[Obj], Any]
_BUILT_IN: dict[str, list[tuple[str, str | Cell, int]]] = {
    "/pods": [
        ("Ready", _pod_ready, 0),
        ("Status", _pod_status, 0),
        ("Restarts", _restarts, 0),
        ("Age", "", 0),
        ("IP", ".status.podIP", 1),
        ("Node", ".spec.nodeName", 1),
        ("Nominated Node", ".status.nominatedNodeName", 1),
    ],
    "/nodes": [
        ("Status", _node_status, 0),
        ("Roles", _node_roles, 0),
        ("Age", "", 0),
        ("Version", ".status.nodeInfo.kubeletVersion", 0),
        ("Internal-IP", '.status.addresses[?(@.type=="InternalIP")].address', 1),
    ],
    "/namespaces": [("Status", ".status.phase", 0), ("Age", "", 0)],
    "/configmaps": [("Data", _count("data"), 0), ("Age", "", 0)],
    "/secrets": [("Type", ".type", 0), ("Data", _count("data"), 0), ("Age", "", 0)],
    "/services": [
        ("Type", ".spec.type", 0),
        ("Cluster-IP", ".spec.clusterIP", 0),
        ("Age", "", 0),
    ],
    "/events": [
        ("Last Seen", "date:.lastTimestamp|.eventTime|.metadata.creationTimestamp", 0),
        ("Type", ".type", 0),
        ("Reason", ".reason", 0),
        ("Object", _event_object, 0),
        ("Message", ".message", 0),
    ],
    "apps/deployments": [
        ("Ready", _ready_of, 0),
        ("Up-to-date", ".status.updatedReplicas", 0),
        ("Available", ".status.availableReplicas", 0),
        ("Age", "", 0),
    ],
    "apps/replicasets": [
        ("Desired", ".spec.replicas", 0),
        ("Current", ".status.replicas", 0),
        ("Ready", ".status.readyReplicas", 0),
        ("Age", "", 0),
    ],
    "apps/statefulsets": [("Ready", _ready_of, 0), ("Age", "", 0)],
    "apps/daemonsets": [
        ("Desired", ".status.desiredNumberScheduled", 0),
        ("Current", ".status.currentNumberScheduled", 0),
        ("Ready", ".status.numberReady", 0),
        ("Age", "", 0),
    ],
    "coordination.k8s.io/leases": [("Holder", ".spec.holderIdentity", 0), ("Age", "", 0)],
    "apiextensions.k8s.io/customresourcedefinitions": [("Created At", ".metadata.creationTimestamp", 0)],
}


def _built_in_cell(source: str | Cell, obj: Obj, now: datetime) -> Any:
    if callable(source):
        return source(obj)
    if not source:
        return human_age(obj["metadata"].get("creationTimestamp"), now)
    if source.startswith("date:"):
        stamps = (find(obj, compile_path(path)) for path in source[5:].split("|"))
        return human_age(next((found[0] for found in stamps if found and found[0]), None), now)
    values = find(obj, compile_path(source))
    return _text(values[0]) if values and values[0] is not None else "<none>"


def _definition(column: Column) -> Obj:
    return {
        "name": column.name,
        "type": column.type,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    }


def definitions(resource: Resource) -> list[Obj]:
    built_in = _BUILT_IN.get(resource.stored_as)
    rest = (
        [Column(name, "", priority=priority) for name, _, priority in built_in]
        if built_in is not None
        else list(resource.columns) or [AGE]
    )
    shown = [_definition(column) for column in (NAME, *rest)]
    for one in shown:
        if one["type"] == "date" and resource.custom is None:
            one["type"] = "string"
    return shown


def cells(resource: Resource, obj: Obj, now: datetime) -> list[Any]:
    """`obj` is in its stored form."""
    name = obj["metadata"]["name"]
    built_in = _BUILT_IN.get(resource.stored_as)
    if built_in is not None:
        return [name, *(_built_in_cell(source, obj, now) for _, source, _ in built_in)]
    return [name, *(_cell(column, obj, now) for column in resource.columns or (AGE,))]


def partial(obj: Obj) -> Obj:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def table(resource: Resource, objects: Iterable[Obj], list_metadata: Obj, include: str, *, headed: bool = True) -> Obj:
    """`include` is None, Metadata or Object: what each row carries beside its cells. Watch events after the first are not headed."""
    now = datetime.now(UTC)
    rows = []
    for obj in objects:
        row: Obj = {"cells": cells(resource, obj, now)}
        if include == "Object":
            row["object"] = obj if resource.from_storage is None else resource.from_storage(obj)
        elif include != "None":
            row["object"] = partial(obj)
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "columnDefinitions": definitions(resource) if headed else None,
        "rows": rows,
    }
