"""`python -m e2e.bench.crowded`: the embedded API server with the objects of a large cluster in it, whose nodes send their heartbeats.

The objects are put straight into its store, as large as real ones in what a leader lists: pods with labels, an owner and a container,
SpiderEndpoints as agents write them. The cluster is in steady state, all addresses leased: every pod has its address, every node a little
stock, and some nodes lack, so that there is always something to recall. Nobody answers a recall: the leader asks ever other nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapters.kube.memory_cluster import as_wire
from crds.blocks import block_to_wire
from crds.meta import ObjectMeta
from crds.nephila import Heartbeat, IPNode, IPNodeStatus, PoolStock
from e2e.apiserver.errors import Obj
from e2e.apiserver.server import EmbeddedServer
from e2e.apiserver.storage import Key, Store
from ipam import lease
from ipam.addresses import Address, Family
from ipam.blocks import NodeRef
from ipam.slots import Page

POOLS = 3
PAGE, SHARE, NEIGHBOURS = (
    64,
    12,
    5,
)  # five nodes share one page of each pool, twelve slots each; the last has what is left
NEEDY_EVERY = 25  # one node in so many lacks addresses
HEARTBEAT_S = 30.0
TICK_S = 0.1
IP_NODES = "nephila.io/ipnodes"
CREATED = "2026-11-01T00:00:00Z"
SPIDER = "spiderpool.spidernet.io/v2beta1"


@dataclass(frozen=True, slots=True)
class Shape:
    """Raises ValueError where a node's pods would not fit its leases, or the nodes' leases not a pool."""

    nodes: int
    pods: int

    def __post_init__(self) -> None:
        if self.pods_per_node > POOLS * (SHARE - 1):
            raise ValueError(f"{self.pods_per_node} pods a node; {POOLS * (SHARE - 1)} at most")
        if self.nodes > NEIGHBOURS * 1000:
            raise ValueError(f"{self.nodes} nodes; {NEIGHBOURS * 1000} at most")

    @property
    def pods_per_node(self) -> int:
        return self.pods // self.nodes

    @property
    def pages(self) -> int:
        return -(-self.nodes // NEIGHBOURS)


def fill(store: Store, shape: Shape) -> None:
    """Every object of the cluster, each as one commit."""
    for collection, key, obj in _objects(shape):
        store.put(store.collection(collection), key, obj)


def beat(store: Store, number: int) -> None:
    """One node's next heartbeat."""
    boxes = store.collection(IP_NODES)
    record = boxes.get(("", _node(number)))
    if record is None:
        return
    status = record.obj["status"]
    pulse = {**status["heartbeat"], "sequence": status["heartbeat"]["sequence"] + 1, "renewTime": _now()}
    metadata = dict(record.obj["metadata"])
    store.put(
        boxes, ("", _node(number)), {**record.obj, "metadata": metadata, "status": {**status, "heartbeat": pulse}}
    )


def lacks(number: int) -> bool:
    return number % NEEDY_EVERY == 0


def _objects(shape: Shape) -> Iterator[tuple[str, Key, Obj]]:
    for pool in range(POOLS):
        ips = f"{_address(pool, 0, 0)}-{_address(pool, shape.pages - 1, PAGE - 1)}"
        spec = {"subnet": f"10.{64 + pool}.0.0/16", "ips": [ips]}
        yield (
            "spiderpool.spidernet.io/spiderippools",
            ("", _pool(pool)),
            {"apiVersion": SPIDER, "kind": "SpiderIPPool", "metadata": _meta(_pool(pool)), "spec": spec},
        )
        for page in range(shape.pages):
            block = as_wire(_block(shape, pool, page))
            block["metadata"] |= _meta(block["metadata"]["name"])
            yield "nephila.io/ipblocks", ("", block["metadata"]["name"]), block
    for number in range(shape.nodes):
        name = _node(number)
        yield "/nodes", ("", name), {"apiVersion": "v1", "kind": "Node", "metadata": _meta(name), "spec": {}}
        yield IP_NODES, ("", name), _mailbox(shape, number)
        app = f"app-{number}"
        size: Obj = {"replicas": shape.pods_per_node, "selector": {"matchLabels": {"app": app}}, "template": {}}
        metadata = _meta(app, "default")
        yield (
            "apps/replicasets",
            ("default", app),
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata, "spec": size},
        )
        for pod in range(shape.pods_per_node):
            yield from _pod(number, pod)


def _block(shape: Shape, pool: int, page: int) -> object:
    block = lease.new_block(Page(Family.V4, Address.parse(_address(pool, page, 0)).value), 7)
    for neighbour in range(min(NEIGHBOURS, shape.nodes - page * NEIGHBOURS)):
        name = _node(page * NEIGHBOURS + neighbour)
        slots = sum(1 << slot for slot in range(neighbour * SHARE, neighbour * SHARE + _leased(neighbour)))
        block = lease.claim(block, NodeRef(name, _uid(name)), slots)
    return block_to_wire(block)


def _leased(neighbour: int) -> int:
    return PAGE - SHARE * (NEIGHBOURS - 1) if neighbour == NEIGHBOURS - 1 else SHARE


def _mailbox(shape: Shape, number: int) -> Obj:
    name = _node(number)
    stock = tuple(_stock(shape, number, pool) for pool in range(POOLS))
    pulse = Heartbeat(sequence=1, boot_id="boot", node_uid=_uid(name), renew_time=datetime.now(UTC))
    box = as_wire(IPNode(metadata=ObjectMeta(name=name), status=IPNodeStatus(heartbeat=pulse, pools=stock)))
    return {**box, "metadata": _meta(name)}


def _stock(shape: Shape, number: int, pool: int) -> PoolStock:
    used = len(range(pool, shape.pods_per_node, POOLS))
    rest = _leased(number % NEIGHBOURS) - used
    if lacks(number):
        return PoolStock(name=_pool(pool), used=used, cooling=rest, wanted=1)
    return PoolStock(name=_pool(pool), used=used, free=rest)


def _pod(number: int, index: int) -> Iterator[tuple[str, Key, Obj]]:
    """A pod and its SpiderEndpoint."""
    node, app, name = _node(number), f"app-{number}", f"app-{number}-5d4f8c7b9-{index:05d}"
    pool, place = index % POOLS, index // POOLS
    address = _address(pool, number // NEIGHBOURS, number % NEIGHBOURS * SHARE + place)
    key = ("default", name)
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": app,
        "uid": _uid(f"default/{app}"),
        "controller": True,
    }
    metadata = {**_meta(name, "default"), "labels": {"app": app, "pod-template-hash": "5d4f8c7b9"}}
    container = {"name": "main", "image": "registry.example/app:1.2.3", "resources": {"requests": {"cpu": "100m"}}}
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "startTime": CREATED}
    yield (
        "/pods",
        key,
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**metadata, "ownerReferences": [owner]},
            "spec": {"nodeName": node, "containers": [container]},
            "status": status,
        },
    )
    held = {
        "interface": "eth0",
        "ipv4": f"{address}/16",
        "ipv4Pool": _pool(pool),
        "mac": "02:00:" + ":".join(f"{byte:02x}" for byte in bytes(map(int, address.split(".")))),
        "routes": [],
    }
    current = {"uid": metadata["uid"], "node": node, "ips": [held]}
    belongs = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": metadata["uid"]}
    yield (
        "spiderpool.spidernet.io/spiderendpoints",
        key,
        {
            "apiVersion": SPIDER,
            "kind": "SpiderEndpoint",
            "metadata": {**_meta(name, "default", "endpoint"), "ownerReferences": [belongs]},
            "status": {"current": current, "ownerControllerType": "Deployment", "ownerControllerName": app},
        },
    )


def _node(number: int) -> str:
    return f"node-{number}"


def _pool(number: int) -> str:
    return f"pool-{number}"


def _address(pool: int, page: int, slot: int) -> str:
    """The first page of the subnet is left out: it holds the subnet's own address."""
    offset = (page + 1) * PAGE + slot
    return f"10.{64 + pool}.{offset >> 8}.{offset & 255}"


def _meta(name: str, namespace: str = "", what: str = "") -> dict[str, Any]:
    place = {"namespace": namespace} if namespace else {}
    full = f"{what}/{namespace}/{name}" if what else f"{namespace}/{name}" if namespace else name
    return {"name": name, **place, "uid": _uid(full), "creationTimestamp": CREATED, "generation": 1}


def _uid(name: str) -> str:
    return f"0f8b1f6e-{name}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def _beat_all(store: Store, nodes: int) -> None:
    """Every node once in HEARTBEAT_S; what a busy moment delays is made up for."""
    begun, done = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - begun) / HEARTBEAT_S * nodes)
        for number in range(done, due):
            beat(store, number % nodes)
        done = due
        await asyncio.sleep(TICK_S)


async def serve(port: int, crds: Path, shape: Shape) -> None:
    """Until SIGTERM or SIGINT. Answers from the moment on at which it is full."""
    gc.disable()  # a million dictionaries that live for ever: looking through them again and again would be most of the work
    server = EmbeddedServer()
    server.install_crds(crds)
    fill(server.store, shape)
    gc.freeze()
    gc.enable()
    await server.start(port=port)
    beating = asyncio.create_task(_beat_all(server.store, shape.nodes))
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    beating.cancel()
    await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m e2e.bench.crowded", description="An API server with a large cluster."
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--crds", type=Path, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--pods", type=int, required=True)
    given = parser.parse_args()
    asyncio.run(serve(given.port, given.crds, Shape(given.nodes, given.pods)))


if __name__ == "__main__":
    main()
