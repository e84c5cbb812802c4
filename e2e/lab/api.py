"""The lab's own client of the API server: JSON objects as dicts, and no more verbs than controllers and kubelets need.

It is deliberately not `adapters.kube`: the lab judges the product, so it shares no client code with it.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

from e2e.lab.objects import Object, name_of, namespace_of

REQUEST_TIMEOUT_S = 30.0
WATCH_TIMEOUT_S = 300
MAX_LINE = 2**21  # an object of a watch is one line


@dataclass(frozen=True, slots=True)
class Resource:
    """Where a kind lives."""

    version: str
    plural: str
    namespaced: bool

    def path(self, namespace: str = "", name: str = "") -> str:
        root = "/api/" if "/" not in self.version else "/apis/"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{root}{self.version}{scope}/{self.plural}" + (f"/{name}" if name else "")


SPIDER = "spiderpool.spidernet.io/v2beta1"
NEPHILA = "nephila.io/v1alpha1"
RESOURCES: Mapping[str, Resource] = {
    "Namespace": Resource("v1", "namespaces", False),
    "Node": Resource("v1", "nodes", False),
    "Pod": Resource("v1", "pods", True),
    "Deployment": Resource("apps/v1", "deployments", True),
    "ReplicaSet": Resource("apps/v1", "replicasets", True),
    "StatefulSet": Resource("apps/v1", "statefulsets", True),
    "DaemonSet": Resource("apps/v1", "daemonsets", True),
    "Job": Resource("batch/v1", "jobs", True),
    "VirtualMachine": Resource("kubevirt.io/v1", "virtualmachines", True),
    "VirtualMachineInstance": Resource("kubevirt.io/v1", "virtualmachineinstances", True),
    "VirtualMachineInstanceMigration": Resource("kubevirt.io/v1", "virtualmachineinstancemigrations", True),
    "IPAMClaim": Resource("k8s.cni.cncf.io/v1alpha1", "ipamclaims", True),
    "CustomResourceDefinition": Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", False),
    "SpiderIPPool": Resource(SPIDER, "spiderippools", False),
    "SpiderSubnet": Resource(SPIDER, "spidersubnets", False),
    "SpiderReservedIP": Resource(SPIDER, "spiderreservedips", False),
    "SpiderEndpoint": Resource(SPIDER, "spiderendpoints", True),
    "SpiderCoordinator": Resource(SPIDER, "spidercoordinators", False),
    "SpiderMultusConfig": Resource(SPIDER, "spidermultusconfigs", True),
    "IPBlock": Resource(NEPHILA, "ipblocks", False),
    "IPNode": Resource(NEPHILA, "ipnodes", False),
    "LeaderLock": Resource(NEPHILA, "leaderlocks", False),
    "Event": Resource("events.k8s.io/v1", "events", True),
    "Lease": Resource("coordination.k8s.io/v1", "leases", True),
}


class ApiError(Exception):
    """The server refused; `status` is the HTTP status, `reason` the Kubernetes one."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason


class Api:
    """One connection pool. Use as an async context manager. `ca_file`: the authority of an https server."""

    def __init__(self, url: str, user_agent: str, token: str = "", ca_file: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"User-Agent": user_agent, "Accept": "application/json"}
        self._headers |= {"Authorization": f"Bearer {token}"} if token else {}
        self._tls = ssl.create_default_context(cafile=ca_file) if ca_file else True
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
            read_bufsize=MAX_LINE,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, kind: str, name: str, namespace: str = "") -> Object:
        return await self._object("GET", RESOURCES[kind].path(namespace, name))

    async def list(self, kind: str, namespace: str = "") -> tuple[list[Object], str]:
        """All items and the list's resourceVersion."""
        answer = await self._call("GET", RESOURCES[kind].path(namespace))
        items: list[Object] = answer.get("items") or []
        for item in items:
            item.setdefault("kind", kind)
        return items, answer["metadata"].get("resourceVersion", "")

    async def create(self, kind: str, new: Object) -> Object:
        return await self._object("POST", RESOURCES[kind].path(namespace_of(new)), new)

    async def apply(self, new: Object) -> Object:
        """Creates the object, or merges it into the one that exists."""
        kind = new["kind"]
        try:
            return await self.create(kind, new)
        except ApiError as error:
            if error.status != 409:
                raise
            return await self.patch(kind, name_of(new), namespace_of(new), new)

    async def patch(self, kind: str, name: str, namespace: str, changes: Object, subresource: str = "") -> Object:
        path = RESOURCES[kind].path(namespace, name) + (f"/{subresource}" if subresource else "")
        return await self._object("PATCH", path, changes, content_type="application/merge-patch+json")

    async def bind(self, name: str, namespace: str, node: str) -> None:
        """What the scheduler posts."""
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        await self._call("POST", RESOURCES["Pod"].path(namespace, name) + "/binding", binding)

    async def delete(self, kind: str, name: str, namespace: str = "", options: Object | None = None) -> None:
        """A missing object is fine."""
        try:
            await self._call("DELETE", RESOURCES[kind].path(namespace, name), options or {})
        except ApiError as error:
            if error.status != 404:
                raise

    async def watch(self, kind: str, resource_version: str) -> AsyncIterator[tuple[str, Object]]:
        """Pairs of event type and object, until the server ends the watch. Raises ApiError (410: list again)."""
        assert self._session is not None
        query = {"watch": "1", "resourceVersion": resource_version, "timeoutSeconds": str(WATCH_TIMEOUT_S)}
        endless = aiohttp.ClientTimeout(total=None, sock_connect=5)
        url = self._url + RESOURCES[kind].path()
        async with self._session.get(url, params=query, timeout=endless) as answer:
            await _raise_for(answer)
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    failed = event["object"]
                    raise ApiError(failed.get("code", 500), failed.get("reason", ""), failed.get("message", ""))
                yield event["type"], event["object"]

    async def raw(self, path: str) -> Any:
        """A GET outside the object API, such as /debug/requests."""
        return await self._call("GET", path)

    async def _object(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json"
    ) -> Object:
        answer: Object = await self._call(method, path, body, content_type)
        return answer

    async def _call(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json"
    ) -> Any:
        assert self._session is not None
        data = json.dumps(body) if body is not None else None
        headers = {"Content-Type": content_type} if body is not None else {}
        async with self._session.request(method, self._url + path, data=data, headers=headers) as answer:
            await _raise_for(answer)
            return await answer.json(content_type=None)


async def _raise_for(answer: aiohttp.ClientResponse) -> None:
    if answer.status < 400:
        return
    text = await answer.text()
    try:
        status = json.loads(text)
    except ValueError:
        raise ApiError(answer.status, answer.reason or "", text[:200]) from None
    raise ApiError(answer.status, str(status.get("reason", "")), str(status.get("message", ""))[:500])


async def wait_reachable(url: str, timeout_s: float) -> None:
    """Returns once the server answers /readyz or /version. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s), Api(url, "nephila-lab/probe") as api:
        for attempt in range(10_000):
            try:
                await api.raw("/version")
                return
            except (aiohttp.ClientError, ApiError, OSError):
                await asyncio.sleep(min(0.02 * (attempt + 1), 0.2))
