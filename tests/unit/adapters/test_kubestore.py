"""`KubeStore` and its transport against a real socket that answers, or fails, as told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from adapters.clock import ManualClock
from adapters.entropy import SeededEntropy
from adapters.kube.kubestore import KubeStore
from adapters.kube.store import Conflict, Exists, Gone, Missing, Refused, Rejected, Stored, Unknown, Unreachable
from adapters.kube.transport import Explicit, HTTPTransport, Timeouts, connect
from crds.meta import ObjectMeta
from crds.nephila import IP_BLOCK, IPBlock, IPBlockSpec

Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]
BLOCK: dict[str, Any] = {
    "apiVersion": "nephila.io/v1alpha1",
    "kind": "IPBlock",
    "metadata": {"name": "b", "uid": "u", "resourceVersion": "7"},
    "spec": {"page": "10.6.0.0/26", "epoch": 1, "term": 0},
}


def status(code: int, reason: str, name: str = "") -> dict[str, Any]:
    return {
        "kind": "Status",
        "code": code,
        "reason": reason,
        "message": reason,
        "details": {"name": name} if name else None,
    }


def answer(code: int, body: object, **headers: str) -> Reply:
    async def reply(writer: asyncio.StreamWriter) -> None:
        payload = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {code} X\r\n{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        await writer.drain()

    return reply


async def cut(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


class Script:
    """An HTTP server that gives one prepared reply per request and records the requests."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.url = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while line := await reader.readline():
                method, path, _ = line.decode().split()
                headers = {}
                while (header := (await reader.readline()).decode().strip()) != "":
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append((method, path, headers, json.loads(body) if body else None))
                await self.replies.pop(0)(writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    server = Script()
    await server.open()
    yield server
    await server.close()


class QuickClock(ManualClock):
    """Sleeping takes no real time, but moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._move(self.now() + seconds)
        await asyncio.sleep(0)


@pytest.fixture
async def transport(script: Script) -> AsyncIterator[HTTPTransport]:
    made = await connect(Explicit(script.url, token="secret"), component="agent", version="1.2")
    yield made
    await made.close()


@pytest.fixture
def clock() -> QuickClock:
    return QuickClock()


@pytest.fixture
def store(transport: HTTPTransport, clock: QuickClock) -> KubeStore:
    return KubeStore(transport, clock, SeededEntropy(1), timeouts=Timeouts(0.2, 0.3))


def new() -> IPBlock:
    return IPBlock(metadata=ObjectMeta(name="b"), spec=IPBlockSpec(page="10.6.0.0/26", epoch=1, term=0))


async def test_requests_carry_who_asks_and_the_version_expected(script: Script, store: KubeStore) -> None:
    script.replies = [answer(200, BLOCK)]
    outcome = await store.patch(IP_BLOCK, "b", {"spec": {"epoch": 2}}, resource_version="6")
    assert isinstance(outcome, Stored)
    method, path, headers, body = script.requests[0]
    assert (method, path) == ("PATCH", "/apis/nephila.io/v1alpha1/ipblocks/b")
    assert headers["content-type"] == "application/merge-patch+json"
    assert headers["user-agent"] == "nephila-agent/1.2"
    assert headers["authorization"] == "Bearer secret"
    assert body == {"spec": {"epoch": 2}, "metadata": {"resourceVersion": "6"}}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (answer(409, status(409, "Conflict")), Conflict("Conflict")),
        (answer(404, status(404, "NotFound", "b")), Missing()),
        (answer(404, status(404, "NotFound")), Refused(404, "NotFound", "NotFound")),
        (answer(404, "404 page not found"), Refused(404, "", "404 page not found")),
        (answer(422, status(422, "Invalid")), Refused(422, "Invalid", "Invalid")),
        (answer(403, status(403, "Forbidden")), Refused(403, "Forbidden", "Forbidden")),
        (answer(500, status(500, "ServerTimeout")), Unknown("500 ServerTimeout: ServerTimeout")),
        (answer(504, status(504, "Timeout")), Unknown("504 Timeout: Timeout")),
        (answer(503, "no healthy upstream"), Unknown("503 : no healthy upstream")),
    ],
)
async def test_what_an_answer_to_a_write_proves(
    script: Script, store: KubeStore, reply: Reply, expected: object
) -> None:
    script.replies = [reply]
    assert await store.patch(IP_BLOCK, "b", {}) == expected
    assert len(script.requests) == 1


@pytest.mark.parametrize("reply", [cut, silence])
async def test_a_write_without_an_answer_is_unknown_and_sent_once(
    script: Script, store: KubeStore, reply: Reply
) -> None:
    script.replies = [reply, reply, reply]
    for outcome in (
        await store.patch(IP_BLOCK, "b", {}),
        await store.create(IP_BLOCK, new()),
        await store.delete(IP_BLOCK, "b"),
    ):
        assert isinstance(outcome, Unknown)
    assert [method for method, _, _, _ in script.requests] == ["PATCH", "POST", "DELETE"]


async def test_a_delete_on_a_connection_that_breaks_after_reuse_is_not_sent_twice(
    script: Script, store: KubeStore
) -> None:
    script.replies = [answer(200, BLOCK), cut, answer(404, status(404, "NotFound", "b"))]
    assert await store.get(IP_BLOCK, "b") is not None
    assert isinstance(await store.delete(IP_BLOCK, "b"), Unknown)
    assert len(script.requests) == 2


async def test_an_unreadable_answer_to_a_write_is_unknown(script: Script, store: KubeStore) -> None:
    script.replies = [answer(200, BLOCK | {"spec": {"page": 5}})]
    assert isinstance(await store.patch(IP_BLOCK, "b", {}), Unknown)


async def test_writes_turned_away_are_repeated_as_the_server_asks(
    script: Script, store: KubeStore, clock: QuickClock
) -> None:
    busy = answer(429, status(429, "TooManyRequests"), Retry_After="2")
    script.replies = [busy, answer(503, status(503, "ServiceUnavailable")), answer(409, status(409, "AlreadyExists"))]
    assert await store.create(IP_BLOCK, new()) == Exists()
    assert 2.0 <= clock.slept[0] <= 2.2
    assert clock.slept[1] <= 0.4


async def test_the_retry_budget_ends_and_a_longer_wait_is_not_begun(
    script: Script, store: KubeStore, clock: QuickClock
) -> None:
    busy = answer(429, status(429, "TooManyRequests"), Retry_After="3600")
    script.replies = [busy, busy]
    assert await store.patch(IP_BLOCK, "b", {}) == Refused(429, "TooManyRequests", "TooManyRequests")
    assert clock.slept == []
    script.replies = [answer(429, status(429, "TooManyRequests"))] * 9
    assert isinstance(await store.patch(IP_BLOCK, "b", {}), Refused)
    assert len(script.requests) == 1 + 5


async def test_a_refused_connection_is_known_not_to_have_written(script: Script, store: KubeStore) -> None:
    await script.close()
    outcome = await store.patch(IP_BLOCK, "b", {})
    assert isinstance(outcome, Refused)
    assert outcome.status == 0
    with pytest.raises(Unreachable):
        await store.get(IP_BLOCK, "b")
    await script.open()


async def test_reads_are_repeated_after_anything_that_may_pass(script: Script, store: KubeStore) -> None:
    script.replies = [cut, answer(500, "oops"), silence, answer(200, BLOCK)]
    assert await store.get(IP_BLOCK, "b") is not None
    assert len(script.requests) == 4


async def test_a_kind_that_is_not_installed_is_not_taken_for_an_absent_object(script: Script, store: KubeStore) -> None:
    script.replies = [answer(404, "404 page not found"), answer(404, status(404, "NotFound", "b"))]
    with pytest.raises(Rejected):
        await store.get(IP_BLOCK, "b")
    assert await store.get(IP_BLOCK, "b") is None


async def test_one_object_that_does_not_decode_does_not_fail_the_list(
    script: Script, transport: HTTPTransport, clock: QuickClock
) -> None:
    told = []
    store = KubeStore(
        transport, clock, SeededEntropy(1), on_unreadable=lambda kind, key, error: told.append((kind.kind, key))
    )
    bad = BLOCK | {"metadata": {"name": "bad"}, "spec": {"page": 5}}
    script.replies = [answer(200, {"metadata": {"resourceVersion": "9"}, "items": [BLOCK, bad]})]
    listing = await store.list(IP_BLOCK)
    assert [item.name for item in listing.items] == ["b"]
    assert listing.unreadable == (("", "bad"),)
    assert told == [("IPBlock", ("", "bad"))]


async def test_pages_are_joined_and_an_expired_continue_token_starts_the_list_anew(
    script: Script, store: KubeStore
) -> None:
    first = answer(200, {"metadata": {"resourceVersion": "9", "continue": "t/1"}, "items": [BLOCK]})
    last = answer(200, {"metadata": {"resourceVersion": "9"}, "items": [BLOCK | {"metadata": {"name": "c"}}]})
    script.replies = [first, answer(410, status(410, "Expired")), first, last]
    listing = await store.list(IP_BLOCK, labels="a in (b,c)")
    assert [item.name for item in listing.items] == ["b", "c"]
    asked = [path for _, path, _, _ in script.requests]
    assert asked[0].endswith("ipblocks?labelSelector=a+in+%28b%2Cc%29&limit=500")
    assert asked[1].endswith("&limit=500&continue=t%2F1")
    assert asked[2] == asked[0]


def stream(*lines: object) -> Reply:
    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        payload = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        for at in range(0, len(payload), 50):
            chunk = payload[at : at + 50]
            writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    return reply


async def test_a_watch_joins_pieces_passes_by_unreadable_objects_and_tells_expiry(
    script: Script, store: KubeStore
) -> None:
    bad = BLOCK | {"metadata": {"name": "bad", "resourceVersion": "8"}, "spec": {"page": 5}}
    script.replies = [
        stream(
            {"type": "ADDED", "object": BLOCK},
            {"type": "MODIFIED", "object": bad},
            {"type": "BOOKMARK", "object": {"kind": "IPBlock", "metadata": {"resourceVersion": "12"}}},
            {"type": "ERROR", "object": status(410, "Expired")},
        )
    ]
    seen: list[tuple[str, str | None, str, str]] = []
    with pytest.raises(Gone):
        async for event in store.watch(IP_BLOCK, resource_version="5", timeout_s=300.4):
            name = event.object.name if event.object else None
            seen += [(event.type.value, name, event.resource_version, event.key[1])]
    assert seen == [("ADDED", "b", "7", "b"), ("MODIFIED", None, "8", "bad"), ("BOOKMARK", None, "12", "")]
    assert "allowWatchBookmarks=true&resourceVersion=5&timeoutSeconds=300" in script.requests[0][1]


async def test_a_watch_that_is_cut_or_refused_says_so(script: Script, store: KubeStore) -> None:
    script.replies = [cut, answer(410, status(410, "Expired")), answer(403, status(403, "Forbidden"))]
    for expected in (Unreachable, Gone, Rejected):
        with pytest.raises(expected):
            async for _ in store.watch(IP_BLOCK, resource_version="5", timeout_s=5):
                pass
