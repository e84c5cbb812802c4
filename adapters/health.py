"""HTTP for probes and Prometheus: `/v1/runtime/startup|readiness|liveness` (Spiderpool's paths) and `/metrics`.

Served by the loop that does the work, on purpose: a loop that stands still does not answer, the kubelet's probe times out, and that is the signal.
A server thread would go on saying "ok" for it.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

WhyNot = Callable[[], str]


class HealthServer:
    """`why_not_ready` and `why_not_alive` return "" when all is well, else the reason, which is the body of the 503."""

    def __init__(self, address: str, registry: CollectorRegistry, why_not_ready: WhyNot, why_not_alive: WhyNot) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._registry = registry
        self._why_not_ready = why_not_ready
        self._why_not_alive = why_not_alive
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises OSError if the address is taken."""
        app = web.Application()
        app.router.add_get("/v1/runtime/startup", self._ready)
        app.router.add_get("/v1/runtime/readiness", self._ready)
        app.router.add_get("/v1/runtime/liveness", self._alive)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host or None, self._port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _ready(self, _request: web.Request) -> web.Response:
        return _answer(self._why_not_ready())

    async def _alive(self, _request: web.Request) -> web.Response:
        return _answer(self._why_not_alive())

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})


def _answer(why_not: str) -> web.Response:
    return web.Response(status=503 if why_not else 200, text=why_not or "ok")
