"""The leader over hundreds of nodes on the real API server: fake nodes with mailboxes, leases, pods and records, and heartbeats by own tokens.

Measured: from the leader's start to a published pool status; its memory and its writes in steady state; and how long until the leases of nodes that
died for good are free again.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adapters.kube.transport import Explicit, connect
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.nodes import fleet
from e2e.cluster.nodes.fakes import FakeNodes
from e2e.cluster.nodes.fleet import Fleet
from e2e.cluster.nodes.kube import Kube
from e2e.cluster.program import ClusterFailed, Program
from e2e.cluster.security import install, leader_token
from e2e.cluster.workdir import free_ports, write_kubeconfig

ROOT = Path(__file__).resolve().parents[3]
NODES = 300
STEADY_S = 60.0
DEAD = 10
LEADS_S, STATUS_S, RECLAIM_S = 30.0, 60.0, 180.0
# The agents' lease time decides how long a dead node's addresses are waited for; 300 s by default, here as short as a test wants it.
RECLAIM = {"agentLeaseS": 60.0, "graceS": 5.0, "periodS": 2.0}
LOCK = "/apis/nephila.io/v1alpha1/leaderlocks/nephila"
BLOCKS = "/apis/nephila.io/v1alpha1/ipblocks"
POOL = f"/apis/spiderpool.spidernet.io/v2beta1/spiderippools/{fleet.POOL}"
WRITES = ("POST", "PUT", "PATCH", "DELETE")
_COUNTED = re.compile(
    r'^nephila_api_requests_total\{code="(\d+)",method="(\w+)",resource="(\w+)"\} ([\d.e+]+)', re.MULTILINE
)


@dataclass(slots=True)
class Figures:
    """Seconds, MiB and requests a second."""

    nodes: int
    pods: int
    setup_s: float = 0.0
    to_status_s: float = 0.0
    leader_mib: float = 0.0
    apiserver_mib: float = 0.0
    writes_per_s: dict[str, float] = field(default_factory=dict)
    beats_per_s: float = 0.0
    dead: int = 0
    reclaim_s: float = 0.0
    refused_writes: int = 0

    def lines(self) -> list[str]:
        writes = ", ".join(f"{name} {rate:.2f}" for name, rate in sorted(self.writes_per_s.items())) or "none"
        return [
            f"{self.nodes} nodes, {self.pods} pods with addresses, on the real API server (made in {self.setup_s:.0f} s)",
            f"leader: from its start to a complete pool status {self.to_status_s:.1f} s",
            f"steady state: leader {self.leader_mib:.0f} MiB resident, API server {self.apiserver_mib:.0f} MiB",
            f"steady state: the leader's writes a second: {writes}; agents' heartbeats {self.beats_per_s:.1f}",
            f"{self.dead} nodes removed: all their leases free after {self.reclaim_s:.1f} s (by its settings twice {_wait_s():.0f} s of silence)",
            f"refused: {self.refused_writes} writes of the leader or heartbeats",
        ]


def _wait_s() -> float:
    return RECLAIM["agentLeaseS"] * 1.1 + RECLAIM["graceS"]


async def run(nodes: int = NODES, steady_s: float = STEADY_S) -> Figures:
    """Raises ClusterFailed if the leader does not lead, publish or reclaim in time, or if something is refused."""
    figures = Figures(nodes, nodes * fleet.PODS_A_NODE, dead=min(DEAD, nodes // 2))
    async with ControlPlane() as plane:
        await install(plane.client())
        admin = await connect(
            Explicit(plane.url, plane.admin_token, str(plane.ca_file)), component="fleet", version="0"
        )
        begun = time.monotonic()
        async with FakeNodes(plane.client(), nodes) as fakes, Fleet(plane, admin, fakes.names) as agents:
            figures.setup_s = time.monotonic() - begun
            leader = _Leader(plane)
            await leader.start()
            try:
                await _measure(plane, leader, fakes, agents, figures, steady_s)
            finally:
                await leader.program.stop()
        await admin.close()
    return figures


async def _measure(
    plane: ControlPlane, leader: _Leader, fakes: FakeNodes, agents: Fleet, figures: Figures, steady_s: float
) -> None:
    api, begun = Kube(plane.client()), time.monotonic()
    await _until("the pool's status", STATUS_S, lambda: _published(api, figures.pods))
    figures.to_status_s = time.monotonic() - begun
    await asyncio.sleep(5.0)  # what the start itself causes
    before, beats, since = await leader.requests(), agents.beats, time.monotonic()
    await asyncio.sleep(steady_s)
    took, after = time.monotonic() - since, await leader.requests()
    figures.writes_per_s = {
        f"{method} {resource}": (count - before.get((method, resource, code), 0.0)) / took
        for (method, resource, code), count in after.items()
        if method in WRITES and count > before.get((method, resource, code), 0.0)
    }
    figures.beats_per_s = (agents.beats - beats) / took
    figures.leader_mib = leader.program.rss_bytes() / 2**20
    figures.apiserver_mib = plane.rss_bytes()["kube-apiserver"] / 2**20
    lost = fakes.names[: figures.dead]
    await agents.silence(lost)
    await fakes.remove(lost)
    begun = time.monotonic()
    await _until("the dead nodes' leases to end", RECLAIM_S, lambda: _released(api, set(lost)))
    figures.reclaim_s = time.monotonic() - begun
    refused = [code for _, _, code in await leader.requests() if code == "403"]
    figures.refused_writes = len(refused) + len(agents.refused)
    if figures.refused_writes:
        raise ClusterFailed(f"refused: {figures.refused_writes}; {agents.refused[:3]}")
    if (await api.get(LOCK))["spec"]["term"] != 1:
        raise ClusterFailed("the leader changed meanwhile")


class _Leader:
    """`nephila-leader` as a process of its own, with its account's token."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._port = free_ports(1)[0]
        folder = plane.layout.folder
        config = folder / "leader.yaml"
        self.program = Program(
            "leader", [sys.executable, "-m", "leader", "--config", str(config)], folder / "leader.log"
        )
        self._kubeconfig, self._config = folder / "nephila-leader.kubeconfig", config

    async def start(self) -> None:
        token = await leader_token(self._plane.client())
        write_kubeconfig(self._kubeconfig, server=self._plane.url, ca_file=self._plane.ca_file, user={"token": token})
        settings: dict[str, Any] = {"node": "scale", "api": {"kubeconfig": str(self._kubeconfig)}}
        settings |= {"healthAddress": f"127.0.0.1:{self._port}", "logLevel": "info", "reclaim": RECLAIM}
        self._config.write_text(yaml.safe_dump(settings))
        self.program.start()
        api = Kube(self._plane.client())

        async def missing() -> str:
            answer = await api.client.get(LOCK)
            return "" if answer.status == 200 and answer.body["spec"]["holder"] else "the lock"

        await self.program.wait_until(missing, timeout_s=LEADS_S)

    async def requests(self) -> dict[tuple[str, str, str], float]:
        """Its requests to the API server so far, by method, resource and code, as it counts them."""
        url = f"http://127.0.0.1:{self._port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
        return {(method, resource, code): float(count) for code, method, resource, count in _COUNTED.findall(text)}


async def _published(api: Kube, pods: int) -> bool:
    status = (await api.get(POOL)).get("status", {})
    return bool(status.get("allocatedIPCount") == pods)


async def _released(api: Kube, names: set[str]) -> bool:
    blocks = (await api.get(BLOCKS))["items"]
    return not any(one["node"] in names for block in blocks for one in block["spec"].get("leases", ()))


async def _until(what: str, limit_s: float, met: Any) -> None:
    begun = time.monotonic()
    while not await met():
        if time.monotonic() - begun > limit_s:
            raise ClusterFailed(f"waited {limit_s:.0f} s for {what}")
        await asyncio.sleep(0.2)
