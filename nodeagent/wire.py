"""The unix socket of the CNI shim: HTTP/1.1, one request per connection (docs/architecture.md, "The CNI socket protocol").

Bounds: root peers only (SO_PEERCRED), 64 KiB a body, 64 headers, a deadline per connection, a cap on connections. The parser is httptools
(llhttp); a full web framework would cost more than the allocation itself, and nothing of it is needed here.

The socket is served without asyncio's streams, which take five turns of the loop and a task for what is here one call: the request is normally there
when the connection is, and most are answered without waiting. So accept, read, answer and close happen in one turn; whatever has to wait (the rest
of a request, a handler that waits, a full buffer) becomes a watched descriptor or a task, with a deadline.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import httptools
import msgspec
import structlog

from ipam.errors import BadValue

log = structlog.get_logger(__name__)

MAX_BODY = 64 * 1024
MAX_HEADERS = 64
MAX_HEADER_BYTES = 64 * 1024  # six CNI variables of up to 8,000 bytes each
MAX_CONNECTIONS = 1024
DEADLINE_S = 30.0
REST_S = 1.0  # how long nothing is accepted after the system had no descriptor or memory for it
FIRST_READ, LATER_READ = 16 * 1024, 128 * 1024
PROTOCOL_VERSIONS = ("1",)
_SHIM_HEADERS = {  # as our shim writes them; any other spelling is as good, and slower
    f"Cni-{name.capitalize()}".encode(): name for name in ("command", "containerid", "netns", "ifname", "args", "path")
}
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class HttpRequest(msgspec.Struct, frozen=True):
    """`headers`: lower-case names; the `cni-` ones without their prefix."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class HttpReply(msgspec.Struct, frozen=True):
    status: int
    body: bytes


Handler = Callable[[HttpRequest], HttpReply | Awaitable[HttpReply]]
"""A reply, or what must be awaited for it. Never raises."""


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
        known = _SHIM_HEADERS.get(name) or name.decode("latin-1").lower().removeprefix("cni-")
        self._headers[known] = value.decode("utf-8", "surrogateescape")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        self.request = HttpRequest(method, self._url.decode("latin-1"), self._headers, bytes(self._body))


class _Exchange:
    """One connection: one request, one reply, close. Nothing of it is watched while its handler works."""

    __slots__ = ("_deadline", "_loop", "_peer", "_reader", "_rest", "_server", "_task")

    def __init__(self, server: CniSocket, peer: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._peer = peer
        self._loop = loop
        self._reader = RequestReader()
        self._rest = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Read what is there. Mostly it is the whole request, and the answer follows at once."""
        if self._read(FIRST_READ):
            self._hold()
            self._loop.add_reader(self._peer, self._read, LATER_READ)

    def _read(self, size: int) -> bool:
        """True if more is to come."""
        try:
            data = self._peer.recv(size, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            data = b""
        if not data:
            self.end()
            return False
        try:
            request = self._reader.feed(data)
        except BadValue as error:
            self._reply(HttpReply(400, self._server.refuse(error)))
            return False
        if request is None:
            return True
        if self._deadline is not None:
            self._loop.remove_reader(self._peer)
        answer = self._server.handler(request)
        if isinstance(answer, HttpReply):
            self._reply(answer)
        else:
            self._hold()
            # A handler that runs goes on when the peer is gone: what it journals is found by the runtime's retry or its DEL.
            self._task = self._loop.create_task(self._reply_later(answer))
        return False

    async def _reply_later(self, answer: Awaitable[HttpReply]) -> None:
        self._reply(await answer)

    def _reply(self, reply: HttpReply) -> None:
        if self._peer.fileno() >= 0:
            self._rest = (
                b"HTTP/1.1 %d -\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
                % (
                    reply.status,
                    len(reply.body),
                    reply.body,
                )
            )
            if self._write():
                self._hold()
                self._loop.remove_reader(self._peer)
                self._loop.add_writer(self._peer, self._write)
        self._server.replied()

    def _write(self) -> bool:
        """True if the peer must take some of it first."""
        try:
            self._rest = self._rest[self._peer.send(self._rest, socket.MSG_DONTWAIT) :]
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            self._rest = b""  # it hung up
        if self._rest:
            return True
        self.end()
        return False

    def _hold(self) -> None:
        """It takes longer than this turn: bounded from now on."""
        if self._deadline is None:
            self._deadline = self._loop.call_later(DEADLINE_S, self.end)
            self._server.open.add(self)

    def end(self) -> None:
        """Hang up."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._server.open.discard(self)
            if self._peer.fileno() >= 0:
                self._loop.remove_reader(self._peer)
                self._loop.remove_writer(self._peer)
        self._peer.close()


class CniSocket:
    """Listens on a unix socket that only root can open. `replied` is called after each reply was sent, for what its handler left to be done."""

    def __init__(
        self,
        path: Path,
        handler: Handler,
        refuse: Callable[[BadValue], bytes],
        replied: Callable[[], None] = lambda: None,
    ) -> None:
        self.handler = handler
        self.refuse = refuse
        self.replied = replied
        self.open: set[_Exchange] = set()
        self._welcome = (0, os.getuid())
        self._path = path
        self._listener: socket.socket | None = None

    def _admits(self, peer: socket.socket) -> bool:
        """Root only, and not more than MAX_CONNECTIONS at once. The pid is 0 for peers outside our pid namespace, so it decides nothing."""
        _pid, uid, _gid = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid not in self._welcome:
            log.warning("peer_refused", uid=uid)
            return False
        return len(self.open) < MAX_CONNECTIONS

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
        self._listener = listener
        self._watch()

    def _watch(self) -> None:
        if self._listener is not None:
            loop = asyncio.get_running_loop()
            loop.add_reader(self._listener, self._accept, self._listener, loop)

    def _accept(self, listener: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        """One connection a turn: the loop comes back for the next, and everybody else has a turn in between."""
        try:
            peer, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except (
            OSError
        ) as error:  # no descriptor or memory left: a listener that stays readable must not make the loop spin
            log.error("accept_failed", error=str(error))
            loop.remove_reader(listener)
            loop.call_later(REST_S, self._watch)
            return
        if self._admits(peer):
            _Exchange(self, peer, loop).begin()
        else:
            peer.close()

    async def stop(self) -> None:
        """Accept no more; what is in flight is answered."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)
