"""Kinds of other projects as the embedded server needs them: names and scope, any content. The projects' own schemas are not ours to copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from crds.identities import IPAM_CLAIM, VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE, VIRTUAL_MACHINE_MIGRATION
from crds.meta import Kind

KINDS: tuple[Kind[Any], ...] = (
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
    VIRTUAL_MACHINE_MIGRATION,
    IPAM_CLAIM,
)


def definitions() -> Iterator[dict[str, Any]]:
    """One CustomResourceDefinition each."""
    for kind in KINDS:
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": anything, "status": anything}}}
        version = {"name": kind.version, "served": True, "storage": True, "schema": schema}
        if kind.has_status:
            version["subresources"] = {"status": {}}
        yield {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{kind.plural}.{kind.group}"},
            "spec": {
                "group": kind.group,
                "scope": "Namespaced",
                "names": {
                    "plural": kind.plural,
                    "singular": kind.singular,
                    "kind": kind.kind,
                    "listKind": f"{kind.kind}List",
                },
                "versions": [version],
            },
        }
