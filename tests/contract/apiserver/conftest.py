"""The servers under contract.

The embedded one always; with NEPHILA_CONTRACT_KUBECONFIG, also the one that this kubeconfig leads to (a cluster administrator's, with a
token or a client certificate). Each test has a namespace of its own.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from e2e.apiserver.server import EmbeddedServer, Options
from tests.contract.apiserver.client import Client
from tests.contract.apiserver.widgets import GROUP, PLURAL, definition

CLUSTER = "NEPHILA_CONTRACT_KUBECONFIG"
SERVERS = ["embedded", *(["cluster"] if os.environ.get(CLUSTER) else [])]


@asynccontextmanager
async def _embedded(folder: Path) -> AsyncIterator[Client]:
    server = EmbeddedServer(Options(bookmark_interval_s=1.0))
    url = await server.start()
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(server.kubeconfig())
    try:
        async with aiohttp.ClientSession() as http:
            yield Client(http, url, kubeconfig, {"Authorization": "Bearer anything"}, compaction="hook")
    finally:
        await server.stop()


def _chosen(config: dict[str, Any], what: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in config[f"{what}s"] if one["name"] == name)[what]
    return found


def _tls(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    def data(of: dict[str, Any], key: str) -> bytes | None:
        if f"{key}-data" in of:
            return base64.b64decode(of[f"{key}-data"])
        return Path(of[key]).read_bytes() if key in of else None

    authority = data(cluster, "certificate-authority")
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    certificate, key = data(user, "client-certificate"), data(user, "client-key")
    if certificate and key:
        with tempfile.TemporaryDirectory() as folder:
            chain = Path(folder, "chain.pem")
            chain.write_bytes(certificate + b"\n" + key)
            context.load_cert_chain(chain)
    return context


@asynccontextmanager
async def _cluster(kubeconfig: Path) -> AsyncIterator[Client]:
    config = yaml.safe_load(kubeconfig.read_text())
    context = _chosen(config, "context", config["current-context"])
    cluster, user = _chosen(config, "cluster", context["cluster"]), _chosen(config, "user", context["user"])
    tls = _tls(cluster, user) if cluster["server"].startswith("https") else None
    headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
    connector = aiohttp.TCPConnector(ssl=tls) if tls is not None else aiohttp.TCPConnector()
    async with aiohttp.ClientSession(connector=connector) as http:
        yield Client(http, cluster["server"].rstrip("/"), kubeconfig, headers, compaction="age")
    # TLS connections say goodbye after the session is closed; without a moment for that they are left to the garbage collector.
    await asyncio.sleep(0.1)


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Client]:
    """A client of a server that is ready to be asked."""
    which = _embedded(tmp_path) if request.param == "embedded" else _cluster(Path(os.environ[CLUSTER]))
    async with which as client:
        yield client


@pytest.fixture
def unique() -> Iterator[str]:
    """A name that no other test uses, for cluster-scoped objects."""
    yield f"contract-{uuid.uuid4().hex[:10]}"


@pytest.fixture
async def namespace(server: Client, unique: str) -> AsyncIterator[str]:
    """A namespace that goes with the test."""
    reply = await server.post("/api/v1/namespaces", {"metadata": {"name": unique}})
    assert reply.status == 201, reply.body
    yield unique
    await server.delete(f"/api/v1/namespaces/{unique}")


@pytest.fixture
async def widgets(server: Client, namespace: str) -> str:
    """Path of the collection of a small custom kind with a status subresource, defaults and rules (see widgets.py)."""
    reply = await server.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition())
    assert reply.status in (201, 409), reply.body
    path = f"/apis/{GROUP}/v1/namespaces/{namespace}/{PLURAL}"
    # A real server publishes the new paths some time after it says Established.
    await server.until(path, lambda reply: reply.status == 200)
    return path
