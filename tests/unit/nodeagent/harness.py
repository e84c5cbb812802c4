"""A whole agent over in-memory adapters: real decisions, no sockets. The same store may serve several agents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from adapters.clock import SystemClock
from adapters.entropy import SeededEntropy
from adapters.journal.memory import MemoryDisk
from adapters.kube.memory import MemoryStore
from adapters.kube.memory_cluster import MemoryCluster
from adapters.kube.store import Stored
from adapters.sandboxes import ListedSandboxes
from crds.core import NAMESPACE, NODE, POD, Namespace, Node, Pod, PodSpec
from crds.meta import Kind, ObjectMeta
from crds.spiderpool import IP_POOL
from nodeagent.agent import Agent
from nodeagent.config import AgentConfig, FeatureSettings, LeaseSettings, ProbeSettings
from nodeagent.podmacs import MacOf
from nodeagent.ports import Ports
from nodeagent.segment import SegmentPort
from nodeagent.verbs import WhyCut, no_wire
from nodeagent.wire import HttpRequest

FAST = LeaseSettings(
    heartbeat_s=0.5, lease_s=60.0, cooldown_s=0.3, cooldown_floor_s=0.1, wait_s=1.5, leak_confirm_s=0.2
)


@dataclass
class Lab:
    """The cluster and what the tests keep of each node."""

    cluster: MemoryCluster = field(default_factory=lambda: MemoryCluster(SystemClock()))
    disks: dict[str, MemoryDisk] = field(default_factory=dict)
    sandboxes: ListedSandboxes = field(default_factory=ListedSandboxes)

    @property
    def store(self) -> MemoryStore:
        return MemoryStore(self.cluster)

    async def create(self, kind: Kind[Any], **wire: Any) -> Any:
        outcome = await self.store.create(kind, kind.from_builtins(wire))
        assert isinstance(outcome, Stored), outcome
        return outcome.object

    async def pool(self, name: str, subnet: str, *ips: str, **spec: Any) -> Any:
        return await self.create(IP_POOL, metadata={"name": name}, spec={"subnet": subnet, "ips": list(ips), **spec})

    async def node(self, name: str) -> None:
        await self.store.create(NODE, Node(metadata=ObjectMeta(name=name)))

    async def namespace(self, name: str = "default") -> None:
        await self.store.create(NAMESPACE, Namespace(metadata=ObjectMeta(name=name)))

    async def pod(self, name: str, node: str, annotations: dict[str, str] | None = None) -> Pod:
        new = Pod(
            metadata=ObjectMeta(name=name, namespace="default", annotations=annotations), spec=PodSpec(node_name=node)
        )
        outcome = await self.store.create(POD, new)
        assert isinstance(outcome, Stored)
        return outcome.object

    @asynccontextmanager
    async def agent(self, node: str, **given: Any) -> AsyncIterator[Agent]:
        """A running, ready agent; `given` as for `starting`."""
        async with self.starting(node, **given) as (agent, task):
            await eventually(lambda: not agent.why_closed() or task.done())
            if task.done():
                task.result()
            yield agent

    @asynccontextmanager
    async def starting(
        self,
        node: str,
        *,
        store: MemoryStore | None = None,
        boot_id: str = "boot-1",
        lease: LeaseSettings = FAST,
        segment: SegmentPort | None = None,
        segments: tuple[SegmentPort, ...] = (),
        mac_of: MacOf | None = None,
        why_cut: WhyCut = no_wire,
        probe: ProbeSettings | None = None,
        features: FeatureSettings | None = None,
    ) -> AsyncIterator[tuple[Agent, asyncio.Task[None]]]:
        """An agent on the node's journal, from its first moment; it ends as by kill -9: nothing is said goodbye to."""
        disk = self.disks.setdefault(node, MemoryDisk())
        journal = disk.open()
        ports = Ports(
            store or self.store,
            journal,
            SystemClock(),
            SeededEntropy(7),
            self.sandboxes,
            boot_id,
            "test",
            segments if segment is None else (segment,),
            mac_of or getattr(segment, "mac_of", None),
            why_cut,
        )
        config = AgentConfig(
            node=node, lease=lease, features=features or FeatureSettings(), probe=probe or ProbeSettings()
        )
        agent = Agent(config, ports)
        task = asyncio.create_task(agent.run())
        try:
            yield agent, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            journal.close()


async def eventually(condition: Any, timeout_s: float = 5.0) -> None:
    """Wait until the condition holds; fails when the time is over."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


def http(
    verb: str, container: str, pod: Pod | None = None, *, ifname: str = "eth0", conf: Mapping[str, Any] | None = None
) -> HttpRequest:
    headers = {"command": verb, "containerid": container, "ifname": ifname, "netns": f"/run/netns/{container}"}
    if pod is not None:
        headers["args"] = (
            f"IgnoreUnknown=1;K8S_POD_NAMESPACE={pod.namespace};K8S_POD_NAME={pod.name};K8S_POD_UID={pod.uid}"
        )
    body = {"cniVersion": "1.0.0", "name": "underlay", "type": "macvlan", "ipam": {"type": "nephila"}, **(conf or {})}
    return HttpRequest("POST", "/cni", headers, json.dumps(body).encode())


async def add(agent: Agent, container: str, pod: Pod, **given: Any) -> list[str]:
    """The addresses of a successful ADD, without prefix."""
    reply = await agent.serve(http("ADD", container, pod, **given))
    assert reply.status == 200, reply.body
    return [ip["address"].split("/")[0] for ip in json.loads(reply.body)["ips"]]


async def failed(agent: Agent, request: HttpRequest) -> dict[str, Any]:
    """The CNI error object of a request that must fail."""
    reply = await agent.serve(request)
    assert reply.status != 200, reply.body
    error: dict[str, Any] = json.loads(reply.body)
    assert {"cniVersion", "code", "msg"} <= set(error)
    return error


async def delete(agent: Agent, container: str, **given: Any) -> None:
    reply = await agent.serve(http("DEL", container, **given))
    assert (reply.status, reply.body) == (200, b"")
