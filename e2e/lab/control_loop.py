"""Controllers and scheduler as the lab plays them beside the embedded API server: they see the cluster's caches and act by `controllers.plan`."""

import asyncio
import random
from typing import Self

import aiohttp

from e2e.lab.api import RESOURCES, ApiError
from e2e.lab.cluster_model import Cluster
from e2e.lab.controllers import Action, Bind, Count, Create, Delete, Scale, View, plan
from e2e.lab.objects import Key

ACTIONS_AT_ONCE = 16
SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # those of Kubernetes: no vowels, nothing that looks alike


class ControlLoop:
    """An async context manager, entered after the cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._dirty = asyncio.Event()
        self._acting = asyncio.Semaphore(ACTIONS_AT_ONCE)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._cluster.listeners.append(self._dirty.set)
        self._dirty.set()
        self._task = asyncio.create_task(self._control(), name="controllers")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _control(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            items = {kind: cache.items for kind, cache in self._cluster.caches.items()}
            view = View(
                items["Deployment"],
                items["ReplicaSet"],
                items["StatefulSet"],
                items["Pod"],
                items["Node"],
                items["DaemonSet"],
                items["Job"],
            )
            actions = plan(view, _suffix)
            await asyncio.gather(*(self._act(action) for action in actions))

    async def _act(self, action: Action) -> None:
        async with self._acting:
            try:
                await self._do(action)
            except ApiError as error:
                if error.status not in (404, 409):  # otherwise the cache is behind; the next event brings the next plan
                    self._cluster.problems.append(f"{type(action).__name__}: {error}")
            except (aiohttp.ClientError, TimeoutError) as error:
                self._cluster.problems.append(f"{type(action).__name__}: {error!r}")
                await asyncio.sleep(0.2)
                self._dirty.set()

    async def _do(self, action: Action) -> None:
        match action:
            case Create(kind, new):
                self._cluster.caches[kind].absorb(await self._cluster.api.create(kind, new))
            case Scale((namespace, name), replicas):
                changed = await self._cluster.api.patch("ReplicaSet", name, namespace, {"spec": {"replicas": replicas}})
                self._cluster.caches["ReplicaSet"].absorb(changed)
            case Count((namespace, name), desired):
                status = {"status": {"desiredNumberScheduled": desired}}
                changed = await self._cluster.api.patch("DaemonSet", name, namespace, status, "status")
                self._cluster.caches["DaemonSet"].absorb(changed)
            case Bind((namespace, name) as key, node):
                await self._cluster.api.bind(name, namespace, node)
                self._note("Pod", key, ("spec", "nodeName"), node)
            case Delete(kind, (namespace, name) as key):
                await self._cluster.api.delete(kind, name, namespace if RESOURCES[kind].namespaced else "")
                self._note(kind, key, ("metadata", "deletionTimestamp"), "requested")

    def _note(self, kind: str, key: Key, path: tuple[str, str], value: str) -> None:
        """Remembers a write until the watch confirms it, so that the next plan does not repeat it."""
        thing = self._cluster.caches[kind].items.get(key)
        if thing is not None:
            thing.setdefault(path[0], {}).setdefault(path[1], value)


def _suffix() -> str:
    return "".join(random.choices(SUFFIX_LETTERS, k=5))
