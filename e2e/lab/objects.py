"""Kubernetes objects as plain dicts, as they come from YAML and JSON, and the few questions the lab asks of them."""

from pathlib import Path
from typing import Any, TypeAlias

import yaml

Object: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str]


def name_of(thing: Object) -> str:
    return str(thing["metadata"].get("name", ""))


def namespace_of(thing: Object) -> str:
    return str(thing["metadata"].get("namespace", ""))


def key_of(thing: Object) -> Key:
    return namespace_of(thing), name_of(thing)


def uid_of(thing: Object) -> str:
    return str(thing["metadata"].get("uid", ""))


def version_of(thing: Object) -> int:
    """etcd and the embedded server both count; a string that is no number sorts first."""
    text = str(thing["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0


def is_deleted(thing: Object) -> bool:
    return "deletionTimestamp" in thing["metadata"]


def annotations_of(thing: Object) -> dict[str, str]:
    return thing["metadata"].get("annotations") or {}


def controller_of(thing: Object) -> Object | None:
    """The controlling owner reference."""
    for reference in thing["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return dict(reference)
    return None


def node_of(pod: Object) -> str:
    return str((pod.get("spec") or {}).get("nodeName") or "")


def phase_of(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")


def is_running(pod: Object) -> bool:
    return phase_of(pod) == "Running" and not is_deleted(pod)


def pod_ips(pod: Object) -> list[str]:
    return [str(item["ip"]) for item in (pod.get("status") or {}).get("podIPs") or ()]


def owner_reference(owner: Object) -> Object:
    return {
        "apiVersion": owner.get("apiVersion", "apps/v1"),
        "kind": owner["kind"],
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def load_manifests(folder: Path) -> list[Object]:
    """All documents of all `*.yaml` files, in the order of the file names. Raises ValueError naming a document without a kind."""
    found: list[Object] = []
    for path in sorted(folder.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document is None:
                continue
            if "kind" not in document or "metadata" not in document:
                raise ValueError(f"{path}: a document has no kind or metadata")
            found.append(document)
    return found
