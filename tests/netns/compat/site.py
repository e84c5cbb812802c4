"""A cluster as a user meets it: nodes, the embedded API server, agents and leaders as processes, and pods that are network namespaces wired by the
real macvlan plugin through the real shim. One lab serves all tests of a module; each test has a Kubernetes namespace and pools of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from e2e.lab import checks, fabric
from e2e.lab.checks import LivePod
from e2e.lab.labs import Lab
from e2e.lab.objects import Object, key_of, name_of, uid_of

SPIDER = "spiderpool.spidernet.io/v2beta1"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
WAIT_S = 15.0
_numbers = itertools.count(1)


def notes(**annotations: Any) -> dict[str, str]:
    """Spiderpool's annotations: `ippool={"ipv4": [...]}`; underscores stand for hyphens."""
    return {
        f"ipam.spidernet.io/{key.replace('_', '-')}": value if isinstance(value, str) else json.dumps(value)
        for key, value in annotations.items()
    }


@dataclass(frozen=True, slots=True)
class Owner:
    """A controlling owner reference, be its object there or not."""

    kind: str
    name: str
    uid: str
    version: str = "apps/v1"


class Site:
    """One test's view: `namespace` is its own, and so is the third byte of its addresses (10.6.`band`.x, fd00:6::`band`:x)."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.band = 100 + next(_numbers)
        self.namespace = f"t{self.band}"

    async def open(self) -> None:
        await self.apply("v1", "Namespace", self.namespace)

    async def close(self) -> None:
        """Everything of the test goes, and its addresses with it."""
        api = self.lab.api
        for kind in ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job"):
            for thing in (await api.list(kind, self.namespace))[0]:
                await api.delete(kind, name_of(thing), self.namespace)
        for pod in self.pods():
            await api.delete("Pod", name_of(pod), self.namespace)
        await self.until(lambda: not self.pods(), "the test's pods are gone")
        for kind in ("SpiderIPPool", "SpiderSubnet", "SpiderReservedIP"):
            for thing in (await api.list(kind))[0]:
                if name_of(thing).startswith(self.namespace):
                    await api.delete(kind, name_of(thing))

    # What a user writes --------------------------------------------------------------------------------------------------------------------

    async def apply(self, version: str, kind: str, name: str, namespace: str = "", **content: Any) -> Object:
        metadata = {"name": name, **({"namespace": namespace} if namespace else {}), **content.pop("metadata", {})}
        return await self.lab.api.apply({"apiVersion": version, "kind": kind, "metadata": metadata, **content})

    async def pool(self, name: str, first: int, last: int, *, v6: bool = False, **spec: Any) -> str:
        """A pool of this test; returns its whole name."""
        full = f"{self.namespace}-{name}"
        ips, subnet, gateway = f"{self.v4(first)}-{self.v4(last)}", fabric.SUBNET_V4, fabric.GATEWAY_V4
        if v6:
            ips, subnet, gateway = f"{self.v6(first)}-{self.v6(last)}", fabric.SUBNET_V6, fabric.GATEWAY_V6
        wanted = {"subnet": subnet, "ips": [ips], "gateway": gateway, **spec}
        await self.apply(SPIDER, "SpiderIPPool", full, spec=wanted)
        return full

    async def pod(
        self, name: str, node: str = "", *, owner: Owner | None = None, annotations: Mapping[str, str] | None = None
    ) -> Object:
        """A pod; with `node`, bound to it from the start."""
        reference = (
            {"apiVersion": owner.version, "kind": owner.kind, "name": owner.name, "uid": owner.uid} if owner else {}
        )
        metadata: Object = {"annotations": dict(annotations or {})}
        if owner:
            metadata["ownerReferences"] = [{**reference, "controller": True}]
        spec = {"containers": [{"name": "c", "image": "none"}], **({"nodeName": node} if node else {})}
        return await self.apply("v1", "Pod", name, self.namespace, metadata=metadata, spec=spec)

    async def workload(
        self, kind: str, name: str, replicas: int, annotations: Mapping[str, str] | None = None
    ) -> Object:
        """A workload of `replicas` pods; of a DaemonSet, one pod a node."""
        labels = {"app": name}
        template = {
            "metadata": {"labels": labels, "annotations": dict(annotations or {})},
            "spec": {"containers": [{"name": "c", "image": "none"}]},
        }
        spec: Object = {"selector": {"matchLabels": labels}, "template": template}
        if kind == "Job":
            spec = {"completions": replicas, "parallelism": replicas, "template": template}
        elif kind != "DaemonSet":
            spec |= {"replicas": replicas, "serviceName": name}
        version = "batch/v1" if kind == "Job" else "apps/v1"
        metadata = {"name": name, "namespace": self.namespace}
        thing = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
        await self.lab.cluster.apply([thing])
        return await self.lab.api.get(kind, name, self.namespace)

    async def delete(self, pod: str) -> None:
        await self.lab.api.delete("Pod", pod, self.namespace)

    async def gone(self, pod: str) -> None:
        await self.delete(pod)
        await self.until(lambda: pod not in {name_of(item) for item in self.pods()}, f"{pod} is gone")

    # What the kernel and the API say -------------------------------------------------------------------------------------------------------

    def v4(self, number: int) -> str:
        return f"10.6.{self.band}.{number}"

    def v6(self, number: int) -> str:
        return f"fd00:6::{self.band:x}:{number:x}"

    def pods(self) -> list[Object]:
        return [pod for pod in self.lab.cluster.pods() if key_of(pod)[0] == self.namespace]

    async def running(self, *names: str) -> list[LivePod]:
        """The named pods, each with its interfaces up, as the kernel has them."""

        def up() -> bool:
            ready = {name_of(worker.pod): uid_of(worker.pod) for _, worker in self.lab.cluster.running()}
            present = {name_of(pod): uid_of(pod) for pod in self.pods()}
            return all(name in present and ready.get(name) == present[name] for name in names)

        await self.until(up, f"{', '.join(names)} run", lambda: "; ".join(self.errors()[-3:]))
        found = {pod.key[1]: pod for pod in await checks.look(self.lab.cluster) if pod.key[0] == self.namespace}
        return [found[name] for name in names]

    async def all_running(self, count: int) -> list[LivePod]:
        def up() -> bool:
            ready = {uid_of(worker.pod) for _, worker in self.lab.cluster.running()}
            return len(self.pods()) == count and {uid_of(pod) for pod in self.pods()} <= ready

        await self.until(up, f"{count} pods run", lambda: "; ".join(self.errors()[-3:]))
        return await self.running(*(name_of(pod) for pod in self.pods()))

    async def refused(self, pod: str) -> str:
        """The words of the error with which the pod's ADD fails."""
        await self.until(lambda: bool(self.errors(pod)), f"{pod} is refused")
        return self.errors(pod)[-1]

    def errors(self, pod: str = "") -> list[str]:
        calls = self.lab.ledger.calls
        return [
            call.error for call in calls if call.namespace == self.namespace and call.error and pod in ("", call.pod)
        ]

    async def until(
        self,
        met: Callable[[], bool | Awaitable[bool]],
        what: str,
        why: Callable[[], str] = lambda: "",
        timeout_s: float = WAIT_S,
    ) -> None:
        begun = time.monotonic()
        while True:
            answer = met()
            if answer if isinstance(answer, bool) else await answer:
                return
            if time.monotonic() - begun > timeout_s:
                raise AssertionError(f"not within {timeout_s:.0f} s: {what} {why()}\n{await self.picture()}")
            await asyncio.sleep(0.05)

    async def picture(self) -> str:
        """Pools, Subnets and Events of this test, and the leader's last words: for those who read a failure."""
        api, lines = self.lab.api, []
        for kind in ("SpiderSubnet", "SpiderIPPool"):
            for thing in (await api.list(kind))[0]:
                gone = thing["metadata"].get("deletionTimestamp", "")
                lines.append(f"{kind} {name_of(thing)} {gone} {thing['spec'].get('ips')} {thing.get('status')}")
        lines += [f"Event {event.get('reason')}: {event.get('note')}" for event in (await api.list("Event"))[0][-10:]]
        for log in sorted(self.lab.run_dir.rglob("*.log")):
            lines += [
                f"{log.parent.name} {line}" for line in log.read_text().splitlines()[-15:] if "node" in log.parent.name
            ]
        return "\n".join(lines)

    async def sound(self, pods: Sequence[LivePod]) -> None:
        """No address twice, none missing, each told in a SpiderEndpoint."""
        assert checks.unique(pods) == [] and checks.addressed(pods) == []

        async def told() -> bool:
            endpoints = {key_of(item): item for item in (await self.lab.api.list("SpiderEndpoint", self.namespace))[0]}
            return not [item for pod in pods for item in checks.endpoint_problems(pod, endpoints.get(pod.key))]

        await self.until(told, "SpiderEndpoints say what the interfaces have")

    async def inside(self, pod: LivePod, *command: str) -> str:
        """A command in the pod's namespace; its output."""
        process = await asyncio.create_subprocess_exec(
            "ip",
            "netns",
            "exec",
            pod.namespace,
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(10.0):
            output, _ = await process.communicate()
        return output.decode()

    async def reaches(self, pod: LivePod, target: str) -> bool:
        return " 0% packet loss" in await self.inside(pod, "ping", "-c", "1", "-W", "2", target)
