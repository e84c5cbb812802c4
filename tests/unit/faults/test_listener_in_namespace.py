"""The lab's arrangement: the client in a node's network namespace, the upstream on the machine's own loopback."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator

import pytest

from adapters.entropy import SeededEntropy
from e2e.cluster.faults import FaultProxy
from e2e.lab import netns
from tests.unit.faults.conftest import Upstream

PORT = 6443
FETCH = f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{PORT}/x', timeout=5).status)"


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"nephila-faults-{os.getpid()}"
    netns.create(name)
    yield name
    netns.delete(name)


async def fetch_in(namespace: str) -> str:
    """The HTTP status, or the last line of Python's complaint."""
    process = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", namespace, "python3", "-c", FETCH),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    return output.decode().strip().splitlines()[-1]


@pytest.mark.netns
async def test_client_in_another_namespace_is_served_cut_off_and_served_again(
    upstream: Upstream, namespace: str
) -> None:
    listener = netns.listen_in(namespace, "127.0.0.1", PORT)
    async with FaultProxy(upstream.url, listener, entropy=SeededEntropy(1)) as proxy:
        assert await fetch_in(namespace) == "200"
        proxy.cut(seconds=60)
        assert "Connection refused" in await fetch_in(namespace)
        proxy.heal()
        assert await fetch_in(namespace) == "200"
