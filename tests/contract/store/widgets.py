"""Kinds of this suite's own, so that it tests stores and not Nephila's validation rules."""

from __future__ import annotations

from typing import Any

import yaml

from crds.meta import UNSET, Kind, KubeObject, UnsetType, WireStruct, constant

GROUP, VERSION = "contract.nephila.io", "v1"
API_VERSION = f"{GROUP}/{VERSION}"


class Share(WireStruct):
    node: str
    slots: str


class GadgetSpec(WireStruct):
    page: str
    epoch: int
    shares: tuple[Share, ...] = ()
    suspect: str = ""


class Gadget(KubeObject):
    """Cluster scoped, without status."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("Gadget")
    spec: GadgetSpec


class GaugeSpec(WireStruct):
    wanted: int = 0


class GaugeStatus(WireStruct):
    version: str = ""


class Gauge(KubeObject):
    """Cluster scoped, with status."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("Gauge")
    spec: GaugeSpec = GaugeSpec()
    status: GaugeStatus | UnsetType = UNSET


class Part(KubeObject):
    """Namespaced."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("Part")


GADGET = Kind(GROUP, VERSION, "Gadget", "gadgets", "gadget", False, Gadget)
GAUGE = Kind(GROUP, VERSION, "Gauge", "gauges", "gauge", False, Gauge, has_status=True)
PART = Kind(GROUP, VERSION, "Part", "parts", "part", True, Part)
ABSENT = Kind(GROUP, VERSION, "Absent", "absents", "absent", False, Gauge)
"""Not among the definitions."""

_TEXT, _INTEGER = {"type": "string"}, {"type": "integer", "format": "int64"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


_SHARES = {"type": "array", "items": _object(node=_TEXT, slots=_TEXT)}
_SCHEMAS: dict[Kind[Any], dict[str, Any]] = {
    GADGET: _object(spec=_object(page=_TEXT, epoch=_INTEGER, shares=_SHARES, suspect=_TEXT)),
    GAUGE: _object(spec=_object(wanted=_INTEGER), status=_object(version=_TEXT)),
    PART: _object(),
}

KINDS = tuple(_SCHEMAS)


def definitions() -> str:
    """The CustomResourceDefinitions as YAML documents."""
    return yaml.safe_dump_all(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{kind.plural}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "scope": "Namespaced" if kind.namespaced else "Cluster",
                "names": {
                    "kind": kind.kind,
                    "plural": kind.plural,
                    "singular": kind.singular,
                    "listKind": f"{kind.kind}List",
                },
                "versions": [
                    {
                        "name": VERSION,
                        "served": True,
                        "storage": True,
                        "schema": {"openAPIV3Schema": schema},
                        **({"subresources": {"status": {}}} if kind.has_status else {}),
                    }
                ],
            },
        }
        for kind, schema in _SCHEMAS.items()
    )
