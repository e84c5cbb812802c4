"""The cluster as the lab sees it: caches of what it has, a kubelet per node, and what scenarios do and ask.

Who makes pods and binds them is another's part: `control_loop` beside the embedded server, the real programs beside a real one.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Self

from e2e.lab.api import Api, ApiError
from e2e.lab.caches import Cache
from e2e.lab.controllers import daemon_nodes, job_pods
from e2e.lab.kubelet import Kubelet, PodWorker
from e2e.lab.objects import Object, is_running, key_of, name_of, namespace_of, node_of, uid_of

KINDS = ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "Pod", "Node")
SYNC_TIMEOUT_S = 15.0
REPLICATED = ("Deployment", "StatefulSet")
WORKLOADS = (*REPLICATED, "DaemonSet", "Job")
SYSTEM_NAMESPACE = "nephila-system"  # the agents' own pods: on the host's network, and no matter of the lab's kubelets
REFUSED_TRIES = 50  # a namespace has no service account yet, or a kind is not served yet


class Cluster:
    """An async context manager; kubelets are added before it is entered."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.kubelets: dict[str, Kubelet] = {}
        self.problems: list[str] = []
        self.listeners: list[Callable[[], None]] = []  # called after every change of anything
        self.caches = {kind: Cache(api, kind, self._on_pod if kind == "Pod" else self._on_any) for kind in KINDS}
        self._moved = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(cache.run(), name=f"watch {cache.kind}") for cache in self.caches.values()]
        async with asyncio.timeout(SYNC_TIMEOUT_S):
            for cache in self.caches.values():
                await cache.synced.wait()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(kubelet.close() for kubelet in self.kubelets.values()))

    # What scenarios do

    async def apply(self, objects: Iterable[Object]) -> None:
        """As a user who tries again while the cluster is not ready for it (bounded)."""
        for thing in objects:
            for attempt in range(REFUSED_TRIES):
                try:
                    self._learn(await self.api.apply(thing), thing["kind"])
                    break
                except ApiError as error:
                    if error.status not in (403, 404) or attempt + 1 == REFUSED_TRIES:
                        raise
                await asyncio.sleep(0.1)

    async def scale(self, kind: str, namespace: str, name: str, replicas: int) -> None:
        self._learn(await self.api.patch(kind, name, namespace, {"spec": {"replicas": replicas}}), kind)

    def _learn(self, written: Object, kind: str) -> None:
        """What was written is desired from now on, not from when the watch confirms it: otherwise the old state would look settled."""
        if kind in WORKLOADS:
            self.caches[kind].absorb(written)

    async def delete_workloads(self) -> None:
        """Every workload and bare pod; garbage collection does the rest (which for Jobs must be asked for)."""
        for kind in WORKLOADS:
            for thing in list(self.caches[kind].items.values()):
                await self.api.delete(kind, name_of(thing), namespace_of(thing), {"propagationPolicy": "Background"})
        for pod in self.pods():
            if not pod["metadata"].get("ownerReferences"):
                await self.api.delete("Pod", name_of(pod), namespace_of(pod))

    async def evict(self, node: str) -> int:
        """Force-deletes every pod object of a node, as pod garbage collection does for one that is out of service. Returns how many."""
        victims = [pod for pod in self.pods() if node_of(pod) == node]
        for pod in victims:
            await self.api.delete("Pod", name_of(pod), namespace_of(pod), {"gracePeriodSeconds": 0})
        return len(victims)

    async def taint(self, node: str, *taints: Object) -> None:
        """Replaces the node's taints; none takes them away."""
        await self.api.patch("Node", node, "", {"spec": {"taints": list(taints)}})

    def restart_sandboxes(self, prefix: str, count: int) -> set[str]:
        """New sandboxes for the first running pods whose namespace/name begins so. Returns their UIDs."""
        chosen = [
            (kubelet, worker) for kubelet, worker in self.running() if "/".join(key_of(worker.pod)).startswith(prefix)
        ]
        for kubelet, worker in chosen[:count]:
            kubelet.restart_sandbox(uid_of(worker.pod))
        return {uid_of(worker.pod) for _, worker in chosen[:count]}

    # What scenarios ask

    def pods(self) -> list[Object]:
        """All but the agents' own."""
        return [pod for pod in self.caches["Pod"].items.values() if namespace_of(pod) != SYSTEM_NAMESPACE]

    def running(self) -> list[tuple[Kubelet, PodWorker]]:
        """Pods whose interfaces are up, with the kubelet that keeps them."""
        return [
            (kubelet, worker)
            for kubelet in self.kubelets.values()
            for worker in kubelet.workers.values()
            if worker.running
        ]

    def desired(self) -> int:
        """Pods that the workloads and bare pods ask for in all."""
        wanted = [thing["spec"].get("replicas") for kind in REPLICATED for thing in self.caches[kind].items.values()]
        wanted += [
            len(daemon_nodes(item, self.caches["Node"].items)) for item in self.caches["DaemonSet"].items.values()
        ]
        wanted += [job_pods(item) for item in self.caches["Job"].items.values()]
        bare = sum(1 for pod in self.pods() if not pod["metadata"].get("ownerReferences"))
        return sum(1 if count is None else int(count) for count in wanted) + bare

    def settled(self) -> bool:
        """As many pods as desired, all Running, each with a live worker of its own UID, and no worker besides."""
        pods = self.pods()
        workers = {uid: worker for kubelet in self.kubelets.values() for uid, worker in kubelet.workers.items()}
        busy = len(pods) != self.desired() or not all(map(is_running, pods))
        return (
            not busy
            and {uid_of(pod) for pod in pods} == set(workers)
            and all(worker.running for worker in workers.values())
        )

    async def wait_settled(self, timeout_s: float) -> float:
        """Returns the seconds it took. Raises TimeoutError saying what is missing."""
        return await self.wait_until(self.settled, timeout_s, self.describe)

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float, describe: Callable[[], str]) -> float:
        begun = time.monotonic()
        while not condition():
            left = timeout_s - (time.monotonic() - begun)
            if left <= 0:
                raise TimeoutError(f"not so within {timeout_s:.0f} s: {describe()}")
            self._moved.clear()
            try:
                async with asyncio.timeout(min(left, 0.1)):
                    await self._moved.wait()
            except TimeoutError:
                continue
        return time.monotonic() - begun

    def describe(self) -> str:
        pods = self.pods()
        late = [
            f"{namespace_of(pod)}/{name_of(pod)} on {node_of(pod) or 'no node'}" for pod in pods if not is_running(pod)
        ]
        return f"{len(pods)} pods of {self.desired()} desired; not running: {', '.join(late[:5]) or 'none'}"

    # The loop

    def _on_any(self, old: Object | None, new: Object | None) -> None:
        self._moved.set()
        for listener in self.listeners:
            listener()

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        self._on_any(old, new)
        if old is not None and (new is None or uid_of(new) != uid_of(old)) and node_of(old) in self.kubelets:
            self.kubelets[node_of(old)].forget(old)
        if new is not None and node_of(new) in self.kubelets and namespace_of(new) != SYSTEM_NAMESPACE:
            self.kubelets[node_of(new)].observe(new)


def node_object(name: str, labels: Mapping[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **labels}},
        "spec": {},
    }
