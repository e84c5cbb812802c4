"""The webhook as the API server meets it: served over TLS with the leader's certificate, called by the embedded API server.

`NEPHILA_CONTRACT_KUBECONFIG` takes a real one instead (`python -m e2e.cluster run -- python -m pytest tests/contract/webhook`).
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from adapters.clock import Clock, SystemClock
from adapters.entropy import SeededEntropy, SystemEntropy
from adapters.kube.kubestore import KubeStore
from adapters.kube.store import Missing, Outcome, Refused, Store, Stored
from adapters.kube.transport import Explicit, Kubeconfig, connect
from crds.admission import MUTATING, VALIDATING
from crds.core import NAMESPACE, SECRET
from crds.generate import ROOT, YAML_FOLDER
from crds.meta import Kind
from crds.policies import NAMESPACE as OURS
from crds.spiderpool import ENDPOINT, IP_POOL, RESERVED_IP, SUBNET
from crds.webhooks import NAME, configurations
from e2e.apiserver.server import EmbeddedServer
from ipam.addresses import Family
from leader.config import ElectionSettings, LeaderConfig, WebhookSettings
from leader.leader import Leader, Ports
from nodeagent.webhook.review import Reviewer
from nodeagent.webhook.server import WebhookServer
from tests.contract.crds.conftest import Api, apply_crds
from tests.unit.leader.harness import FAST

REAL = "NEPHILA_CONTRACT_KUBECONFIG"
SECRET_NAME = "nephila-webhook"
HOST = "localhost"
IN_FORCE_S = 20.0  # a real server reads a changed configuration within a second or two
CONFIGURATIONS: tuple[tuple[str, Kind[Any]], ...] = (("mutating", MUTATING), ("validating", VALIDATING))
OBJECTS: tuple[Kind[Any], ...] = (ENDPOINT, IP_POOL, SUBNET, RESERVED_IP)
OVERLAPPING = {"subnet": "203.0.113.0/24", "ips": ["203.0.113.1"]}


@dataclass
class Ground:
    """One API server with our kinds, and what a test puts around it. The program's connections are not the user's, who may wait on all of his."""

    store: Store
    programs: Store
    folder: Path
    server: WebhookServer | None = None
    _tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    async def create(self, kind: Kind[Any], name: str, *, namespace: str = "", **wire: Any) -> Outcome[Any]:
        metadata = {"name": name, "namespace": namespace, **wire.pop("metadata", {})}
        return await self.store.create(kind, kind.from_builtins({"metadata": metadata, **wire}))

    async def made(self, kind: Kind[Any], name: str, **wire: Any) -> Any:
        outcome = await self.create(kind, name, **wire)
        assert isinstance(outcome, Stored), outcome
        return outcome.object

    async def pool(self, name: str, *ips: str, subnet: str = "10.1.0.0/24", **spec: Any) -> Outcome[Any]:
        return await self.create(IP_POOL, name, spec={"subnet": subnet, "ips": list(ips), **spec})

    async def subnet(self, name: str, *ips: str, subnet: str = "10.1.0.0/24", **spec: Any) -> Outcome[Any]:
        return await self.create(SUBNET, name, spec={"subnet": subnet, "ips": list(ips), **spec})

    @asynccontextmanager
    async def leading(self, clock: Clock | None = None) -> AsyncIterator[Leader]:
        """A leader that keeps the certificate."""
        wanted = WebhookSettings(enabled=True, namespace=OURS, names=(HOST,), period_s=0.1)
        ports = Ports(self.programs, clock or SystemClock(), SeededEntropy(1))
        # A real server under load answers a renewal late; a leader that is deposed for it starts over.
        election = ElectionSettings(lease_s=8.0, renew_deadline_s=6.0, retry_s=0.5)
        one = Leader(LeaderConfig(node="n1", webhook=wanted, **{**FAST, "election": election}), ports)
        task = asyncio.create_task(one.run())
        try:
            yield one
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def serve(self) -> WebhookServer:
        """An agent's webhook, and a kubelet's part: the Secret in a folder."""
        reviewer = Reviewer(self.programs, frozenset(Family), protect_in_use=True)
        port = self.server.port if self.server is not None else 0
        self.server = WebhookServer(f"127.0.0.1:{port}", self.folder, reviewer, SystemClock())
        self._tasks.append(asyncio.create_task(self.server.run()))
        async with asyncio.timeout(IN_FORCE_S):
            await self.server.serving.wait()
        return self.server

    async def show_secret(self) -> None:
        """Returns when the folder has a certificate."""
        async with asyncio.timeout(IN_FORCE_S):
            while True:
                stored = await self.store.get(SECRET, SECRET_NAME, OURS)
                data = (stored.data if stored is not None else None) or {}
                if "tls.key" in data:
                    for key in ("tls.crt", "tls.key"):
                        (self.folder / key).write_bytes(base64.b64decode(data[key]))
                    return
                await asyncio.sleep(0.02)

    async def stop_serving(self) -> None:
        """Connections that the API server kept are closed too: only then the webhook is down for it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def configure(self, policy: str) -> None:
        """The two configurations, as the chart makes them, but reached by URL."""
        assert self.server is not None
        for which, kind in CONFIGURATIONS:
            wanted = deepcopy(configurations()[which])
            stored = await self.store.get(kind, NAME)
            (webhook,) = wanted["webhooks"]
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://{HOST}:{self.server.port}{path}"}
            if stored is not None:
                webhook["clientConfig"]["caBundle"] = stored.webhooks[0]["clientConfig"]["caBundle"]
            webhook["failurePolicy"] = policy
            if stored is None:
                await self.made(kind, NAME, webhooks=wanted["webhooks"])
            else:
                assert isinstance(await self.store.patch(kind, NAME, {"webhooks": wanted["webhooks"]}), Stored)

    async def until(self, says: str) -> None:
        """Returns when the API server refuses a bad pool with these words."""
        answer: Any = None
        try:
            async with asyncio.timeout(IN_FORCE_S):
                while True:
                    answer = await self.create(IP_POOL, "probe", spec={**OVERLAPPING, "gateway": "203.0.113.1"})
                    if isinstance(answer, Refused) and says in answer.message:
                        return
                    if isinstance(answer, Stored):
                        await self.remove(IP_POOL, "probe")
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"never said {says!r}: {answer}") from None

    async def remove(self, kind: Kind[Any], name: str, namespace: str = "") -> None:
        await self.store.patch(kind, name, {"metadata": {"finalizers": None}}, namespace=namespace)
        await self.store.delete(kind, name, namespace=namespace)

    async def clear(self) -> None:
        """No webhook, no object of ours."""
        await self.stop_serving()
        for _, kind in CONFIGURATIONS:
            await self.store.delete(kind, NAME)
        await self.store.delete(SECRET, SECRET_NAME, namespace=OURS)
        async with asyncio.timeout(IN_FORCE_S):
            while True:
                left = 0
                for one in OBJECTS:
                    found = (await self.store.list(one)).items
                    left += len(found)
                    await asyncio.gather(*(self.remove(one, item.name, item.namespace) for item in found))
                if not left:
                    return


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    real = os.environ.get(REAL)
    embedded = None if real else EmbeddedServer()
    if embedded is not None:
        await embedded.start()
        embedded.install_crds(ROOT / YAML_FOLDER)
    else:
        client = Api.of_kubeconfig(Path(real or ""))
        await asyncio.to_thread(apply_crds, client)
        client.close()
    source = Kubeconfig(real) if real else Explicit(embedded.url if embedded else "", token="contract")
    transports = [await connect(source, component=name, version="0") for name in ("user", "program")]
    user, program = (KubeStore(transport, SystemClock(), SystemEntropy()) for transport in transports)
    folder = tmp_path / "certificate"
    folder.mkdir()
    one = Ground(user, program, folder)
    outcome = await one.create(NAMESPACE, OURS)
    assert not isinstance(outcome, Refused | Missing)
    await one.clear()
    await one.made(SECRET, SECRET_NAME, namespace=OURS)
    yield one
    await one.clear()
    for transport in transports:
        await transport.close()
    if embedded is not None:
        await embedded.stop()


@pytest.fixture
async def webhooked(ground: Ground) -> Ground:
    """With the webhook on and in force, failing closed, and the leader gone after it made the certificate."""
    async with ground.leading():
        await ground.show_secret()
        await ground.serve()
        await ground.configure("Fail")
        await ground.until("conflicts with gateway")
    return ground
