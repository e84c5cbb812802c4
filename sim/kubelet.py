"""The kubelet and container runtime of one machine, as CNI sees them.

Pods that are bound get a sandbox; ADD is retried with back-off under a new container id; an ADD may be killed and its answer lost; DEL comes once,
twice, late or never, and goes to the spool while the agent is away; a force-deleted pod's sandbox lives on; a reboot takes every sandbox.
What a correct runtime promises is kept: one live sandbox a pod, and no DEL of a container whose ADD is under way without the ADD being given up.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crds.core import POD, Pod
from ipam.addresses import Address
from ipam.slots import SlotId
from nodeagent.wire import HttpRequest
from sim.wire import Sandbox

if TYPE_CHECKING:
    from sim.machine import Machine
    from sim.world import World

NETWORK = "underlay"
ADD_TIMEOUT_S, DEL_TIMEOUT_S = 20.0, 10.0
BACKOFF_S = (0.5, 4.0)


@dataclass(eq=False)
class Watched:
    """One pod on this machine. `over` is set when the kubelet has learnt that it must end."""

    pod: Pod
    over: asyncio.Event
    task: asyncio.Task[None] | None = None
    sandbox: Sandbox | None = None
    started_at: float = -1.0


class Kubelet:
    def __init__(self, world: World, machine: Machine) -> None:
        self.world = world
        self.machine = machine
        self.pods: dict[str, Watched] = {}
        self.sandboxes: dict[str, Sandbox] = {}
        self._random = random.Random(f"{world.seed}/kubelet/{machine.name}")
        self._containers = 0
        self._background: dict[asyncio.Task[None], None] = {}

    # What the API tells --------------------------------------------------------------------------------------------------------------

    def pod_bound(self, pod: Pod) -> None:
        self._later(self._start(pod))

    def pod_ending(self, uid: str, grace_s: float) -> None:
        """The pod was deleted (gracefully or by force): known here after a while, or when the partition ends."""
        self._later(self._end(uid, grace_s))

    async def _start(self, pod: Pod) -> None:
        await asyncio.sleep(self._random.uniform(0.01, 0.3))
        await self.machine.link.reachable()
        entry = self.world.cluster.read(POD, (pod.namespace, pod.name))
        if self.machine.up and pod.uid not in self.pods and entry is not None and entry.object.uid == pod.uid:
            self._watch(pod)

    async def _end(self, uid: str, grace_s: float) -> None:
        await asyncio.sleep(self._random.uniform(0.01, 0.5) + grace_s)
        await self.machine.link.reachable()
        watched = self.pods.get(uid)
        if watched is not None:
            watched.over.set()
        else:
            self.world.pod_ended(uid)

    def _watch(self, pod: Pod) -> None:
        watched = Watched(pod, asyncio.Event())
        self.pods[pod.uid] = watched
        watched.task = self.world.loop.create_task(self._live(watched))

    # One pod's life ------------------------------------------------------------------------------------------------------------------

    async def _live(self, watched: Watched) -> None:
        pause, longest = BACKOFF_S
        while not watched.over.is_set():
            sandbox = self._new_sandbox(watched.pod)
            if await self._add(sandbox, watched):
                watched.started_at = self.world.loop.time()
                watched.sandbox = sandbox
                await self._running(watched, sandbox)
                watched.sandbox = None
                pause = BACKOFF_S[0]
            await self._tear_down(sandbox)
            if not watched.over.is_set():
                await self._pause(watched, pause * self._random.uniform(0.8, 1.2))
                pause = min(2 * pause, longest)
        del self.pods[watched.pod.uid]
        self.world.pod_ended(watched.pod.uid)

    async def _running(self, watched: Watched, sandbox: Sandbox) -> None:
        """Until the pod must end, or its sandbox crashes and a new one is due."""
        if not self.world.strikes("sandbox-crash", self._random):
            await watched.over.wait()
            return
        await self._pause(watched, self._random.uniform(1.0, 60.0))

    async def _pause(self, watched: Watched, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await watched.over.wait()
        except TimeoutError:
            return

    def _new_sandbox(self, pod: Pod) -> Sandbox:
        self._containers += 1
        sandbox = Sandbox(
            self.machine.name, f"{self.machine.name}-c{self._containers}", pod.namespace, pod.name, pod.uid
        )
        self.sandboxes[sandbox.container_id] = sandbox
        self.machine.namespaces.alive.add(netns(sandbox))
        return sandbox

    async def _add(self, sandbox: Sandbox, watched: Watched) -> bool:
        request = self.request("ADD", sandbox)
        timeout = ADD_TIMEOUT_S
        killed = self.world.strikes("lost-add", self._random)
        if killed:
            timeout = self._random.choice((0.0, 0.001, 0.01, 0.5, 3.0))
        if self.world.strikes("dup-add", self._random):
            self._later(self._again(request))
        reply = await self.machine.call(request, timeout)
        if reply is None or killed or not self.machine.up:
            return False
        answer = json.loads(reply.body)
        if reply.status != 200:
            self.world.refused(sandbox, answer)
            return False
        addresses = tuple(_slot(ip["address"]) for ip in answer["ips"])
        self.world.checker.replied(sandbox, addresses)
        self.world.wire.attach(sandbox, addresses)
        self.world.started += 1
        self.world.trace("pod_started", pod=sandbox.pod, container=sandbox.container_id, ips=_text(addresses))
        return True

    async def _again(self, request: HttpRequest) -> None:
        await self.machine.call(request, ADD_TIMEOUT_S)

    # Its end -------------------------------------------------------------------------------------------------------------------------

    async def _tear_down(self, sandbox: Sandbox) -> None:
        """The usual order is DEL, then the interface goes; a crashed sandbox has lost its interface before."""
        if sandbox.live and self._random.random() < 0.7:
            await self._delete(sandbox)
            await asyncio.sleep(self._random.uniform(0.0, 0.4))
            self._gone(sandbox)
            return
        self._gone(sandbox)
        if self.world.strikes("never-del", self._random):
            self.world.trace("delete_forgotten", container=sandbox.container_id)
        elif self.world.strikes("late-del", self._random):
            self._later(self._delete_later(sandbox, self._random.uniform(0.5, 30.0)))
        else:
            await self._delete(sandbox)

    def _gone(self, sandbox: Sandbox) -> None:
        self.world.wire.detach(sandbox)
        self.machine.namespaces.alive.discard(netns(sandbox))
        self.sandboxes.pop(sandbox.container_id, None)

    async def _delete_later(self, sandbox: Sandbox, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._delete(sandbox)

    async def _delete(self, sandbox: Sandbox) -> None:
        """As kubelet and shim do: tried until it succeeds; an agent that is away or slow makes the shim spool it, which is success."""
        request = self.request("DEL", sandbox)
        for attempt in range(100):
            sandbox.delete_sent = True
            if self.machine.is_down():
                return
            reply = await self.machine.call(request, DEL_TIMEOUT_S)
            if self.machine.is_down():
                return
            if reply is None:
                self.machine.spool.add(self.machine.clock.now(), request)
                self.world.trace("delete_spooled", container=sandbox.container_id)
                break
            if reply.status == 200:
                self.world.trace("pod_deleted", pod=sandbox.pod, container=sandbox.container_id)
                break
            await asyncio.sleep(min(0.5 * (attempt + 1), 5.0))
        if self.world.strikes("dup-del", self._random):
            self._later(self._again_delete(request))

    async def _again_delete(self, request: HttpRequest) -> None:
        await asyncio.sleep(self._random.uniform(0.0, 20.0))
        await self.machine.call(request, DEL_TIMEOUT_S)

    # The machine's life --------------------------------------------------------------------------------------------------------------

    def power_lost(self) -> list[Sandbox]:
        """Every sandbox is gone; returns those for which no DEL has been sent."""
        for task in (*self._background, *(watched.task for watched in self.pods.values() if watched.task)):
            task.cancel()
        self._background.clear()
        self.pods.clear()
        orphans = list(self.sandboxes.values())
        for sandbox in orphans:
            self._gone(sandbox)
        return orphans

    def booted(self, orphans: list[Sandbox]) -> None:
        """The runtime sends DEL for the sandboxes it remembers, before or after the kubelet starts the pods anew."""
        for sandbox in orphans:
            if not self.world.strikes("never-del", self._random):
                self._later(self._delete_later(sandbox, self._random.uniform(0.0, 8.0)))
        for pod in self.world.pods_of(self.machine.name):
            self.pod_bound(pod)
            if pod.deleting:
                self.pod_ending(pod.uid, 0.0)

    async def collect_garbage(self, remembers: Callable[[], bool]) -> None:
        """CNI GC with what this runtime remembers of its sandboxes."""
        known = [{"containerID": cid, "ifname": "eth0"} for cid in self.sandboxes if remembers()]
        body = {"cniVersion": "1.1.0", "name": NETWORK, "type": "macvlan", "cni.dev/valid-attachments": known}
        await self.machine.call(
            HttpRequest("POST", "/cni", {"command": "GC"}, json.dumps(body).encode()), DEL_TIMEOUT_S
        )

    # Inside --------------------------------------------------------------------------------------------------------------------------

    def _later(self, work: object) -> None:
        task: asyncio.Task[None] = self.world.loop.create_task(work)  # type: ignore[arg-type]
        self._background[task] = None
        task.add_done_callback(lambda done: self._background.pop(done, None))

    @staticmethod
    def request(verb: str, sandbox: Sandbox) -> HttpRequest:
        headers = {
            "command": verb,
            "containerid": sandbox.container_id,
            "ifname": "eth0",
            "netns": netns(sandbox),
            "args": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={sandbox.namespace};K8S_POD_NAME={sandbox.pod};"
            f"K8S_POD_UID={sandbox.pod_uid}",
        }
        return HttpRequest("POST", "/cni", headers, _BODY)


_BODY = json.dumps({"cniVersion": "1.0.0", "name": NETWORK, "type": "macvlan", "ipam": {"type": "nephila"}}).encode()


def netns(sandbox: Sandbox) -> str:
    return f"/run/netns/{sandbox.container_id}"


def _slot(cidr: str) -> SlotId:
    address = Address.parse(cidr.partition("/")[0])
    return SlotId("", address.family, address.value)


def _text(slots: tuple[SlotId, ...]) -> str:
    return ",".join(str(slot) for slot in slots)
