"""Each fault is proven from both sides: what the client sees, and what the upstream got."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from adapters.entropy import SeededEntropy
from e2e.cluster.faults import Delay, DropReply, FaultProxy, KillWatch, Refuse, Requests, listen
from tests.unit.faults.conftest import Upstream

SHORT = aiohttp.ClientTimeout(total=0.3)
ONCE = Requests(count=1)


async def eventually(met: Callable[[], bool], timeout_s: float = 3.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not met():  # the other side has no event to wait for
            await asyncio.sleep(0.01)


async def failure_of(request: Awaitable[object]) -> BaseException:
    with pytest.raises((aiohttp.ClientError, TimeoutError)) as caught:
        await request
    return caught.value


async def test_passes_requests_headers_and_replies(
    upstream: Upstream, proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    async with client.get("/a%2Fb?labels=x%3Dy", headers={"Authorization": "Bearer t"}) as reply:
        assert (reply.status, reply.headers["X-Kept"]) == (200, "yes")
        assert (await reply.json())["path"] == "/a%2Fb?labels=x%3Dy"
    assert upstream.headers[0]["Authorization"] == "Bearer t"
    async with client.patch("/items/1", data=b"x" * 300_000) as reply:
        assert (reply.status, await reply.json()) == (201, {"kind": "Stored"})
    assert upstream.writes == ["x" * 300_000]


async def test_speaks_tls_to_the_upstream_and_checks_its_certificate(tls_upstream: tuple[Upstream, Path]) -> None:
    upstream, ca_file = tls_upstream
    async with (
        FaultProxy(upstream.url, listen(), entropy=SeededEntropy(1), ca_file=ca_file) as trusting,
        FaultProxy(upstream.url, listen(), entropy=SeededEntropy(1)) as doubting,
        aiohttp.ClientSession() as client,
    ):
        async with client.get(trusting.url + "/x", headers={"Authorization": "Bearer t"}) as reply:
            assert reply.status == 200
        assert upstream.headers[0]["Authorization"] == "Bearer t"
        await failure_of(client.get(doubting.url + "/x"))
        assert len(upstream.headers) == 1


async def test_watch_headers_and_events_pass_at_once(upstream: Upstream, client: aiohttp.ClientSession) -> None:
    async with client.get("/items?watch=1") as reply:  # returns on the headers alone, before any event
        for event in (b"one\n", b"two\n"):
            upstream.events.put_nowait(event)
            started = time.monotonic()
            assert await reply.content.readline() == event
            assert time.monotonic() - started < 0.2


async def test_upstream_watch_ends_when_the_client_leaves(upstream: Upstream, client: aiohttp.ClientSession) -> None:
    async with client.get("/items?watch=1"):
        await eventually(lambda: upstream.watchers == 1)
    await eventually(lambda: upstream.watchers == 0)


async def test_refusal_is_a_kubernetes_status_and_is_not_forwarded(
    upstream: Upstream, proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    injection = proxy.inject(Refuse(429, retry_after_s=2), Requests(methods=frozenset({"PATCH"}), path="/ip", count=2))
    async with client.patch("/ipblocks/a", data="1") as reply:
        status = await reply.json()
        assert (reply.status, reply.headers["Retry-After"]) == (429, "2")
    assert (status["kind"], status["code"], status["reason"]) == ("Status", 429, "TooManyRequests")
    assert status["details"]["retryAfterSeconds"] == 2
    statuses = []
    for method, path in (("GET", "/ipblocks/a"), ("PATCH", "/pods/a"), ("PATCH", "/ip"), ("PATCH", "/ip")):
        async with client.request(method, path, data="2") as reply:
            statuses.append(reply.status)
    assert statuses == [200, 201, 429, 201]  # other methods and paths pass, and the bound of two was reached
    assert (injection.hits, upstream.writes) == (2, ["2", "2"])


async def test_probability_comes_from_the_injected_random_source(
    proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    injection = proxy.inject(Refuse(503), Requests(probability=0.3, count=1000))
    seen = []
    for _ in range(60):
        async with client.get("/x") as reply:
            seen.append(reply.status == 503)
    entropy = SeededEntropy(7)  # the proxy's seed
    assert seen == [entropy.uniform(0.0, 1.0) < 0.3 for _ in range(60)]
    assert 0 < injection.hits == sum(seen) < 60


async def test_delay_has_a_fixed_part_and_jitter(proxy: FaultProxy, client: aiohttp.ClientSession) -> None:
    proxy.inject(Delay(0.2, jitter_s=0.1), ONCE)
    started = time.monotonic()
    async with client.get("/x") as reply:
        assert reply.status == 200
    delayed = time.monotonic()
    async with client.get("/x"):
        pass
    assert 0.2 <= delayed - started < 1.0
    assert time.monotonic() - delayed < 0.15


async def test_faults_compose_in_the_order_of_injection(proxy: FaultProxy, client: aiohttp.ClientSession) -> None:
    proxy.inject(Delay(0.2), ONCE)
    refusal = proxy.inject(Refuse(500), ONCE)
    never_reached = proxy.inject(DropReply(), ONCE)
    started = time.monotonic()
    async with client.get("/x") as reply:
        assert reply.status == 500
    assert time.monotonic() - started >= 0.2
    assert (refusal.hits, never_reached.hits) == (1, 0)


async def test_dropped_reply_was_applied_and_client_sees_a_reset(
    upstream: Upstream, proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    proxy.inject(DropReply("reset"), ONCE)
    failure = await failure_of(client.post("/items", data="applied"))
    assert isinstance(failure, aiohttp.ClientOSError)  # ECONNRESET, not an orderly end
    assert upstream.writes == ["applied"]
    async with client.post("/items", data="next") as reply:
        assert reply.status == 201


async def test_dropped_reply_was_applied_and_client_sees_silence(
    upstream: Upstream, proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    proxy.inject(DropReply("silence"), ONCE)
    assert isinstance(await failure_of(client.post("/items", data="applied", timeout=SHORT)), TimeoutError)
    assert upstream.writes == ["applied"]


async def test_cut_resets_streams_and_refuses_connections_until_it_ends(
    upstream: Upstream, proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    async with client.get("/items?watch=1") as watch:
        await eventually(lambda: upstream.watchers == 1)
        proxy.cut(seconds=0.4)
        await failure_of(watch.content.readline())
        assert isinstance(await failure_of(client.post("/items", data="lost")), aiohttp.ClientConnectorError)
        await asyncio.sleep(0.6)
        async with client.post("/items", data="kept") as reply:
            assert reply.status == 201
    assert upstream.writes == ["kept"]
    await eventually(lambda: upstream.watchers == 0)


async def test_black_hole_keeps_connections_open_and_passes_nothing(
    upstream: Upstream, proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    async with client.get("/items?watch=1") as watch:
        await eventually(lambda: upstream.watchers == 1)
        proxy.black_hole(seconds=1.0)
        upstream.events.put_nowait(b"late\n")
        # New connections are accepted, the request is taken, and nothing comes back.
        assert isinstance(await failure_of(client.post("/items", data="given up", timeout=SHORT)), TimeoutError)
        late = asyncio.create_task(watch.content.readline())
        await asyncio.sleep(0.1)
        assert (late.done(), upstream.writes) == (False, [])
        assert await late == b"late\n"  # as TCP delivers late what it has resent
    assert upstream.writes == []  # the client of that write had gone


async def test_killed_watch_stays_open_and_silent_for_good(
    upstream: Upstream, proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    async with client.get("/items?watch=1") as dead:
        await eventually(lambda: upstream.watchers == 1)
        injection = proxy.inject(KillWatch(), Requests(path="watch=1", seconds=0.1))
        await asyncio.sleep(0.2)  # the fault ends; the stream does not come back
        upstream.events.put_nowait(b"never\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await dead.content.readline()
    assert injection.hits == 1
    await eventually(lambda: upstream.watchers == 0)
    async with client.get("/items?watch=1") as alive:
        upstream.events.put_nowait(b"seen\n")
        assert await alive.content.readline() == b"seen\n"


async def test_killed_watch_meets_streams_that_start_while_it_is_in_force(
    upstream: Upstream, proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    proxy.inject(KillWatch(), Requests(path="watch=1", count=1))
    async with client.get("/items?watch=1") as dead:
        upstream.events.put_nowait(b"never\n")
        read = asyncio.create_task(dead.content.readline())
        await asyncio.sleep(0.2)
        assert not read.done()
        proxy.heal()  # ends even the dead stream
        assert isinstance(await failure_of(read), aiohttp.ClientError)


async def test_heal_ends_every_fault(upstream: Upstream, proxy: FaultProxy, client: aiohttp.ClientSession) -> None:
    proxy.inject(Refuse(503), Requests(seconds=60))
    proxy.black_hole(seconds=60)
    proxy.cut(seconds=60)
    proxy.heal()
    async with client.post("/items", data="1") as reply:
        assert reply.status == 201


async def test_fault_ends_with_its_time(proxy: FaultProxy, client: aiohttp.ClientSession) -> None:
    proxy.inject(Refuse(500), Requests(seconds=0.2))
    statuses = []
    for pause in (0.3, 0.0):
        async with client.get("/x") as reply:
            statuses.append(reply.status)
        await asyncio.sleep(pause)
    assert statuses == [500, 200]


async def test_client_is_reset_when_the_upstream_is_down(client: aiohttp.ClientSession, proxy: FaultProxy) -> None:
    gone = listen()
    url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    gone.close()
    async with FaultProxy(url, listen(), entropy=SeededEntropy(1)) as lonely:
        assert isinstance(await failure_of(client.get(lonely.url + "/x")), aiohttp.ClientOSError)


async def test_stop_ends_open_streams(upstream: Upstream) -> None:
    proxy = FaultProxy(upstream.url, listen(), entropy=SeededEntropy(1))
    await proxy.start()
    async with aiohttp.ClientSession() as client, client.get(proxy.url + "/items?watch=1") as watch:
        started = time.monotonic()
        await proxy.stop()
        await proxy.stop()
        assert time.monotonic() - started < 1.0
        await failure_of(watch.content.readline())
        await failure_of(client.get(proxy.url))
    await eventually(lambda: upstream.watchers == 0)


@pytest.mark.parametrize("bad", [{}, {"count": 1, "probability": 1.5}])
def test_a_fault_without_a_bound_or_with_an_impossible_chance_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"bound|probability"):
        Requests(**bad)  # type: ignore[arg-type]
