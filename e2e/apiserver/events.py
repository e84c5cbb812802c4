"""The two faces of an Event: core/v1, which is stored, and events.k8s.io/v1."""

from __future__ import annotations

from e2e.apiserver.errors import Obj

# (name in events.k8s.io/v1, name in core/v1)
_RENAMED = (
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
)
_TO_CORE = dict(_RENAMED)
_FROM_CORE = {core: new for new, core in _RENAMED}


def to_core(obj: Obj) -> Obj:
    return {_TO_CORE.get(name, name): value for name, value in obj.items()} | {"apiVersion": "v1"}


def from_core(obj: Obj) -> Obj:
    return {_FROM_CORE.get(name, name): value for name, value in obj.items()} | {"apiVersion": "events.k8s.io/v1"}
