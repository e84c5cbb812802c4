"""Agents for the fake nodes, as far as the API can tell: leases, a mailbox each, heartbeats with the node's own token, pods with addresses.

What a leader sees of hundreds of nodes in steady state is what it sees of real ones: objects and their changes come through the real API
server, and each heartbeat passes RBAC and the admission policies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import msgspec

from adapters.kube.transport import Timeouts, Transport
from crds.blocks import block_to_wire
from crds.core import NODE, POD
from crds.nephila import IP_BLOCK, IP_NODE
from crds.spiderpool import ENDPOINT, IP_POOL
from e2e.cluster.client import MERGE_PATCH, JsonClient
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.nodes.agents import node_token
from e2e.cluster.nodes.kube import Kube
from e2e.cluster.nodes.manifests import AGENT
from e2e.cluster.program import ClusterFailed
from ipam import lease
from ipam.addresses import Address, Family
from ipam.blocks import NodeRef
from ipam.slots import Page

POOL, SUBNET = "fleet", "10.96.0.0/13"
NODES_A_PAGE, SLOTS_A_NODE = 5, 12
PODS_A_NODE = 10
HEARTBEAT_S = 30.0  # the product's default
AT_ONCE = 16


class Fleet:
    """`async with Fleet(plane, admin, names):` - every node leases 12 addresses, 10 pods use them, and its mailbox beats."""

    def __init__(self, plane: ControlPlane, admin: Transport, names: Sequence[str]) -> None:
        self.names = list(names)
        self._plane = plane
        self._admin = admin
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._clients: dict[str, JsonClient] = {}
        self._uids: dict[str, str] = {}
        self._beating: list[asyncio.Task[None]] = []
        self.beats = 0
        self.refused: list[str] = []

    async def __aenter__(self) -> Self:
        spec = {"subnet": SUBNET, "ips": ["10.96.0.1-10.103.255.250"]}
        await self._post(
            IP_POOL.path(),
            {"apiVersion": IP_POOL.api_version, "kind": IP_POOL.kind, "metadata": {"name": POOL}, "spec": spec},
        )
        found = (await self._ask("GET", NODE.path(), None))["items"]
        uids = {node["metadata"]["name"]: node["metadata"]["uid"] for node in found}
        self._uids = {name: uids[name] for name in self.names}
        await self._each(self._page, range(0, len(self.names), NODES_A_PAGE))
        await self._each(self._join, range(len(self.names)))
        # Spread over the period, as a fleet that was not started at one moment.
        self._beating = [
            asyncio.create_task(self._beat(name, HEARTBEAT_S * number / len(self.names)))
            for number, name in enumerate(self.names)
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.silence(self.names)

    async def silence(self, names: Sequence[str]) -> None:
        """Their agents are gone: no further heartbeat."""
        tasks = [task for name, task in zip(self.names, self._beating, strict=True) if name in names]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _each(self, act: Callable[[int], Awaitable[None]], numbers: Sequence[int]) -> None:
        async def gated(number: int) -> None:
            async with self._gate:
                await act(number)

        await asyncio.gather(*map(gated, numbers))

    async def _page(self, first: int) -> None:
        base = Address.parse("10.96.0.0").value + 64 * (first // NODES_A_PAGE)
        block = lease.new_block(Page(Family.V4, base), 7)
        for place, name in enumerate(self.names[first : first + NODES_A_PAGE]):
            block = lease.claim(block, NodeRef(name, self._uids[name]), _slots(place))
        await self._post(IP_BLOCK.path(), msgspec.to_builtins(block_to_wire(block)))

    async def _join(self, number: int) -> None:
        """Mailbox and heartbeat by the agent's own token; pods and their records as they would be after ADD."""
        name = self.names[number]
        token = await node_token(Kube(self._plane.client()), AGENT, name)
        self._clients[name] = self._plane.client(token)
        box = {"apiVersion": IP_NODE.api_version, "kind": IP_NODE.kind, "metadata": {"name": name}}
        made = await self._clients[name].post(IP_NODE.path(), box)
        if made.status != 201:
            raise ClusterFailed(f"mailbox of {name}: {made.status} {made.message}")
        await self._write_beat(name, 1)
        for pod in range(PODS_A_NODE):
            await self._pod(number, pod)

    async def _pod(self, number: int, pod: int) -> None:
        page, place = divmod(number, NODES_A_PAGE)
        address = str(Address(Family.V4, Address.parse("10.96.0.0").value + 64 * page + _first(place) + pod))
        node, name = self.names[number], f"{self.names[number]}-{pod}"
        container = {"name": "main", "image": "k8s.local/busybox:1"}
        spec = {"nodeName": node, "automountServiceAccountToken": False, "containers": [container]}
        meta = {"name": name, "namespace": "default"}
        pods = POD.path("default")
        made = await self._post(pods, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        await self._ask("PATCH", f"{pods}/{name}/status", {"status": status}, MERGE_PATCH)
        uid = made["metadata"]["uid"]
        taken = {"interface": "eth0", "ipv4": f"{address}/13", "ipv4Pool": POOL}
        current = {"uid": uid, "node": node, "ips": [taken]}
        record = {"current": current, "ownerControllerType": "Pod", "ownerControllerName": name}
        owner = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
        body = {"apiVersion": ENDPOINT.api_version, "kind": ENDPOINT.kind, "status": record}
        await self._post(ENDPOINT.path("default"), body | {"metadata": meta | {"ownerReferences": [owner]}})

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._ask("POST", path, body)

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """As administrator. Raises ClusterFailed."""
        answer = await self._admin.request(
            method, path, query={}, timeouts=Timeouts(), body=body, content_type=content_type
        )
        if answer.status not in (200, 201):
            raise ClusterFailed(f"{method} {path}: {answer.status} {answer.body[:300].decode(errors='replace')}")
        decoded: dict[str, Any] = msgspec.json.decode(answer.body)
        return decoded

    async def _beat(self, name: str, delay_s: float) -> None:
        """Until cancelled."""
        await asyncio.sleep(delay_s)
        sequence = 1
        while True:
            sequence += 1
            await self._write_beat(name, sequence)
            await asyncio.sleep(HEARTBEAT_S)

    async def _write_beat(self, name: str, sequence: int) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        beat = {"sequence": sequence, "bootID": "fleet", "nodeUID": self._uids[name], "renewTime": now}
        stock = {"name": POOL, "used": PODS_A_NODE, "free": SLOTS_A_NODE - PODS_A_NODE}
        change = {"status": {"heartbeat": beat, "pools": [stock], "version": "fleet"}}
        path = IP_NODE.path(name=name, subresource="status")
        answer = await self._clients[name].request("PATCH", path, change, content_type=MERGE_PATCH)
        self.beats += 1
        if answer.status != 200:
            self.refused.append(f"{name}: {answer.status} {answer.message}")


def _first(place: int) -> int:
    """The first slot of the page's `place`-th node; slot 0 of a page is nobody's, it may be the subnet's own address."""
    return 1 + place * SLOTS_A_NODE


def _slots(place: int) -> int:
    return ((1 << SLOTS_A_NODE) - 1) << _first(place)
