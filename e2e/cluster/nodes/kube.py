"""What the tests ask of the API server about nodes and pods, in a few words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from e2e.cluster.client import Answer, JsonClient
from e2e.cluster.program import ClusterFailed

Object = Mapping[str, Any]
POLL_S = 0.1
_CORE = {"Pod": "pods", "Namespace": "namespaces", "Node": "nodes", "ConfigMap": "configmaps", "Secret": "secrets"}
_CORE |= {"ServiceAccount": "serviceaccounts", "Service": "services"}
# Not by the rule.
_CORE |= {"NetworkAttachmentDefinition": "network-attachment-definitions"}
_CLUSTER_WIDE = {"Namespace", "Node", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "PriorityClass"}
_CLUSTER_WIDE |= {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "SpiderIPPool", "SpiderSubnet"}
_CLUSTER_WIDE |= {"SpiderReservedIP", "IPBlock", "IPNode", "LeaderLock", "ValidatingWebhookConfiguration"}


class Kube:
    """Thin words over `JsonClient`; everything raises ClusterFailed when the API server refuses or time is up."""

    def __init__(self, client: JsonClient) -> None:
        self.client = client

    async def apply(self, thing: Object) -> Object:
        """Server-side apply; tries again while a kind is not served yet (CRDs take a moment), at most 20 s."""
        deadline = time.monotonic() + 20.0
        while True:
            where = f"{path_of(thing)}?fieldManager=nephila-e2e&force=true"
            answer = await self.client.request("PATCH", where, thing, content_type="application/apply-patch+yaml")
            if answer.status in (200, 201):
                return answer.body
            if answer.status not in (0, 404, 429, 500, 503) or time.monotonic() > deadline:
                raise ClusterFailed(f"{thing['kind']} {thing['metadata']['name']}: {answer.status} {answer.message}")
            await asyncio.sleep(POLL_S)

    async def delete(self, thing: Object, *, grace_s: int | None = None) -> None:
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        answer = await self.client.request("DELETE", path_of(thing), body | _grace(grace_s))
        if answer.status not in (200, 202, 404):
            raise ClusterFailed(f"{thing['kind']} {thing['metadata']['name']}: {answer.status} {answer.message}")

    async def get(self, path: str) -> Object:
        answer = await self.client.get(path)
        if answer.status != 200:
            raise ClusterFailed(f"GET {path}: {answer.status} {answer.message}")
        return answer.body

    async def pods(self, app: str, *, namespace: str = "default") -> list[Object]:
        body = await self.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector=app%3D{app}")
        return list(body["items"])

    async def ready_nodes(self) -> set[str]:
        items = (await self.get("/api/v1/nodes"))["items"]
        return {item["metadata"]["name"] for item in items if _is_ready(item)}

    async def delete_pods(self, app: str, *, namespace: str = "default", grace_s: int = 0) -> None:
        path = f"/api/v1/namespaces/{namespace}/pods?labelSelector=app%3D{app}"
        body = {"apiVersion": "v1", "kind": "DeleteOptions"}
        _accepted(await self.client.request("DELETE", path, body | _grace(grace_s), timeout_s=30.0), f"DELETE {path}")

    async def until(self, app: str, met: Callable[[Sequence[Object]], bool], *, timeout_s: float, what: str) -> float:
        """Polls the pods of `app` until they are as wanted; the seconds it took."""
        begun = time.monotonic()
        while True:
            pods = await self.pods(app)
            waited = time.monotonic() - begun
            if met(pods):
                return waited
            if waited > timeout_s:
                raise ClusterFailed(f"{app}: {what} not so after {timeout_s:.0f} s\n{await self._explain(app, pods)}")
            await asyncio.sleep(POLL_S)

    async def running(self, app: str, count: int, *, timeout_s: float = 120.0) -> float:
        """Until exactly `count` pods exist and all are Running and Ready; the seconds it took."""
        return await self.until(
            app,
            lambda pods: len(pods) == count and all(is_running(pod) for pod in pods),
            timeout_s=timeout_s,
            what=f"{count} pods Running",
        )

    async def gone(self, app: str, *, timeout_s: float = 120.0) -> float:
        return await self.until(app, lambda pods: not pods, timeout_s=timeout_s, what="all pods gone")

    async def _explain(self, app: str, pods: Sequence[Object]) -> str:
        """States of the pods that are not Running, and the newest warnings."""
        states = [
            f"{pod['metadata']['name']} on {pod['spec'].get('nodeName', '-')}: {pod['status'].get('phase')}"
            for pod in pods
            if not is_running(pod)
        ]
        events = (await self.get("/api/v1/namespaces/default/events"))["items"]
        warnings = [event["message"] for event in events if event.get("type") == "Warning"]
        return "\n".join([f"{app}: {len(pods)} pods", *states[:10], "newest warnings:", *warnings[-10:]])


def is_running(pod: Object) -> bool:
    """Running, Ready and not on its way out."""
    return pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"] and _is_ready(pod)


def address_of(pod: Object) -> str:
    return str(pod["status"].get("podIP", ""))


def path_of(thing: Object) -> str:
    """The object's path in the API, by the usual plural of its kind."""
    group, _, version = str(thing["apiVersion"]).rpartition("/")
    kind, meta = str(thing["kind"]), thing["metadata"]
    plural = _CORE.get(kind) or _plural(kind)
    root = f"/apis/{group}/{version}" if group else f"/api/{version}"
    place = "" if kind in _CLUSTER_WIDE else f"/namespaces/{meta.get('namespace', 'default')}"
    return f"{root}{place}/{plural}/{meta['name']}"


def _plural(kind: str) -> str:
    lower = kind.lower()
    if lower.endswith("y"):
        return f"{lower[:-1]}ies"
    return f"{lower}es" if lower.endswith("ss") else f"{lower}s"


def _is_ready(thing: Object) -> bool:
    conditions = thing["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _grace(grace_s: int | None) -> dict[str, int]:
    return {} if grace_s is None else {"gracePeriodSeconds": grace_s}


def _accepted(answer: Answer, what: str) -> None:
    if answer.status not in (200, 202):
        raise ClusterFailed(f"{what}: {answer.status} {answer.message}")
