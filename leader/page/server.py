"""The page's HTTP server: static files, a read-only JSON API over the leader's sight, and the stream of changes.

There is no login: whoever reaches the address may look. It is off by default; give it an address that only a port-forward or a proxy with a
login reaches.
"""

from __future__ import annotations

import asyncio
import hashlib
from importlib.resources import files
from typing import Any, Protocol

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from adapters.clock import Clock
from adapters.kube.store import Store
from ipam.addresses import Address
from ipam.errors import BadValue
from leader.leader import Leader
from leader.page.changes import Changes
from leader.page.details import details
from leader.page.facts import MAX_WINDOW, window
from leader.page.pictures import Drawn, Pictures
from leader.page.search import MAX_QUERY, search
from leader.sight import Sight

log = structlog.get_logger(__name__)

STATIC = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/grid.js": ("grid.js", "text/javascript"),
    "/texts.js": ("texts.js", "text/javascript"),
}
ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#1f5fbf"/>'
    b'<path d="M3 3h4v4H3zM9 9h4v4H9z" fill="#fff"/><path d="M9 3h4v4H9zM3 9h4v4H3z" fill="#fff" opacity=".45"/></svg>'
)
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "nephila",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
MAX_READS = 4  # answers that ask the API server, at once


class Source(Protocol):
    """Who leads, and what it sees."""

    def sight(self) -> Sight | None:
        """None while this process does not lead, or has not listed everything."""

    def leader(self) -> str:
        """The holder of the lock as last seen; "" if nobody is."""


class LeaderSource:
    """A real candidate."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader

    def sight(self) -> Sight | None:
        reign = self._leader.reign
        return reign.sight if reign is not None and self._leader.elector.is_leading else None

    def leader(self) -> str:
        record = self._leader.elector.candidate.record
        return record.holder if record is not None else ""


class PageServer:
    """Serves from `start()` to `stop()` on `address` ("host:port"), on the running loop. `port` is the one in use."""

    def __init__(self, address: str, source: Source, store: Store, clock: Clock) -> None:
        host, _, port = address.rpartition(":")
        self._host, self.port = host.strip("[]"), int(port)
        self._source = source
        self._store = store
        self._clock = clock
        self._pictures: Pictures | None = None
        self._changes = Changes(self._look, clock)
        self._reads = asyncio.Semaphore(MAX_READS)
        self._runner: web.AppRunner | None = None
        self._files = {path: _file(*what) for path, what in STATIC.items()}

    async def start(self) -> None:
        """Raises OSError if the address is taken."""
        app = web.Application(middlewares=[_read_only])
        app.on_response_prepare.append(_secure)
        for path in self._files:
            app.router.add_get(path, self._static)
        app.router.add_get("/icon.svg", _icon)
        app.router.add_get("/api/pools", self._pools)
        app.router.add_get("/api/pools/{name}", self._pool)
        app.router.add_get("/api/pools/{name}/{address}", self._address)
        app.router.add_get("/api/search", self._search)
        app.router.add_get("/api/changes", self._stream)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host or None, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        log.info("page_served", host=self._host, port=self.port)

    async def stop(self) -> None:
        await self._changes.close()
        if self._runner is not None:
            await self._runner.cleanup()

    # Handlers --------------------------------------------------------------------------------------------------------------------------

    async def _static(self, request: web.Request) -> web.Response:
        body, content_type, tag = self._files[request.path]
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    async def _pools(self, _request: web.Request) -> web.Response:
        pools = await self._leading().summaries()
        return _json({"leader": self._source.leader(), "pools": pools})

    async def _pool(self, request: web.Request) -> web.Response:
        drawn = self._drawn(request)
        first, count = _whole(request, "first", 0), _whole(request, "count", MAX_WINDOW)
        return _json({"pool": drawn.summary, **window(drawn.map, first, count)})

    async def _address(self, request: web.Request) -> web.Response:
        drawn = self._drawn(request)
        try:
            address = Address.parse(request.match_info["address"])
        except BadValue as error:
            raise _refused(web.HTTPBadRequest, "bad-address", str(error)) from None
        async with self._reads:
            return _json(await details(self._leading(), self._store, drawn, address))

    async def _search(self, request: web.Request) -> web.Response:
        query = request.query.get("q", "")
        if len(query) > MAX_QUERY:
            raise _refused(web.HTTPBadRequest, "too-long", f"search for at most {MAX_QUERY} characters")
        async with self._reads:
            return _json(await search(self._leading(), self._store, query))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self._leading()
        return await self._changes.handle(request)

    # Looking ---------------------------------------------------------------------------------------------------------------------------

    def _look(self) -> Pictures | None:
        """Pictures of the present reign; older ones are forgotten with their sight."""
        sight = self._source.sight()
        if sight is None:
            return None
        if self._pictures is None or self._pictures.sight is not sight:
            self._pictures = Pictures(sight, self._clock)
        return self._pictures

    def _leading(self) -> Pictures:
        pictures = self._look()
        if pictures is None:
            holder = self._source.leader()
            message = f"{holder} leads; ask it instead" if holder else "nobody leads at the moment"
            raise _refused(web.HTTPServiceUnavailable, "not-leading", message, leader=holder)
        return pictures

    def _drawn(self, request: web.Request) -> Drawn:
        name = request.match_info["name"]
        drawn = self._leading().drawn(name)
        if drawn is None:
            raise _refused(web.HTTPNotFound, "no-such-pool", f"there is no readable pool {name}")
        return drawn


async def _icon(_request: web.Request) -> web.Response:
    return web.Response(body=ICON, content_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})


def _file(name: str, content_type: str) -> tuple[bytes, str, str]:
    body = files("leader.page").joinpath(name).read_bytes()
    return body, content_type, f'"{hashlib.sha256(body).hexdigest()[:16]}"'


def _json(value: Any) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _refused(kind: type[web.HTTPException], error: str, message: str, **more: str) -> web.HTTPException:
    text = msgspec.json.encode({"error": error, "message": message, **more}).decode()
    return kind(text=text, content_type="application/json", headers={"Cache-Control": "no-store"})


def _whole(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 40):
        raise _refused(web.HTTPBadRequest, "bad-number", f"{name} must be a whole number")
    return int(text)


@web.middleware
async def _read_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.method not in ("GET", "HEAD"):
        raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
    return await handler(request)


async def _secure(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY)
