"""One suite, every store: the in-memory fake and the HTTP client against the embedded API server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adapters.clock import SystemClock
from adapters.kube.memory import MemoryStore
from adapters.kube.memory_cluster import MemoryCluster
from adapters.kube.store import Store


@pytest.fixture(params=["memory"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    yield MemoryStore(MemoryCluster(SystemClock()))


@pytest.fixture
async def compact(store: Store) -> None:
    """Some history that the server has forgotten."""
    assert isinstance(store, MemoryStore)
    store.cluster.version += 10
    store.cluster.compact()
