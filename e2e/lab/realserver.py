"""The lab on a real control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler of `e2e.cluster`.

The agents get what they would have in production: a token bound to a pod on their node, the roles of `crds.roles` and the policies of
`crds.policies`. What stays the lab's own is the kubelet: it reports nodes as ready and renews their leases.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import yaml

from adapters.entropy import SystemEntropy
from e2e.cluster import security
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.faults import FaultProxy
from e2e.lab.agents import API_PORT, Access
from e2e.lab.api import Api, ApiError
from e2e.lab.cluster_model import Cluster, node_object
from e2e.lab.objects import Object

RENEW_S = 4.0
LEASE_NAMESPACE = "kube-node-lease"
CAPACITY = {"cpu": "64", "memory": "256Gi", "pods": "1000", "ephemeral-storage": "100Gi"}


class RealServer:
    """A `Server` (see `servers`) around a `ControlPlane`."""

    def __init__(self) -> None:
        self._plane = ControlPlane()
        self._leader_token = ""

    @property
    def url(self) -> str:
        return self._plane.url

    async def start(self) -> None:
        """Raises BuildFailed, ClusterFailed."""
        await self._plane.start()
        await security.install(self._plane.client())
        self._leader_token = await security.leader_token(self._plane.client())

    async def stop(self) -> None:
        await self._plane.stop()

    def api(self, user_agent: str) -> Api:
        return Api(self.url, user_agent, self._plane.admin_token, self._plane.ca_file)

    def proxy(self, listener: socket.socket) -> FaultProxy:
        return FaultProxy(self.url, listener, entropy=SystemEntropy(), ca_file=self._plane.ca_file)

    async def join(self, node: str, labels: Mapping[str, str], directory: Path) -> Access:
        """The node's agent may write what its node may; the leader has an account of its own."""
        token = await security.join(self._plane.client(), node)
        async with self.api("nephila-lab/kubelet") as api:
            await api.apply(node_object(node, labels))
            await report_ready(api, node)
        files = {
            name: _kubeconfig(directory / f"{node}-{name}.kubeconfig", secret)
            for name, secret in (("agent", token), ("leader", self._leader_token))
        }
        return Access({"kubeconfig": str(files["agent"])}, {"kubeconfig": str(files["leader"])})

    def machinery(self, cluster: Cluster) -> AbstractAsyncContextManager[object]:
        return _heartbeats(cluster)

    async def requests(self) -> list[Object]:
        """Not counted by caller here."""
        return []


@contextlib.asynccontextmanager
async def _heartbeats(cluster: Cluster) -> AsyncIterator[None]:
    """Renews the lease of every node, as its kubelet does; the node lifecycle controller evicts pods otherwise."""

    async def renew() -> None:
        while True:
            for node in cluster.kubelets:
                with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError):
                    await cluster.api.apply(_lease(node))
            await asyncio.sleep(RENEW_S)

    task = asyncio.create_task(renew(), name="node leases")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def report_ready(api: Api, node: str) -> None:
    """The status that a kubelet posts, as far as scheduler and controllers read it."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "played by the lab"}
    status = {
        "capacity": CAPACITY,
        "allocatable": CAPACITY,
        "conditions": [{**ready, "lastHeartbeatTime": now, "lastTransitionTime": now}],
    }
    await api.patch("Node", node, "", {"status": status}, subresource="status")


def _lease(node: str) -> Object:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node, "namespace": LEASE_NAMESPACE},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": now},
    }


def _kubeconfig(path: Path, token: str) -> Path:
    """Through the node's fault proxy, which speaks plain HTTP and passes the token on."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": f"http://127.0.0.1:{API_PORT}"}}],
        "users": [{"name": "lab", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return path
