"""Tells browsers which pools have changed, by Server-Sent Events: at most one event per `TICK_S` and client, and nothing is drawn for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from aiohttp import web

from adapters.clock import Clock
from leader.page.pictures import Pictures

log = structlog.get_logger(__name__)

MAX_CLIENTS = 64
TICK_S = 1.0
KEEP_S = 15.0
SEND_S = 10.0  # a client that does not take an event for so long is dropped
RETRY_MS = 3000


class _Client:
    """What one browser has yet to be told."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.woken = asyncio.Event()


class Changes:
    """`look` returns the pictures of now, None while this process does not lead."""

    def __init__(self, look: Callable[[], Pictures | None], clock: Clock) -> None:
        self._look = look
        self._clock = clock
        self._clients: set[_Client] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._closing = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One browser, until it leaves or the leader does."""
        if len(self._clients) >= MAX_CLIENTS:
            raise web.HTTPServiceUnavailable(text="too many browsers are watching", headers={"Retry-After": "30"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        client = _Client()
        self._clients.add(client)
        self._start()
        try:
            await response.write(f"retry: {RETRY_MS}\nevent: hello\ndata: {{}}\n\n".encode())
            while not self._closing and self._look() is not None:
                async with asyncio.timeout(SEND_S):
                    await response.write(_event(client))
                try:
                    async with asyncio.timeout(KEEP_S):
                        await client.woken.wait()
                except TimeoutError:
                    continue
        except (ConnectionError, TimeoutError):
            log.info("page_client_left")
        finally:
            self._clients.discard(client)
        return response

    async def close(self) -> None:
        """Ends every stream, so that the server can stop at once."""
        self._closing = True
        for client in self._clients:
            client.woken.set()
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)

    def _start(self) -> None:
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.create_task(self._tick(), name="page changes")

    async def _tick(self) -> None:
        while self._clients:
            pictures = self._look()
            names = await pictures.settle() if pictures is not None else set[str]()
            for client in self._clients:
                client.names |= names
                if names or pictures is None:
                    client.woken.set()
            await self._clock.sleep(TICK_S)


def _event(client: _Client) -> bytes:
    """What is new for the client, or a comment that keeps the connection open."""
    client.woken.clear()
    names, client.names = sorted(client.names), set()
    return b"event: pools\ndata: " + msgspec.json.encode(names) + b"\n\n" if names else b": still here\n\n"
