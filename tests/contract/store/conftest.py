"""One suite, every store: the in-memory fake and the HTTP client against the embedded API server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.clock import SystemClock
from adapters.entropy import SystemEntropy
from adapters.kube.kubestore import KubeStore
from adapters.kube.memory import MemoryStore
from adapters.kube.memory_cluster import MemoryCluster
from adapters.kube.store import Store
from adapters.kube.transport import Explicit, connect
from e2e.apiserver.server import EmbeddedServer
from tests.contract.store.widgets import definitions


@dataclass(frozen=True, slots=True)
class Subject:
    store: Store
    compact: Callable[[], object]


async def _memory() -> AsyncIterator[Subject]:
    cluster = MemoryCluster(SystemClock())
    yield Subject(MemoryStore(cluster), cluster.compact)


async def _embedded(folder: Path) -> AsyncIterator[Subject]:
    (folder / "widgets.yaml").write_text(definitions())
    server = EmbeddedServer()
    await server.start()
    server.install_crds(folder)
    transport = await connect(Explicit(server.url, token="contract"), component="test", version="0")
    yield Subject(KubeStore(transport, SystemClock(), SystemEntropy()), server.store.compact)
    await transport.close()
    await server.stop()


@pytest.fixture(params=["memory", "embedded"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    async for made in _memory() if request.param == "memory" else _embedded(tmp_path):
        yield made


@pytest.fixture
async def store(subject: Subject) -> Store:
    return subject.store
