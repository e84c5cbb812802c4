"""One node's kubelet and container runtime: for each pod bound to the node a sandbox, its interfaces, its status, and its end.

Pods have no processes: a network namespace held by its name is all that the network sees of a pod. Everything else is as a runtime does it:
a failed ADD is followed by a DEL and a new sandbox with a new container id after a back-off; a failed DEL is repeated.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime

import aiohttp

from e2e.lab import netns
from e2e.lab.api import Api, ApiError
from e2e.lab.fabric import Fabric
from e2e.lab.ledger import Call, Fate, Ledger
from e2e.lab.objects import Object, is_deleted, key_of, name_of, namespace_of, uid_of
from e2e.lab.runtime import Attachment, CniFailure, Executor, Sandbox

PARALLEL = 16
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.25, 4.0
TRIES_MAX = 40
POD_GONE = 120  # our plugin's code: the pod is not there, or is being deleted


@dataclass(slots=True)
class PodWorker:
    """What the kubelet knows of one pod (by UID)."""

    pod: Object
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    ending: asyncio.Event = field(default_factory=asyncio.Event)  # of the present sandbox: the pod's end, or a restart
    sandbox: Sandbox | None = None
    results: dict[str, Object] = field(default_factory=dict)
    running: bool = False
    task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """The pod is to end."""
        self.stopping.set()
        self.ending.set()

    @property
    def addresses(self) -> dict[str, tuple[str, ...]]:
        """Interface → addresses with their prefix lengths, as the CNI results said them."""
        return {name: tuple(ip["address"] for ip in result.get("ips") or ()) for name, result in self.results.items()}


class Kubelet:
    """Feed it pods with `observe`; it does the rest in tasks of its own until `close`."""

    def __init__(
        self,
        node: str,
        fabric: Fabric,
        executor: Executor,
        api: Api,
        ledger: Ledger,
        attachments: Callable[[Object], list[Attachment]],
        was_down: Callable[[float, float], bool],
    ) -> None:
        self.node = node
        self.workers: dict[str, PodWorker] = {}
        self._fabric = fabric
        self._executor = executor
        self._api = api
        self._ledger = ledger
        self._attachments = attachments
        self._was_down = was_down
        self._slots = asyncio.Semaphore(PARALLEL)
        self._unheard: dict[str, tuple[Callable[[Object], None], Object]] | None = None

    def cut_off(self) -> None:
        """The node does not reach the API server: what is told meanwhile is heard after `reconnect`, and pods live on."""
        self._unheard = {}

    def reconnect(self) -> None:
        """All that was missed is heard now."""
        unheard, self._unheard = self._unheard or {}, None
        for tell, pod in unheard.values():
            tell(pod)

    async def power_off(self) -> list[str]:
        """The machine is gone at once: no DEL, no status, and every sandbox with it. Returns the addresses that its pods had.

        `reconnect` is its return.
        """
        self.cut_off()
        await self.close()
        sandboxes = [worker.sandbox for worker in self.workers.values() if worker.sandbox is not None]
        lost = [
            text.partition("/")[0]
            for worker in self.workers.values()
            for found in worker.addresses.values()
            for text in found
        ]
        self.workers.clear()
        for sandbox in sandboxes:
            await asyncio.to_thread(netns.delete, sandbox.netns.name)
        return lost

    def observe(self, pod: Object) -> None:
        """A pod bound to this node was added or changed."""
        if self._unheard is not None:
            self._unheard[uid_of(pod)] = (self.observe, pod)
            return
        worker = self.workers.get(uid_of(pod))
        if worker is None and not is_deleted(pod):
            worker = self.workers[uid_of(pod)] = PodWorker(pod)
            self._begin(worker, self._live(worker))
        elif worker is None:
            worker = self.workers[uid_of(pod)] = PodWorker(pod)  # never had a sandbox: only its object has to go
            self._begin(worker, self._remove(worker))
        worker.pod = pod
        if is_deleted(pod):
            worker.stop()

    def forget(self, pod: Object) -> None:
        """The pod's object is gone, with or without our doing."""
        if self._unheard is not None:
            self._unheard[uid_of(pod)] = (self.forget, pod)
            return
        worker = self.workers.get(uid_of(pod))
        if worker is not None:
            worker.stop()

    def restart_sandbox(self, uid: str) -> None:
        """The pod gets a new sandbox with a new container id, as after a crash of its infrastructure container."""
        self.workers[uid].running = False
        self.workers[uid].ending.set()

    def _begin(self, worker: PodWorker, work: Coroutine[None, None, None]) -> None:
        worker.task = asyncio.create_task(work, name=f"{self.node} {name_of(worker.pod)}")
        worker.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._ledger.given_up.append(f"{task.get_name()}: {task.exception()!r}")

    async def close(self) -> None:
        """Drops all workers as they are: sandboxes and interfaces stay."""
        tasks = [worker.task for worker in self.workers.values() if worker.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _live(self, worker: PodWorker) -> None:
        while await self._set_up(worker):
            worker.running = True
            await self._report_running(worker)
            await worker.ending.wait()
            worker.running = False
            await self._tear_down(worker)
            worker.ending.clear()
        await self._remove(worker)

    async def _set_up(self, worker: PodWorker) -> bool:
        """True once all interfaces are up; False if the pod was deleted first or the tries are used up."""
        for attempt in range(TRIES_MAX):
            if worker.stopping.is_set():
                return False
            async with self._slots:
                sandbox = await self._new_sandbox(worker.pod)
                worker.sandbox = sandbox
                if await self._attach_all(worker, sandbox):
                    return True
                await self._detach_all(worker, sandbox)
                await asyncio.to_thread(netns.delete, sandbox.netns.name)
                worker.sandbox = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_backoff_s(attempt)):
                    await worker.stopping.wait()
        self._ledger.given_up.append(f"{key_of(worker.pod)}: no sandbox in {TRIES_MAX} attempts")
        return False

    async def _new_sandbox(self, pod: Object) -> Sandbox:
        container_id = uuid.uuid4().hex + uuid.uuid4().hex  # containerd's form: 64 hexadecimal digits
        name = self._fabric.pod_ns(container_id[:12])
        path = await asyncio.to_thread(netns.create, name)
        return Sandbox(container_id, path, namespace_of(pod), name_of(pod), uid_of(pod))

    async def _attach_all(self, worker: PodWorker, sandbox: Sandbox) -> bool:
        worker.results = {}
        for attachment in self._attachments(worker.pod):
            begun = time.monotonic()
            try:
                result, _ = await self._executor.add(sandbox, attachment)
            except CniFailure as failure:
                moot = failure.code == POD_GONE and await self._is_leaving(worker)
                self._record("ADD", sandbox, attachment, begun, str(failure), fate=Fate.MOOT if moot else None)
                return False
            worker.results[attachment.interface] = result
            self._record("ADD", sandbox, attachment, begun, "", worker.addresses[attachment.interface])
        return True

    async def _is_leaving(self, worker: PodWorker) -> bool:
        """Whether the API has no use for the pod any more; the agent may know it before the kubelet does."""
        namespace, name = key_of(worker.pod)
        try:
            now = await self._api.get("Pod", name, namespace)
        except ApiError as error:
            return error.status == 404
        return is_deleted(now) or uid_of(now) != uid_of(worker.pod)

    async def _tear_down(self, worker: PodWorker) -> None:
        sandbox = worker.sandbox
        if sandbox is None:
            return
        for attempt in range(TRIES_MAX):
            async with self._slots:
                if await self._detach_all(worker, sandbox):
                    break
            await asyncio.sleep(_backoff_s(attempt))
        else:
            self._ledger.given_up.append(f"{sandbox.namespace}/{sandbox.pod}: DEL failed {TRIES_MAX} times")
        await asyncio.to_thread(netns.delete, sandbox.netns.name)
        worker.sandbox = None

    async def _detach_all(self, worker: PodWorker, sandbox: Sandbox) -> bool:
        """DEL of every interface, the last one first. Each is tried even if another fails."""
        done = True
        for attachment in reversed(self._attachments(worker.pod)):
            begun = time.monotonic()
            try:
                await self._executor.delete(sandbox, attachment, worker.results.get(attachment.interface))
            except CniFailure as failure:
                self._record("DEL", sandbox, attachment, begun, str(failure))
                done = False
                continue
            self._record("DEL", sandbox, attachment, begun, "")
        return done

    async def _report_running(self, worker: PodWorker) -> None:
        ips = [ip.partition("/")[0] for ip in next(iter(worker.addresses.values()), ())]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {
            "phase": "Running",
            "startTime": now,
            "podIPs": [{"ip": ip} for ip in ips],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
            "containerStatuses": [_running_container(item, now) for item in worker.pod["spec"].get("containers") or ()],
        }
        if ips:
            status["podIP"] = ips[0]
        namespace, name = key_of(worker.pod)
        await self._persist(lambda: self._patch_status(name, namespace, status))

    async def _patch_status(self, name: str, namespace: str, status: Object) -> None:
        try:
            await self._api.patch("Pod", name, namespace, {"status": status}, subresource="status")
        except ApiError as error:
            if error.status != 404:  # deleted meanwhile: the watch will say so
                raise

    async def _remove(self, worker: PodWorker) -> None:
        """Deletes the object of a pod whose sandbox is gone. Only this very pod: a namesake has another UID."""
        namespace, name = key_of(worker.pod)
        if worker.stopping.is_set():
            options: Object = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid_of(worker.pod)}}
            await self._persist(lambda: self._delete(name, namespace, options))
        self.workers.pop(uid_of(worker.pod), None)

    async def _delete(self, name: str, namespace: str, options: Object) -> None:
        try:
            await self._api.delete("Pod", name, namespace, options)
        except ApiError as error:
            if error.status != 409:  # the precondition: this pod is gone and a namesake is there
                raise

    async def _persist(self, call: Callable[[], Awaitable[None]]) -> None:
        """Repeats an API call through outages, bounded as everything here."""
        last = ""
        for attempt in range(TRIES_MAX):
            try:
                await call()
                return
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                last = repr(error)
            await asyncio.sleep(_backoff_s(attempt))
        self._ledger.given_up.append(f"{self.node}: API call failed {TRIES_MAX} times: {last}")

    def _record(
        self,
        verb: str,
        sandbox: Sandbox,
        attachment: Attachment,
        begun: float,
        error: str,
        addresses: tuple[str, ...] = (),
        fate: Fate | None = None,
    ) -> None:
        """`fate`: if it is known already."""
        ended = time.monotonic()
        if error and fate is None:
            refused = verb == "ADD" and self._ledger.scarce
            fate = Fate.AGENT_DOWN if self._was_down(begun, ended) else Fate.REFUSED if refused else Fate.FAILED
        call = Call(
            verb,
            sandbox.namespace,
            sandbox.pod,
            self.node,
            sandbox.container_id,
            attachment.interface,
            begun,
            ended,
            fate or Fate.OK,
            addresses,
            error,
        )
        self._ledger.record(call)


def _running_container(container: Object, since: str) -> Object:
    names = {"name": container["name"], "image": container["image"], "imageID": "", "containerID": "lab://none"}
    return {**names, "ready": True, "started": True, "restartCount": 0, "state": {"running": {"startedAt": since}}}


def _backoff_s(attempt: int) -> float:
    return float(min(BACKOFF_FIRST_S * 2**attempt, BACKOFF_MAX_S))
