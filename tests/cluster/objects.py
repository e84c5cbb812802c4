"""Objects that several cluster tests create, and the wait for what controllers do with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from e2e.cluster.client import MERGE_PATCH, Answer, JsonClient

T = TypeVar("T")

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"


async def eventually(ask: Callable[[], Awaitable[T]], met: Callable[[T], object], *, timeout_s: float = 20.0) -> T:
    """Asks until the answer is as wanted. Fails with the last answer."""
    answer: T | None = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                answer = await ask()
                if met(answer):
                    return answer
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not so after {timeout_s:.0f} s: {answer}") from None


async def must(answer: Awaitable[Answer], status: int = 201) -> Mapping[str, Any]:
    got = await answer
    assert got.status == status, f"{got.status} {got.message}"
    return got.body


def config_map(name: str, **data: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pod_spec(**more: object) -> dict[str, object]:
    return {"containers": [{"name": "main", "image": "k8s.local/pause:1"}], **more}


async def create_ready_node(admin: JsonClient, name: str) -> None:
    """A Node object without a kubelet, on which the scheduler will place pods."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    await must(admin.post("/api/v1/nodes", node))
    room = {"cpu": "64", "memory": "256Gi", "pods": "500"}
    ready = {"type": "Ready", "status": "True", "reason": "Test", "message": ""}
    status = {"status": {"capacity": room, "allocatable": room, "conditions": [ready]}}
    path = f"/api/v1/nodes/{name}"
    await must(admin.request("PATCH", f"{path}/status", status, content_type=MERGE_PATCH), 200)
    await eventually(  # the node lifecycle controller lifts its taint once it has seen the condition
        lambda: admin.get(path), lambda answer: not answer.body["spec"].get("taints")
    )
