"""HTTP for probes and Prometheus: `/v1/runtime/startup|readiness|liveness` (Spiderpool's paths) and `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from leader.leader import Leader


class LeaderCollector(Collector):
    """Computed on scrape from the controllers' own state."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader

    def collect(self) -> Iterator[Metric]:
        reign = self._leader.reign
        yield _gauge("nephila_leader", "1 if this process leads", 1 if self._leader.elector.is_leading else 0)
        if reign is None:
            return
        yield _gauge("nephila_leader_plan_seconds", "Duration of the last plan", reign.recalls.plan_s)
        yield _gauge("nephila_leader_recalls", "Recalls sent in this reign", reign.recalls.total)
        yield _gauge("nephila_leader_slots_reclaimed", "Slots taken by force in this reign", reign.reclaim.taken)
        yield _gauge("nephila_leader_violations", "Invariants found broken", len(reign.consistency.found))
        passes = GaugeMetricFamily("nephila_leader_pass_seconds", "Duration of the last pass", labels=["controller"])
        for loop in reign.loops:
            passes.add_metric([loop.name], loop.last_pass_s)
        yield passes


class HealthServer:
    """`why_not_ready` returns "" when ready."""

    def __init__(self, address: str, registry: CollectorRegistry, why_not_ready: Callable[[], str]) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._registry = registry
        self._why_not_ready = why_not_ready
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
        why = self._why_not_ready()
        return web.Response(status=503 if why else 200, text=why or "ok")

    async def _alive(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family
