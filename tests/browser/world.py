"""A site to look at: pools of 10 and of 65,536 addresses in every state, and a real leader over it that serves the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from adapters.clock import SystemClock
from adapters.entropy import SeededEntropy
from adapters.kube.memory import MemoryStore
from adapters.kube.memory_cluster import MemoryCluster
from adapters.kube.store import Stored
from crds.core import NODE, POD
from crds.meta import Kind
from crds.nephila import IP_BLOCK, IP_NODE
from crds.spiderpool import ENDPOINT, IP_POOL, RESERVED_IP
from ipam.addresses import Address, Family
from ipam.slots import Page, format_slots
from leader.config import ElectionSettings, LeaderConfig, ReclaimSettings, SweepSettings
from leader.leader import Leader, Ports
from leader.page.server import LeaderSource, PageServer

NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"
CALM = LeaderConfig(
    node="n1",
    election=ElectionSettings(lease_s=60.0, renew_deadline_s=50.0, retry_s=0.2),
    reclaim=ReclaimSettings(agent_lease_s=3600.0, period_s=3600.0),
    sweep=SweepSettings(period_s=3600.0, orphan_s=3600.0),
)
START_S = 90.0


def stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class World:
    """Objects of the in-memory API, made at once."""

    clock: SystemClock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        self.memory = MemoryCluster(self.clock)
        self.store = MemoryStore(self.memory)

    def make(self, kind: Kind[Any], **wire: Any) -> Any:
        outcome = self.memory.create(kind, kind.from_builtins(wire))
        assert isinstance(outcome, Stored), outcome
        return outcome.object

    def status(self, kind: Kind[Any], name: str, namespace: str = "", **status: Any) -> None:
        outcome = self.memory.patch(
            kind, (namespace, name), {"status": status}, resource_version="", subresource="status"
        )
        assert isinstance(outcome, Stored), outcome

    def pool(self, name: str, subnet: str, *ips: str, **spec: Any) -> None:
        self.make(IP_POOL, metadata={"name": name}, spec={"subnet": subnet, "ips": list(ips), **spec})

    def node(self, name: str, **status: Any) -> None:
        uid = self.make(NODE, metadata={"name": name}).uid
        self.make(IP_NODE, metadata={"name": name})
        beat = {"sequence": 1, "bootID": "b", "nodeUID": uid, "renewTime": stamp(self.clock.wall())}
        self.status(IP_NODE, name, heartbeat=beat, probe={"mode": "ebpf"}, version="0.1.0", **status)

    def serve(self, name: str, address: str, pool: str, node: str, *, mac: str = "", owner: str = "") -> None:
        """A pod that has the address, with its SpiderEndpoint; `mac` as Multus would write it."""
        seen = f'[{{"interface":"eth0","ips":["{address}"],"mac":"{mac}"}}]'
        annotations = {NETWORK_STATUS: seen} if mac else {}
        metadata = {"name": name, "namespace": "shop", "annotations": annotations}
        uid = self.make(POD, metadata=metadata, spec={"nodeName": node}).uid
        self.status(POD, name, "shop", phase="Running", podIPs=[{"ip": address}])
        self.endpoint(name, address, pool, node, uid, owner or name)

    def endpoint(self, name: str, address: str, pool: str, node: str, uid: str, owner: str) -> None:
        item = {"interface": "eth0", "ipv4": f"{address}/16", "ipv4Pool": pool}
        self.make(
            ENDPOINT,
            metadata={"name": name, "namespace": "shop"},
            status={
                "current": {"uid": uid, "node": node, "ips": [item]},
                "ownerControllerType": "Deployment",
                "ownerControllerName": owner,
            },
        )

    def block(self, cidr: str, *leases: tuple[str, int], **spec: Any) -> None:
        page = Page.parse(cidr)
        entries = [{"node": node, "nodeUID": "u", "slots": format_slots(mask), "epoch": 5} for node, mask in leases]
        self.make(
            IP_BLOCK,
            metadata={"name": page.name},
            spec={"page": cidr, "epoch": 9, "term": 0, "leases": entries, **spec},
        )


def small(world: World) -> None:
    """Pool `tiny`, 10.6.0.10 to .19: one address in each state."""
    world.pool("tiny", "10.6.0.0/24", "10.6.0.10-10.6.0.19", default=True, gateway="10.6.0.1")
    world.make(RESERVED_IP, metadata={"name": "printer"}, spec={"ips": ["10.6.0.19"]})
    now = world.clock.wall()
    seen = {"ip": "10.6.0.16", "mac": "52:54:00:aa:bb:cc", "pool": "tiny", "seen": stamp(now - 300), "how": "arp probe"}
    world.node("node-1", conflicts=[seen], pools=[{"name": "tiny", "used": 3, "free": 1}])
    world.node("node-2")
    for index in range(3):
        mac = f"02:42:0a:06:00:{10 + index:02x}"
        world.serve(f"web-{index}", f"10.6.0.{10 + index}", "tiny", "node-1", mac=mac, owner="web")
    slots = sum(1 << slot for slot in (10, 11, 12, 13))
    pin = {"slot": 15, "owner": {"kind": "StatefulSet", "namespace": "shop", "name": "db-0", "interface": "eth0"}}
    world.block(
        "10.6.0.0/26",
        ("node-1", slots),
        pins=[pin],
        suspect="17",
        cooling=[{"slots": "14", "until": stamp(now + 3600)}],
    )


def large(world: World, pods: int = 6_000, pages: int = 320) -> None:
    """Pool `campus`, a whole /16: `pods` pods on 40 nodes, in blocks of 64 of which some addresses are warm, cooling or disputed."""
    world.pool("campus", "10.32.0.0/16", "10.32.0.0-10.32.255.255")
    now = world.clock.wall()
    conflicts: dict[int, list[dict[str, str]]] = {}
    made = 0
    for page in range(pages):
        node, taken = page % 40, min(64, 8 + page * 7 % 56)
        base = (10 << 24) + (32 << 16) + page * 64
        for slot in range(taken):
            if made < pods:
                world.endpoint(f"pod-{made}", _text(base + slot), "campus", f"worker-{node}", f"uid-{made}", "load")
                made += 1
        cooling = [{"slots": "60-62", "until": stamp(now + 3600)}] if page % 5 == 0 and taken < 48 else []
        world.block(f"{_text(base)}/26", (f"worker-{node}", (1 << min(taken + 8, 60)) - 1), cooling=cooling)
        if page % 31 == 0:
            seen = {"ip": _text(base + 63), "mac": f"52:54:00:00:00:{page % 256:02x}", "pool": "campus"}
            conflicts.setdefault(node, []).append({**seen, "seen": stamp(now - 60), "how": "heard"})
    for node in range(40):
        world.node(f"worker-{node}", conflicts=conflicts.get(node, []))
    world.make(RESERVED_IP, metadata={"name": "routers"}, spec={"ips": ["10.32.255.0-10.32.255.255"]})


def others(world: World) -> None:
    """A full pool, a broken one, and one of more addresses than a browser can count."""
    world.pool("edge", "10.7.0.0/24", "10.7.0.10-10.7.0.13")
    for index in range(4):
        world.serve(f"edge-{index}", f"10.7.0.{10 + index}", "edge", "node-2")
    world.pool("busy", "10.8.0.0/24", "10.8.0.1-10.8.0.200")
    for index in range(164):
        world.endpoint(f"busy-{index}", f"10.8.0.{1 + index}", "busy", "node-2", f"busy-{index}", "busy")
    world.pool("broken", "10.9.0.0/24", "10.77.0.1")
    world.pool("v6", "fd00:6::/64", "fd00:6::-fd00:6::ffff:ffff:ffff:ffff")


def _text(value: int) -> str:
    return str(Address(Family.V4, value))


@asynccontextmanager
async def served(world: World) -> AsyncIterator[PageServer]:
    """A leader that leads, and its page on a free port of this machine."""
    leader = Leader(CALM, Ports(world.store, world.clock, SeededEntropy(1)))
    page = PageServer("127.0.0.1:0", LeaderSource(leader), world.store, world.clock)
    task = asyncio.create_task(leader.run())
    try:
        async with asyncio.timeout(START_S):
            while leader.reign is None and not task.done():
                await asyncio.sleep(0.05)
        if task.done():
            task.result()
        await page.start()
        yield page
    finally:
        await page.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
