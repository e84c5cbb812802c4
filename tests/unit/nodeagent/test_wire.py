"""The CNI socket as a peer sees it: real unix sockets, a handler of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ipam.errors import BadValue
from nodeagent import wire
from nodeagent.wire import CniSocket, HttpReply, HttpRequest

REQUEST = b"POST /cni HTTP/1.1\r\nHost: nephila\r\nCni-Command: ADD\r\nContent-Length: 2\r\n\r\n{}"
BIG = 4 * 1024 * 1024  # more than a unix socket takes at once


class Served:
    """Answers by what `Cni-Command` says, and keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[HttpRequest] = []
        self.told: list[int] = []
        self.gate = asyncio.Event()

    def answer(self, request: HttpRequest) -> HttpReply | Awaitable[HttpReply]:
        self.seen.append(request)
        match request.headers.get("command"):
            case "WAIT":
                return self._later()
            case "BIG":
                return HttpReply(200, b"x" * BIG)
            case _:
                return HttpReply(200, b"{}")

    async def _later(self) -> HttpReply:
        await self.gate.wait()
        return HttpReply(200, b'{"late":1}')


@asynccontextmanager
async def listening(place: Path) -> AsyncIterator[tuple[CniSocket, Served]]:
    served = Served()
    door = CniSocket(
        place / "s.sock",
        served.answer,
        lambda error: str(error).encode(),
        lambda: served.told.append(len(served.seen)),
    )
    await door.start()
    try:
        yield door, served
    finally:
        await door.stop()


async def ask(place: Path, *pieces: bytes) -> bytes:
    """What the peer reads until the server hangs up."""
    reader, writer = await asyncio.open_unix_connection(place / "s.sock")
    for number, piece in enumerate(pieces):
        if number:
            await asyncio.sleep(0.02)
        writer.write(piece)
        await writer.drain()
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


def as_command(command: bytes) -> bytes:
    return REQUEST.replace(b"ADD", command)


async def test_a_request_is_answered_and_the_connection_closed(tmp_path: Path) -> None:
    async with listening(tmp_path) as (door, served):
        answer = await ask(tmp_path, REQUEST)
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n{}")
        assert (served.seen[0].headers["command"], served.seen[0].body) == ("ADD", b"{}")
        assert not door.open


async def test_a_request_may_come_in_pieces(tmp_path: Path) -> None:
    async with listening(tmp_path) as (door, served):
        answer = await ask(tmp_path, REQUEST[:10], REQUEST[10:60], REQUEST[60:])
        assert answer.endswith(b"{}")
        assert len(served.seen) == 1
        assert not door.open


async def test_who_waits_does_not_keep_others_waiting(tmp_path: Path) -> None:
    async with listening(tmp_path) as (door, served):
        late = asyncio.create_task(ask(tmp_path, as_command(b"WAIT")))
        while not door.open:
            await asyncio.sleep(0.005)
        assert (await ask(tmp_path, REQUEST)).endswith(b"{}")
        served.gate.set()
        assert (await late).endswith(b'{"late":1}')
        assert not door.open


async def test_what_is_left_to_do_is_done_after_each_reply(tmp_path: Path) -> None:
    async with listening(tmp_path) as (_door, served):
        await ask(tmp_path, REQUEST)
        served.gate.set()
        await ask(tmp_path, as_command(b"WAIT"))
        assert served.told == [1, 2]


async def test_a_reply_larger_than_the_buffer_arrives_whole(tmp_path: Path) -> None:
    async with listening(tmp_path) as (door, _served):
        answer = await ask(tmp_path, as_command(b"BIG"))
        assert len(answer.partition(b"\r\n\r\n")[2]) == BIG
        assert not door.open


@pytest.mark.parametrize("request_", [b"\x16\x03\x01 not http\r\n\r\n", b"GARBAGE\r\n\r\n"])
async def test_what_is_not_http_is_refused(tmp_path: Path, request_: bytes) -> None:
    async with listening(tmp_path) as (door, served):
        answer = await ask(tmp_path, request_)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"is not HTTP" in answer
        assert not served.seen and not door.open


def flood(path: Path) -> bytes:
    """Send without end until the server hangs up; what it said."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(str(path))
        peer.sendall(REQUEST.replace(b"Content-Length: 2", b"Content-Length: 9999999"))
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                peer.sendall(b" " * 16384)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := peer.recv(65536):
                answer += chunk
    return answer


async def test_a_request_without_end_is_refused_at_its_bound(tmp_path: Path) -> None:
    async with listening(tmp_path) as (door, served):
        assert b"is larger than" in await asyncio.to_thread(flood, tmp_path / "s.sock")
        assert not served.seen and not door.open


async def test_silence_ends_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "DEADLINE_S", 0.05)
    async with listening(tmp_path) as (door, _served):
        assert await ask(tmp_path, REQUEST[:20]) == b""
        assert await ask(tmp_path, as_command(b"WAIT")) == b""
        assert not door.open


async def test_a_peer_that_hangs_up_leaves_nothing_behind(tmp_path: Path) -> None:
    async with listening(tmp_path) as (door, served):
        for pieces in (b"", REQUEST[:20], as_command(b"WAIT"), as_command(b"BIG")):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(tmp_path / "s.sock"))
                peer.sendall(pieces)
                await asyncio.sleep(0.02)
        served.gate.set()
        async with asyncio.timeout(5):
            while door.open:
                await asyncio.sleep(0.005)
        assert (await ask(tmp_path, REQUEST)).endswith(b"{}")


async def test_more_connections_than_allowed_are_closed_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_CONNECTIONS", 3)
    async with listening(tmp_path) as (door, served):
        waiting = [asyncio.create_task(ask(tmp_path, as_command(b"WAIT"))) for _ in range(3)]
        while len(door.open) < 3:
            await asyncio.sleep(0.005)
        refused = b""
        with contextlib.suppress(ConnectionError):  # it hangs up before or after we have written
            refused = await ask(tmp_path, REQUEST)
        assert not refused and len(served.seen) == 3
        served.gate.set()
        assert all(answer.endswith(b'{"late":1}') for answer in await asyncio.gather(*waiting))


async def test_only_root_is_served(tmp_path: Path) -> None:
    """The file's mode keeps others out; should it be opened by mistake, the peer's credentials still do."""
    if os.getuid() != 0:
        pytest.skip("needs root to become somebody else")
    program = (
        "import os, socket, sys; os.chdir(sys.argv[1]); os.setgid(65534); os.setuid(65534)\n"
        "peer = socket.socket(socket.AF_UNIX); peer.connect('s.sock'); peer.sendall(sys.argv[2].encode())\n"
        "sys.stdout.buffer.write(b'said:' + peer.recv(99))"
    )
    async with listening(tmp_path) as (_door, served):
        path = tmp_path / "s.sock"
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o666)
        tmp_path.chmod(0o711)
        command = [sys.executable, "-c", program, str(tmp_path), REQUEST.decode()]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=20, check=False)
        # The agent hung up before it read anything: the peer sees that when it writes, or when it reads.
        hung_up = any(word in done.stderr for word in (b"ConnectionResetError", b"BrokenPipeError"))
        assert done.stdout == b"said:" or hung_up, done
        assert not served.seen


async def test_a_stopped_socket_answers_what_it_has_accepted(tmp_path: Path) -> None:
    async with listening(tmp_path) as (door, served):
        late = asyncio.create_task(ask(tmp_path, as_command(b"WAIT")))
        while not door.open:
            await asyncio.sleep(0.005)
        await door.stop()
        assert not (tmp_path / "s.sock").exists()
        served.gate.set()
        assert (await late).endswith(b'{"late":1}')


def test_a_spooled_request_that_is_cut_short_is_no_request() -> None:
    assert wire.RequestReader().feed(REQUEST[:-1]) is None
    with pytest.raises(BadValue, match="is not HTTP"):
        wire.RequestReader().feed(b"POST /cni HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(100)) + b"\r\n")
