"""API server faults as a tool: a proxy between one client and the API server that misbehaves on request.

The client speaks plain HTTP/1.1 to a listening socket (which may lie in another network namespace); the proxy speaks
HTTP or TLS to the upstream and passes the Authorization header on. Streams are passed on chunk by chunk.
Every fault has a bound in time or count; several may be in force at once, and `heal` ends them all.

    async with FaultProxy("https://127.0.0.1:6443", listen(), entropy=SeededEntropy(1), ca_file=...) as proxy:
        proxy.inject(Refuse(429, retry_after_s=1), Requests(methods=frozenset({"PATCH"}), path="/ipblocks/", count=3))
        proxy.cut(seconds=5)

What the proxy cannot do: upgrades (exec, websockets; answered 501) and HTTP/2. When the upstream itself cannot be
reached or ends a reply early, the client's connection is reset.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from adapters.entropy import Entropy
from e2e.cluster.faultkinds import Delay, DropReply, Injection, KillWatch, Refuse, RequestFault, Requests

__all__ = ["Delay", "DropReply", "FaultProxy", "Injection", "KillWatch", "Refuse", "Requests", "listen"]

HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"}
    | {"te", "trailer", "transfer-encoding", "upgrade"}
)
BACKLOG = 128


@dataclass(eq=False, slots=True)
class _Exchange:
    """One request that is being served."""

    method: str
    path: str
    dead: bool = False
    drop: DropReply | None = None
    delay_s: float = 0.0
    task: asyncio.Task[object] | None = field(default_factory=asyncio.current_task)


def listen(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A bound, listening socket as `FaultProxy` wants it, in the network namespace of the calling thread."""
    if port == 0:
        with socket.create_server((host, 0)) as probe:
            port = probe.getsockname()[1]
    return socket.create_server((host, port), backlog=BACKLOG)


class FaultProxy:
    """Serves on `listener`, which it owns and closes. All methods belong to the event loop's thread.

    `listener` must have been bound to an explicit port (see `listen`): the kernel keeps only such a port while the
    proxy refuses connections.
    """

    def __init__(
        self, upstream: str, listener: socket.socket, *, entropy: Entropy, ca_file: Path | None = None
    ) -> None:
        self._upstream = URL(upstream)
        self._listener = listener
        self._address = listener.getsockname()
        self._entropy = entropy
        self._tls = ssl.create_default_context(cafile=ca_file) if ca_file else True
        self._injections: list[Injection] = []
        self._exchanges: set[_Exchange] = set()
        self._connections: dict[int, asyncio.BaseTransport] = {}
        self._passing = asyncio.Event()
        self._passing.set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._acceptor: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._server = web.Server(
            self._handle, handler_cancellation=True, auto_decompress=False, access_log=None, lingering_time=0.0
        )

    @property
    def url(self) -> str:
        return f"http://{self._address[0]}:{self._address[1]}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        self._listener.setblocking(False)
        # A watch may be silent for long and a slow reply is the client's to judge: no timeout here.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._acceptor = asyncio.create_task(self._accept())

    async def stop(self) -> None:
        """Resets what is open and closes the listening socket; may be called twice."""
        self.heal()
        await self._end_acceptor()
        self._reset_connections()
        tasks = [exchange.task for exchange in self._exchanges if exchange.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.shutdown(timeout=1.0)
        if self._session is not None:
            await self._session.close()
        self._listener.close()

    def inject(self, fault: RequestFault, requests: Requests) -> Injection:
        """Puts a fault in force until its bound is reached, or `end` of the answer, or `heal`."""
        now = asyncio.get_running_loop().time()
        injection = Injection(fault, requests, None if requests.seconds is None else now + requests.seconds)
        self._injections.append(injection)
        if isinstance(fault, KillWatch):
            for exchange in self._exchanges:
                exchange.dead = exchange.dead or injection.hit(exchange.method, exchange.path, now, self._entropy)
        return injection

    def cut(self, *, seconds: float) -> None:
        """Resets every connection and refuses new ones (ECONNREFUSED), for `seconds` or until `heal`."""
        if self._acceptor is not None:
            self._acceptor.cancel()
            self._acceptor = None
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # stops listening, keeps the port; see `_mend_cut`
        self._reset_connections()
        self._until("cut", seconds, self._mend_cut)

    def black_hole(self, *, seconds: float) -> None:
        """Nothing passes in either direction while connections stay open and new ones are accepted, for `seconds`
        or until `heal`; whatever the client still waits for then comes late, as after lost packets."""
        self._passing.clear()
        self._until("black_hole", seconds, self._passing.set)

    def heal(self) -> None:
        """Ends every fault. Streams that `KillWatch` met are reset."""
        for injection in self._injections:
            injection.end()
        self._injections.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._passing.set()
        self._mend_cut()
        for exchange in self._exchanges:
            if exchange.dead and exchange.task is not None:
                exchange.task.cancel()

    def _until(self, name: str, seconds: float, mend: Callable[[], None]) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, mend)

    def _mend_cut(self) -> None:
        if self._acceptor is not None or self._session is None or self._session.closed:
            return
        self._listener.listen(BACKLOG)
        if self._listener.getsockname() != self._address:
            raise RuntimeError(f"the port moved from {self._address}: bind the listener to an explicit port")
        self._acceptor = asyncio.create_task(self._accept())

    async def _end_acceptor(self) -> None:
        if self._acceptor is not None:
            self._acceptor.cancel()
            with suppress(asyncio.CancelledError):
                await self._acceptor
            self._acceptor = None

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            with suppress(OSError):  # gone already
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                transport, _protocol = await loop.connect_accepted_socket(self._server, connection)
                self._connections = {key: t for key, t in self._connections.items() if not t.is_closing()}
                self._connections[id(transport)] = transport

    def _reset_connections(self) -> None:
        for transport in self._connections.values():
            _reset(transport)
        self._connections = {}

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        exchange = _Exchange(request.method, request.path_qs)
        self._exchanges.add(exchange)
        try:
            return await self._serve(request, exchange)
        except (aiohttp.ClientError, OSError):  # the upstream is gone, or the client is
            return await _hang_up(request)
        except asyncio.CancelledError:
            _reset(request.transport)
            raise
        finally:
            self._exchanges.discard(exchange)

    async def _serve(self, request: web.BaseRequest, exchange: _Exchange) -> web.StreamResponse:
        body = await request.content.read()
        refusal = self._judge(exchange)
        if exchange.delay_s:
            await asyncio.sleep(exchange.delay_s)
        await self._passing.wait()
        if refusal is not None:
            return _status_reply(refusal)
        if "Upgrade" in request.headers:
            return _status_reply(Refuse(501))
        assert self._session is not None
        url = self._upstream.join(URL(request.raw_path, encoded=True))
        headers = _end_to_end(request.headers)
        headers.popall("Host", None)
        async with self._session.request(
            request.method,
            url,
            data=body or None,
            headers=headers,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            allow_redirects=False,
        ) as reply:
            return await self._return(request, reply, exchange)

    def _judge(self, exchange: _Exchange) -> Refuse | None:
        """Asks each fault in the order of injection and notes its effect; the first refusal ends it."""
        now = asyncio.get_running_loop().time()
        self._injections = [injection for injection in self._injections if injection.in_force(now)]
        for injection in self._injections:
            if not injection.hit(exchange.method, exchange.path, now, self._entropy):
                continue
            match injection.fault:
                case Delay(fixed_s, jitter_s):
                    exchange.delay_s += fixed_s + (self._entropy.uniform(0.0, jitter_s) if jitter_s else 0.0)
                case Refuse() as refusal:
                    return refusal
                case DropReply() as drop:
                    exchange.drop = drop
                case KillWatch():
                    exchange.dead = True
        return None

    async def _return(
        self, request: web.BaseRequest, reply: aiohttp.ClientResponse, exchange: _Exchange
    ) -> web.StreamResponse:
        if exchange.drop is not None:
            await reply.read()
            return await (_hang_up(request) if exchange.drop.how == "reset" else _say_nothing())
        response = web.StreamResponse(status=reply.status, reason=reply.reason, headers=_end_to_end(reply.headers))
        await self._passing.wait()
        await response.prepare(request)
        async for chunk in reply.content.iter_any():
            await self._passing.wait()
            if exchange.dead:
                return await _say_nothing()
            await response.write(chunk)
        await self._passing.wait()
        if exchange.dead:
            return await _say_nothing()
        await response.write_eof()
        return response


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP)


def _status_reply(refusal: Refuse) -> web.Response:
    body: dict[str, object] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    body |= {"message": "injected fault", "reason": refusal.reason, "code": refusal.status}
    headers = {}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
        body["details"] = {"retryAfterSeconds": refusal.retry_after_s}
    return web.Response(status=refusal.status, text=json.dumps(body), content_type="application/json", headers=headers)


async def _hang_up(request: web.BaseRequest) -> web.StreamResponse:
    _reset(request.transport)
    return await _say_nothing()


async def _say_nothing() -> web.StreamResponse:
    """Returns never: the task is cancelled when the connection ends."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("unreachable")


def _reset(transport: asyncio.BaseTransport | None) -> None:
    """Closes with RST rather than FIN, as a crashed or firewalled peer does."""
    if transport is None or transport.is_closing():
        return
    with suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()
