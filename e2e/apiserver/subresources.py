"""Subresources that are not a view of the object itself (scale, binding, eviction, token), and reviews that are never stored."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from e2e.apiserver import pods
from e2e.apiserver.errors import Obj, bad_request, conflict
from e2e.apiserver.operations import Cluster, DeleteOptions, Target
from e2e.apiserver.storage import Record
from e2e.apiserver.writing import Write, timestamp

SUCCESS: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


def scale_of(obj: Obj) -> Obj:
    metadata = {
        key: obj["metadata"].get(key) for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    }
    labels = (obj["spec"].get("selector") or {}).get("matchLabels") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": obj["spec"].get("replicas", 1)},
        "status": {
            "replicas": (obj.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def scaled(target: Target, record: Record, scale: Any) -> Obj:
    """The object with the replicas of `scale`, as the body of an update. Raises 400 for what is not a scale."""
    replicas = (scale.get("spec") or {}).get("replicas", 0) if isinstance(scale, dict) else None
    if not isinstance(replicas, int) or replicas < 0:
        raise bad_request(f"{target.name}: spec.replicas must be a non-negative integer")
    metadata = dict(record.obj["metadata"])
    metadata["resourceVersion"] = (scale.get("metadata") or {}).get("resourceVersion") or metadata["resourceVersion"]
    return {**record.obj, "metadata": metadata, "spec": {**record.obj["spec"], "replicas": replicas}}


def bind(cluster: Cluster, target: Target, body: Any, write: Write) -> Obj:
    """Places a pod; raises 409 if it is placed already."""
    record = cluster.read(target)
    node = (body.get("target") or {}).get("name") if isinstance(body, dict) else None
    if not node:
        raise bad_request("binding.target.name: Required value")
    if placed := record.obj["spec"].get("nodeName"):
        raise conflict("", "pods/binding", target.name, f'pod {target.name} is already assigned to node "{placed}"')
    cluster.commit(target.resource, record, pods.bound(record.obj, node, timestamp()), write)
    return SUCCESS | {"code": 201}


def evict(cluster: Cluster, target: Target, body: Any, options: DeleteOptions, write: Write) -> Obj:
    if not isinstance(body, dict):
        raise bad_request("an eviction needs a body")
    cluster.delete(target, options, write)
    return SUCCESS | {"code": 201}


def issue_token(cluster: Cluster, target: Target, body: Any) -> Obj:
    """An opaque token; this server believes any."""
    cluster.read(target)
    spec = dict((body or {}).get("spec") or {})
    spec.setdefault("expirationSeconds", 3600)
    spec.setdefault("audiences", ["https://kubernetes.default.svc"])
    end = datetime.now(UTC) + timedelta(seconds=spec["expirationSeconds"])
    status = {"token": secrets.token_urlsafe(32), "expirationTimestamp": end.strftime("%Y-%m-%dT%H:%M:%SZ")}
    metadata = {"name": target.name, "namespace": target.namespace, "creationTimestamp": timestamp()}
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": metadata,
        "spec": spec,
        "status": status,
    }


ADMINISTRATOR: Obj = {"username": "embedded-admin", "groups": ["system:masters", "system:authenticated"]}


def review(plural: str, body: Any) -> Obj:
    """Everybody may do everything here."""
    answers: dict[str, Obj] = {
        "tokenreviews": {"authenticated": True, "user": ADMINISTRATOR},
        "selfsubjectreviews": {"userInfo": ADMINISTRATOR},
        "selfsubjectrulesreviews": {
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": False,
        },
    }
    if not isinstance(body, dict):
        raise bad_request("a review needs a body")
    return {**body, "metadata": body.get("metadata") or {}, "status": answers.get(plural, {"allowed": True})}
