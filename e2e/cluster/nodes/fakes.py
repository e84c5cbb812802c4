"""Fake nodes beside the real ones, for scale: a Node object that says Ready, and its Lease renewed, as a kubelet would.

Tainted, so that no pod of the tests lands there unless it tolerates `nephila.io/fake`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from e2e.cluster.client import MERGE_PATCH, JsonClient
from e2e.cluster.program import ClusterFailed

TAINT = "nephila.io/fake"
RENEW_S = 5.0  # the node counts as gone after 20 s (e2e/cluster/flags.py)
AT_ONCE = 8
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_ROOM = {"cpu": "64", "memory": "256Gi", "pods": "250", "ephemeral-storage": "1Ti"}


class FakeNodes:
    """`async with FakeNodes(client, 100):` - they are there and Ready inside, and gone afterwards."""

    def __init__(self, client: JsonClient, count: int) -> None:
        self.names = [f"fake-{number:04}" for number in range(1, count + 1)]
        self._client = client
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._renewing: asyncio.Task[None] | None = None
        self.renewals = 0

    async def __aenter__(self) -> Self:
        try:
            await self._each(self._create)
        except BaseException:
            await self._each(self._delete)
            raise
        self._renewing = asyncio.create_task(self._renew_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewing
        await self._each(self._delete)

    async def remove(self, names: Sequence[str]) -> None:
        """These are gone for good: their kubelets renew nothing, their Node objects are deleted."""
        self.names = [name for name in self.names if name not in names]
        for name in names:
            await self._delete(name)

    async def _each(self, act: Any) -> None:
        async def gated(name: str) -> None:
            async with self._gate:
                await act(name)

        await asyncio.gather(*map(gated, self.names))

    async def _renew_all(self) -> None:
        """Until cancelled. A refused renewal is not raised: the next one comes, as with a kubelet."""
        while True:
            await asyncio.sleep(RENEW_S)
            await self._each(self._renew)
            self.renewals += 1

    async def _create(self, name: str) -> None:
        taint = {"key": TAINT, "effect": "NoSchedule"}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": [taint]}}
        await self._must("POST", "/api/v1/nodes", node, (201, 409))
        now = _now().split(".")[0] + "Z"
        times = {"lastHeartbeatTime": now, "lastTransitionTime": now}
        ready = {"type": "Ready", "status": "True", "reason": "Fake", "message": "", **times}
        status = {"status": {"capacity": _ROOM, "allocatable": _ROOM, "conditions": [ready]}}
        await self._must("PATCH", f"/api/v1/nodes/{name}/status", status, (200,))
        await self._must("POST", LEASES, _lease(name), (201, 409))

    async def _renew(self, name: str) -> None:
        change = {"spec": {"renewTime": _now()}}
        await self._client.request("PATCH", f"{LEASES}/{name}", change, content_type=MERGE_PATCH)

    async def _delete(self, name: str) -> None:
        await self._client.request("DELETE", f"/api/v1/nodes/{name}")
        await self._client.request("DELETE", f"{LEASES}/{name}")

    async def _must(self, method: str, path: str, body: dict[str, Any], expected: Sequence[int]) -> None:
        kind = MERGE_PATCH if method == "PATCH" else "application/json"
        answer = await self._client.request(method, path, body, content_type=kind)
        if answer.status not in expected:
            raise ClusterFailed(f"{method} {path}: {answer.status} {answer.message}")


def _lease(name: str) -> dict[str, Any]:
    spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": _now()}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
