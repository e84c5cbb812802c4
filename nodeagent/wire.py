"""The unix socket of the CNI shim: HTTP/1.1, one request per connection (docs/architecture.md, "The CNI socket protocol").

Bounds: root peers only (SO_PEERCRED), 64 KiB a body, 64 headers, a deadline per connection, a cap on connections. The parser is httptools
(llhttp); a full web framework would cost more than the allocation itself, and nothing of it is needed here.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httptools
import structlog

from ipam.errors import BadValue

log = structlog.get_logger(__name__)

MAX_BODY = 64 * 1024
MAX_HEADERS = 64
MAX_HEADER_BYTES = 64 * 1024  # six CNI variables of up to 8,000 bytes each
MAX_CONNECTIONS = 1024
DEADLINE_S = 30.0
PROTOCOL_VERSIONS = ("1",)
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """`headers`: lower-case names; the `cni-` ones without their prefix."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpReply:
    status: int
    body: bytes


Handler = Callable[[HttpRequest], Awaitable[HttpReply]]


class RequestReader:
    """Feeds bytes, yields one request; shared by the socket and by spool replay, whose files are requests byte for byte."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._size = 0
        self.request: HttpRequest | None = None

    def feed(self, data: bytes) -> HttpRequest | None:
        """The request once it is complete, else None. Raises BadValue for what is malformed or too large."""
        self._size += len(data)
        if self._size > MAX_BODY + MAX_HEADER_BYTES:
            raise BadValue("request", f"is larger than {MAX_BODY} bytes", "shorten the network configuration")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise BadValue(
                "request", f"is not HTTP: {error}", "is the shim on this host from another version?"
            ) from error
        return self.request

    # Callbacks of httptools; their names are its interface.
    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self._headers) >= MAX_HEADERS:
            raise httptools.HttpParserError("too many headers")
        self._headers[name.decode("latin-1").lower().removeprefix("cni-")] = value.decode("utf-8", "surrogateescape")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        self.request = HttpRequest(method, self._url.decode("latin-1"), self._headers, bytes(self._body))


class _Connection(asyncio.Protocol):
    """One request, one reply, close."""

    def __init__(self, server: CniSocket) -> None:
        self._server = server
        self._reader = RequestReader()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._server.admits(transport.get_extra_info("socket")):
            transport.abort()
            return
        self._server.connections += 1
        self._deadline = asyncio.get_running_loop().call_later(DEADLINE_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._task is not None:
            return
        try:
            request = self._reader.feed(data)
        except BadValue as error:
            self._write(HttpReply(400, self._server.refuse(error)))
            return
        if request is not None:
            self._task = asyncio.get_running_loop().create_task(self._serve(request))

    async def _serve(self, request: HttpRequest) -> None:
        self._write(await self._server.handler(request))

    def _write(self, reply: HttpReply) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        head = f"HTTP/1.1 {reply.status} -\r\nContent-Type: application/json\r\nContent-Length: {len(reply.body)}\r\nConnection: close\r\n\r\n"
        self._transport.write(head.encode() + reply.body)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        # A handler that already runs goes on: what it journals is found by the runtime's retry or its DEL.
        if self._deadline is not None:
            self._deadline.cancel()
            self._server.connections -= 1


class CniSocket:
    """Listens on a unix socket that only root can open."""

    def __init__(self, path: Path, handler: Handler, refuse: Callable[[BadValue], bytes]) -> None:
        self.handler = handler
        self.refuse = refuse
        self.connections = 0
        self._path = path
        self._server: asyncio.Server | None = None

    def admits(self, peer: socket.socket) -> bool:
        """Root only, and not more than MAX_CONNECTIONS at once. The pid is 0 for peers outside our pid namespace, so it decides nothing."""
        _pid, uid, _gid = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != os.getuid() and uid != 0:
            log.warning("peer_refused", uid=uid)
            return False
        return self.connections < MAX_CONNECTIONS

    async def start(self) -> None:
        """Bind at a temporary name and rename over the old socket: a shim never sees a half-made one. Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old_mask = os.umask(0o177)
        try:
            listener.bind(str(fresh))
        finally:
            os.umask(old_mask)
        listener.listen(MAX_CONNECTIONS)
        listener.setblocking(False)
        fresh.rename(self._path)
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Connection(self), sock=listener)

    async def stop(self) -> None:
        """Accept no more; what is in flight is answered."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
