"""A small upstream that remembers what reached it, and a proxy before it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from adapters.entropy import SeededEntropy
from e2e.cluster.certificates import Authority
from e2e.cluster.faults import FaultProxy, listen


@dataclass
class Upstream:
    """Writes are kept in `writes`; what is put into `events` goes out on the one watch that runs."""

    url: str = ""
    writes: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    events: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    watchers: int = 0

    async def read(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        if request.query.get("watch") == "1":
            return await self.watch(request)
        return web.json_response({"path": request.path_qs, "writes": self.writes}, headers={"X-Kept": "yes"})

    async def write(self, request: web.Request) -> web.Response:
        self.writes.append(await request.text())
        return web.json_response({"kind": "Stored"}, status=201)

    async def watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        self.watchers += 1
        try:
            while True:
                await response.write(await self.events.get())
        finally:
            self.watchers -= 1


async def _serve(upstream: Upstream, tls: ssl.SSLContext | None) -> web.AppRunner:
    app = web.Application()
    app.router.add_get("/{tail:.*}", upstream.read)
    app.router.add_route("*", "/{tail:.*}", upstream.write)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    socket = listen()
    await web.SockSite(runner, socket, ssl_context=tls).start()
    upstream.url = f"{'https' if tls else 'http'}://127.0.0.1:{socket.getsockname()[1]}"
    return runner


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    served = Upstream()
    runner = await _serve(served, None)
    yield served
    await runner.cleanup()


@pytest.fixture
async def tls_upstream(tmp_path: Path) -> AsyncIterator[tuple[Upstream, Path]]:
    authority = Authority.create(tmp_path / "pki")
    pair = authority.issue_server("upstream")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    served = Upstream()
    runner = await _serve(served, context)
    yield served, authority.certificate
    await runner.cleanup()


@pytest.fixture
async def proxy(upstream: Upstream) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(upstream.url, listen(), entropy=SeededEntropy(7)) as served:
        yield served


@pytest.fixture
async def client(proxy: FaultProxy) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(proxy.url, timeout=aiohttp.ClientTimeout(total=5)) as session:
        yield session
