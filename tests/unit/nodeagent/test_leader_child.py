"""The agent's leader child: real processes against the embedded API server; it ends with its parent, however that ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.clock import SystemClock
from adapters.entropy import SeededEntropy
from adapters.kube.kubestore import KubeStore
from adapters.kube.store import Store, Stored
from adapters.kube.transport import Explicit, connect
from crds.meta import ObjectMeta
from crds.nephila import LEADER_LOCK
from crds.spiderpool import IP_POOL, IPPoolSpec, SpiderIPPool
from e2e.apiserver.server import EmbeddedServer
from leader.elector import LOCK
from nodeagent import leader_child
from nodeagent.leader_child import LeaderChild

ROOT = Path(__file__).parents[3]
CRDS = ROOT / "crds" / "yaml"


class Cluster:
    def __init__(self, url: str, store: Store, config: Path) -> None:
        self.url = url
        self.store = store
        self.command = (sys.executable, "-m", "leader", "--config", str(config), "--node", "n1", "--with-parent")

    async def holder(self) -> str:
        stored = await self.store.get(LEADER_LOCK, LOCK)
        return stored.spec.holder if stored else ""

    async def until_held(self, *, by_somebody: bool, timeout_s: float = 20.0) -> str:
        async with asyncio.timeout(timeout_s):
            while bool(holder := await self.holder()) is not by_somebody:
                await asyncio.sleep(0.05)
        return holder


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    server = EmbeddedServer()
    await server.start("127.0.0.1", 0)
    server.install_crds(CRDS)
    config = tmp_path / "leader.yaml"
    config.write_text(f"api: {{url: '{server.url}'}}\nelection: {{leaseS: 3, renewDeadlineS: 2, retryS: 0.3}}\n")
    transport = await connect(Explicit(server.url), component="test", version="0")
    try:
        yield Cluster(server.url, KubeStore(transport, SystemClock(), SeededEntropy(1)), config)
    finally:
        await transport.close()
        await server.stop()


@asynccontextmanager
async def running(cluster: Cluster, *, candidate: list[bool] | None = None) -> AsyncIterator[LeaderChild]:
    yes = candidate if candidate is not None else [True]
    child = LeaderChild(cluster.command, SystemClock(), SeededEntropy(1), lambda: yes[0])
    task = asyncio.create_task(child.run())
    try:
        yield child
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


async def test_a_leader_process_leads_publishes_and_hands_over(cluster: Cluster) -> None:
    spec = IPPoolSpec(subnet="10.6.0.0/24", ips=("10.6.0.10-10.6.0.20",))
    assert isinstance(
        await cluster.store.create(IP_POOL, SpiderIPPool(metadata=ObjectMeta(name="v4"), spec=spec)), Stored
    )
    async with running(cluster) as child:
        assert (await cluster.until_held(by_somebody=True)).startswith("n1-")
        pid = child.pid
        async with asyncio.timeout(10.0):
            while True:
                stored = await cluster.store.get(IP_POOL, "v4")
                if stored and stored.status and stored.status.free_ip_count == 11:
                    break
                await asyncio.sleep(0.05)
        began = time.monotonic()
    assert time.monotonic() - began < leader_child.STOP_S
    assert pid is not None and not is_alive(pid)
    assert await cluster.holder() == ""  # released, not left to lapse


async def test_a_killed_child_is_started_again(cluster: Cluster) -> None:
    async with running(cluster) as child:
        first = await cluster.until_held(by_somebody=True)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        async with asyncio.timeout(25.0):
            while await cluster.holder() == first:
                await asyncio.sleep(0.1)
        assert child.starts == 2


async def test_a_node_that_is_no_candidate_any_more_ends_its_leader(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_child, "LOOK_S", 0.1)
    candidate = [False]
    async with running(cluster, candidate=candidate) as child:
        await asyncio.sleep(0.3)
        assert child.starts == 0
        candidate[0] = True
        await cluster.until_held(by_somebody=True)
        candidate[0] = False
        assert await cluster.until_held(by_somebody=False) == ""


async def test_the_child_ends_when_the_agent_is_killed(cluster: Cluster) -> None:
    """The parent is a process that starts the leader as the agent does and is then killed: no handler of its own can run."""
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *cluster.command, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    await cluster.until_held(by_somebody=True)
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(15.0):
        while is_alive(pid):
            await asyncio.sleep(0.05)
    assert await cluster.holder() == ""


async def test_a_bad_configuration_is_told_by_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    config = tmp_path / "leader.yaml"
    config.write_text("node: n1\nelection: {leaseS: 5, renewDeadlineS: 10}\n")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "leader", "--config", str(config), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await child.communicate()
    assert child.returncode == 2 and b"must be above the renew deadline" in errors
