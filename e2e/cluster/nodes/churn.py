"""Load on a cluster: a Deployment whose pods are deleted one after the other, and which must always come back whole."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from e2e.cluster.nodes import manifests
from e2e.cluster.nodes.kube import Kube, Object, is_running

PERIOD_S = 0.5
WHOLE_TIMEOUT_S = 90.0
# What containerd and kubelet say when a network plugin refused.
_REFUSALS = ("FailedCreatePodSandBox", "FailedKillPod")


class Churn:
    """`async with Churn(api, app, 12) as churn:` - inside, pods die and come back; at the end the Deployment is whole, then removed."""

    def __init__(self, api: Kube, app: str, count: int) -> None:
        self._api = api
        self._app = app
        self._count = count
        self._deployment = manifests.workload("Deployment", app, count, manifests.pod_template(app))
        self._task: asyncio.Task[None] | None = None
        self.rebuilt = 0
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        await self._api.apply(self._deployment)
        await self._api.running(self._app, self._count)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if error is None:
            await self._api.running(self._app, self._count, timeout_s=WHOLE_TIMEOUT_S)
            self.failures = await self._refusals()
        await self._api.delete(self._deployment)
        await self._api.gone(self._app)

    async def _run(self) -> None:
        """Until cancelled: the oldest running pod dies, every half second."""
        while True:
            pods = [pod for pod in await self._api.pods(self._app) if is_running(pod)]
            if pods:
                oldest = min(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
                await self._api.delete(_plain(oldest), grace_s=manifests.GRACE_S)
                self.rebuilt += 1
            await asyncio.sleep(PERIOD_S)

    async def _refusals(self) -> list[str]:
        items = (await self._api.get("/api/v1/namespaces/default/events"))["items"]
        mine = [one for one in items if one["involvedObject"].get("name", "").startswith(f"{self._app}-")]
        return [str(one["message"]) for one in mine if one.get("reason") in _REFUSALS]


def _plain(pod: Object) -> dict[str, Any]:
    """Items of a list do not name their kind."""
    return {"apiVersion": "v1", "kind": "Pod", **pod}
