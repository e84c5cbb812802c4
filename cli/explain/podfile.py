"""A pod as a manifest would make it, for `explain --dry-run`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from cli.failures import CliError
from crds.core import POD, Pod
from ipam.owners import TopOwner

_TEMPLATES: dict[str, tuple[str, ...]] = {
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


@dataclass(frozen=True, slots=True)
class PlannedPod:
    """`owner` is the controller of the manifest, or the pod itself."""

    pod: Pod
    owner: TopOwner


def read_pod(text: str, where: str, namespace: str) -> PlannedPod:
    """The first pod, or workload with a pod template, of a YAML text. Raises CliError."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if isinstance(document, dict)]
    except yaml.YAMLError as error:
        raise CliError(f"{where}: not YAML: {error}", "correct the file") from error
    for document in documents:
        kind = str(document.get("kind", ""))
        if kind == "Pod" or kind in _TEMPLATES:
            try:
                return _planned(document, kind, namespace)
            except msgspec.ValidationError as error:
                raise CliError(f"{where}: {kind}: {error}", "correct the manifest") from error
    raise CliError(f"{where}: no Pod and no workload with a pod template", f"give one of {', '.join(_TEMPLATES)}, Pod")


def _planned(document: dict[str, Any], kind: str, namespace: str) -> PlannedPod:
    metadata: dict[str, Any] = document.get("metadata") or {}
    name = str(metadata.get("name") or metadata.get("generateName") or "(unnamed)")
    space = str(metadata.get("namespace") or namespace)
    owner = TopOwner(str(document.get("apiVersion", "")), kind, space, name, "")
    template: Any = document
    for key in _TEMPLATES.get(kind, ()):
        template = (template or {}).get(key)
    template = template or {}
    inner = {**(template.get("metadata") or {}), "name": name, "namespace": space}
    pod = POD.from_builtins({"metadata": inner, "spec": template.get("spec") or {}, "status": {}})
    return PlannedPod(pod, owner)
