"""One suite, every store: the in-memory fake, and the HTTP client against the embedded API server.

`NEPHILA_CONTRACT_KUBECONFIG` adds a real API server (`python -m e2e.cluster run -- python -m pytest tests/contract/store`).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.clock import SystemClock
from adapters.entropy import SystemEntropy
from adapters.kube.kubestore import KubeStore
from adapters.kube.memory import MemoryStore
from adapters.kube.memory_cluster import MemoryCluster
from adapters.kube.store import Store
from adapters.kube.transport import Explicit, Kubeconfig, connect
from e2e.apiserver.server import EmbeddedServer
from tests.contract.store.widgets import KINDS, definitions

REAL = "NEPHILA_CONTRACT_KUBECONFIG"


@dataclass(frozen=True, slots=True)
class Subject:
    """`forget` makes the server forget its history and returns a version from before."""

    store: Store
    forget: Callable[[str], str]


async def _memory(folder: Path) -> AsyncIterator[Subject]:
    del folder
    cluster = MemoryCluster(SystemClock())
    yield Subject(MemoryStore(cluster), _then(cluster.compact))


async def _embedded(folder: Path) -> AsyncIterator[Subject]:
    (folder / "widgets.yaml").write_text(definitions())
    server = EmbeddedServer()
    await server.start()
    server.install_crds(folder)
    transport = await connect(Explicit(server.url, token="contract"), component="test", version="0")
    yield Subject(KubeStore(transport, SystemClock(), SystemEntropy()), _then(server.store.compact))
    await transport.close()
    await server.stop()


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    with file.open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


async def _real(folder: Path) -> AsyncIterator[Subject]:
    """A real API server forgets what it had before its watch cache of a kind began. All workers of a run share it and its cluster-scoped objects, so
    one test at a time has it: another's beginning would empty it in the middle.
    """
    with _alone(Path(f"{os.environ[REAL]}.lock")):
        async for made in _emptied_real(folder):
            yield made


async def _emptied_real(folder: Path) -> AsyncIterator[Subject]:
    (folder / "widgets.yaml").write_text(definitions())
    environment = {**os.environ, "KUBECONFIG": os.environ[REAL]}
    for arguments in (
        ["apply", "-f", str(folder)],
        ["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"],
    ):
        await asyncio.to_thread(
            subprocess.run, ["kubectl", *arguments], check=True, env=environment, capture_output=True
        )
    transport = await connect(Kubeconfig(os.environ[REAL]), component="test", version="0")
    store = KubeStore(transport, SystemClock(), SystemEntropy())
    await _emptied(store)
    yield Subject(store, lambda version: "1")
    await transport.close()


async def _emptied(store: Store) -> None:
    for kind in KINDS:
        for item in (await store.list(kind)).items:
            await store.patch(kind, item.name, {"metadata": {"finalizers": None}}, namespace=item.namespace)
            await store.delete(kind, item.name, namespace=item.namespace)


def _then(compact: Callable[[], object]) -> Callable[[str], str]:
    def forget(version: str) -> str:
        compact()
        return version

    return forget


SUBJECTS = {"memory": _memory, "embedded": _embedded} | ({"real": _real} if REAL in os.environ else {})


@pytest.fixture(params=SUBJECTS)
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    async for made in SUBJECTS[request.param](tmp_path):
        yield made


@pytest.fixture
async def store(subject: Subject) -> Store:
    return subject.store
