"""The custom kind that the contract is tried on."""

from __future__ import annotations

import copy
from typing import Any

GROUP = "contract.nephila.io"
PLURAL = "widgets"
API_VERSION = f"{GROUP}/v1"


def widget(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": {"size": 1, "owner": "", **spec},
    }


_SPEC: dict[str, Any] = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "format": "int64", "minimum": 0},
        "owner": {"type": "string", "maxLength": 63},
        "mode": {"type": "string", "enum": ["Fast", "Safe"], "default": "Safe"},
        "subnet": {"type": "string", "maxLength": 64, "default": "10.0.0.0/8"},
        "ips": {"type": "array", "maxItems": 16, "items": {"type": "string", "maxLength": 64}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "port": {"x-kubernetes-int-or-string": True},
        "ports": {
            "type": "array",
            "maxItems": 16,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "maxLength": 63},
                    "number": {"type": "integer", "default": 80},
                    "fixed": {
                        "type": "string",
                        "maxLength": 63,
                        "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed may not change"}],
                    },
                },
            },
        },
    },
    "x-kubernetes-validations": [
        {"rule": "isCIDR(self.subnet)", "message": "subnet must be a CIDR", "fieldPath": ".subnet"},
        {
            "rule": "!has(self.ips) || !isCIDR(self.subnet) || self.ips.all(i, isIP(i) && cidr(self.subnet).containsIP(i))",
            "message": "every ip must lie in the subnet",
            "fieldPath": ".ips",
            "reason": "FieldValueForbidden",
        },
        {
            "rule": "self.size >= oldSelf.size",
            # string(oldSelf.size) would have no upper bound in the server's cost estimate: such a definition is refused.
            "messageExpression": "'a ' + self.mode + ' widget may not shrink'",
        },
    ],
}

_STATUS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "phase": {"type": "string"},
        "count": {"type": "integer"},
        "note": {"type": "string"},
        "conditions": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status"],
                "properties": {"type": {"type": "string"}, "status": {"type": "string"}, "reason": {"type": "string"}},
            },
        },
    },
}


def definition() -> dict[str, Any]:
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "selectableFields": [{"jsonPath": ".spec.owner"}],
        "additionalPrinterColumns": [
            {"name": "SIZE", "type": "integer", "jsonPath": ".spec.size"},
            {"name": "FIRST", "type": "string", "jsonPath": ".spec.ips[0]"},
            {"name": "TEAM", "type": "string", "jsonPath": r".metadata.annotations['example\.io/team']"},
            {"name": "PHASE", "type": "string", "jsonPath": ".status.phase", "priority": 1},
        ],
        "schema": {
            "openAPIV3Schema": {"type": "object", "properties": copy.deepcopy({"spec": _SPEC, "status": _STATUS})}
        },
    }
    names = {"plural": PLURAL, "singular": "widget", "kind": "Widget", "shortNames": ["wdg"], "categories": ["toys"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }
