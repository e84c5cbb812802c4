"""A cluster in memory for the command line: the objects of a small site, and a session on them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from adapters.clock import ManualClock
from adapters.kube.memory import MemoryStore
from adapters.kube.memory_cluster import MemoryCluster
from adapters.kube.store import Stored
from cli.cluster import Cluster
from cli.connection import Session
from cli.reading import read_cluster
from crds.core import DEPLOYMENT, NAMESPACE, NODE, POD, REPLICA_SET, STATEFUL_SET
from crds.meta import Kind
from crds.nephila import IP_BLOCK, IP_NODE, LEADER_LOCK
from crds.spiderpool import ENDPOINT, IP_POOL, RESERVED_IP, SUBNET

WALL = datetime(2026, 7, 25, 12, 0, tzinfo=UTC).timestamp()


def text_of(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Site:
    """Objects are created at once; `cluster()` is the picture the views see."""

    memory: MemoryCluster = field(default_factory=lambda: MemoryCluster(ManualClock()))

    @property
    def store(self) -> MemoryStore:
        return MemoryStore(self.memory)

    @property
    def session(self) -> Session:
        return Session(self.store, "default")

    def cluster(self, wall: float = WALL) -> Cluster:
        return asyncio.run(read_cluster(self.store, wall))

    def make(self, kind: Kind[Any], **wire: Any) -> Any:
        outcome = self.memory.create(kind, kind.from_builtins(wire))
        assert isinstance(outcome, Stored), outcome
        return outcome.object

    def pool(self, name: str, subnet: str, *ips: str, meta: Mapping[str, Any] | None = None, **spec: Any) -> Any:
        return self.make(
            IP_POOL, metadata={"name": name, **(meta or {})}, spec={"subnet": subnet, "ips": list(ips), **spec}
        )

    def reserved(self, name: str, *ips: str) -> None:
        self.make(RESERVED_IP, metadata={"name": name}, spec={"ips": list(ips)})

    def subnet(self, name: str, cidr: str, *ips: str) -> None:
        self.make(SUBNET, metadata={"name": name}, spec={"subnet": cidr, "ips": list(ips)})

    def namespace(self, name: str, labels: Mapping[str, str] | None = None, **annotations: str) -> None:
        self.make(NAMESPACE, metadata={"name": name, "labels": dict(labels or {}), "annotations": annotations})

    def node(self, name: str, *, heartbeat_age_s: float | None = 5.0, **labels: str) -> str:
        """A node with a beating agent; `heartbeat_age_s` None: without a mailbox. Returns its UID."""
        uid = str(self.make(NODE, metadata={"name": name, "labels": labels}).uid)
        if heartbeat_age_s is not None:
            self.make(IP_NODE, metadata={"name": name})
            self.report(name, heartbeat_age_s=heartbeat_age_s)
        return uid

    def report(self, node: str, *, heartbeat_age_s: float = 5.0, **status: Any) -> None:
        """What the node's agent says."""
        stored = self.memory.read(NODE, ("", node))
        beat = {
            "sequence": 7,
            "bootID": "boot-1",
            "nodeUID": stored.object.uid if stored else "",
            "renewTime": text_of(WALL - heartbeat_age_s),
        }
        changes = {"status": {"heartbeat": beat, "probe": {"mode": "ebpf"}, "version": "0.1.0", **status}}
        self.memory.patch(IP_NODE, ("", node), changes, resource_version="", subresource="status")

    def leader(self, holder: str = "node-1", term: int = 3) -> None:
        spec = {"holder": holder, "term": term, "renewCount": 9, "leaseDurationSeconds": 15}
        self.make(LEADER_LOCK, metadata={"name": "nephila"}, spec=spec)

    def block(self, name: str, page: str, epoch: int = 100, term: int = 3, **spec: Any) -> None:
        self.make(IP_BLOCK, metadata={"name": name}, spec={"page": page, "epoch": epoch, "term": term, **spec})

    def lease(self, node: str, slots: str, epoch: int = 90) -> dict[str, Any]:
        stored = self.memory.read(NODE, ("", node))
        return {"node": node, "nodeUID": stored.object.uid if stored else "gone", "slots": slots, "epoch": epoch}

    def pod(self, name: str, *ips: str, node: str = "node-1", namespace: str = "default", **more: Any) -> Any:
        """A running pod; `ips` are its podIPs. `more`: annotations, labels, owners, phase."""
        metadata: dict[str, Any] = {
            "name": name,
            "namespace": namespace,
            "annotations": more.get("annotations") or {},
            "labels": more.get("labels") or {},
            "ownerReferences": more.get("owners") or [],
        }
        made = self.make(POD, metadata=metadata, spec={"nodeName": node, **(more.get("spec") or {})})
        status = {"phase": more.get("phase", "Running"), "podIPs": [{"ip": ip} for ip in ips]}
        self.memory.patch(POD, (namespace, name), {"status": status}, resource_version="", subresource="status")
        return made

    def endpoint(
        self, pod: Any, *addresses: tuple[str, str], node: str = "node-1", uid: str = "", interface: str = "eth0"
    ) -> None:
        """`addresses`: (address with prefix, pool) of the interface, at most one per family."""
        item: dict[str, Any] = {"interface": interface}
        for address, pool in addresses:
            family = "ipv6" if ":" in address else "ipv4"
            item |= {family: address, f"{family}Pool": pool}
        self.make(
            ENDPOINT,
            metadata={"name": pod.name, "namespace": pod.namespace},
            status={
                "current": {"uid": uid or pod.uid, "node": node, "ips": [item]},
                "ownerControllerType": "Pod",
                "ownerControllerName": pod.name,
            },
        )

    def served(self, name: str, address: str, pool: str, *, node: str = "node-1", namespace: str = "default") -> Any:
        """A running pod with one address (with prefix) and its SpiderEndpoint."""
        made = self.pod(name, address.partition("/")[0], node=node, namespace=namespace)
        self.endpoint(made, (address, pool), node=node)
        return made

    def deployment(self, name: str, namespace: str = "default") -> list[dict[str, Any]]:
        """A Deployment with its ReplicaSet; returns the ownerReferences of its pods."""
        top = self.make(DEPLOYMENT, metadata={"name": name, "namespace": namespace}, spec={})
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": top.uid, "controller": True}
        middle = self.make(
            REPLICA_SET,
            metadata={"name": f"{name}-1", "namespace": namespace, "ownerReferences": [owner]},
            spec={},
        )
        return [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": middle.name, "uid": middle.uid, "controller": True}
        ]

    def stateful_set(self, name: str, replicas: int, namespace: str = "default") -> list[dict[str, Any]]:
        top = self.make(STATEFUL_SET, metadata={"name": name, "namespace": namespace}, spec={"replicas": replicas})
        return [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name, "uid": top.uid, "controller": True}]


def small_site() -> Site:
    """Two nodes, two pools, three pods; one address reserved, one conflict seen."""
    site = Site()
    site.leader()
    site.namespace("default")
    site.node("node-1")
    site.node("node-2", heartbeat_age_s=4.0)
    site.pool("office", "10.6.0.0/24", "10.6.0.10-10.6.0.29", gateway="10.6.0.1", default=True)
    site.pool("lab6", "fd00:6::/64", "fd00:6::100-fd00:6::ffff:ffff:ffff")
    site.reserved("printers", "10.6.0.12-10.6.0.13")
    site.block(
        "ip4-10-6-0-0",
        "10.6.0.0/26",
        leases=[site.lease("node-1", "10-11,14-15"), site.lease("node-2", "20-21")],
        cooling=[{"slots": "25", "until": text_of(WALL + 40)}],
        suspect="26",
    )
    site.served("web-1", "10.6.0.10/24", "office")
    site.served("web-2", "10.6.0.20/24", "office", node="node-2")
    site.pod("plain", node="node-1")
    conflict = {"ip": "10.6.0.15", "mac": "02:00:00:00:00:99", "pool": "office", "how": "ARP reply"}
    stock = {"name": "office", "used": 1, "free": 2, "quarantined": 1}
    site.report("node-1", conflicts=[{**conflict, "seen": text_of(WALL - 30)}], pools=[stock])
    site.report("node-2", heartbeat_age_s=4.0, pools=[{"name": "office", "used": 1, "free": 1}])
    return site
