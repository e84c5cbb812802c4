"""The page's HTTP: read-only, bounded, and honest about who leads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from crds.core import POD
from crds.nephila import IP_BLOCK
from crds.spiderpool import ENDPOINT
from leader.page import changes
from leader.page.server import PageServer
from leader.sight import Sight
from tests.browser.world import World, others, served, small


class Standby:
    """A candidate that does not lead."""

    def sight(self) -> Sight | None:
        return None

    def leader(self) -> str:
        return "node-7-ab"


@pytest.fixture
def world() -> World:
    made = World()
    small(made)
    others(made)
    return made


@pytest_asyncio.fixture
async def http(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    async with served(world) as page, aiohttp.ClientSession(f"http://127.0.0.1:{page.port}") as session:
        yield session


async def answer(http: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    async with http.get(path) as response:
        assert response.status == status, await response.text()
        assert response.headers["Cache-Control"] == "no-store"
        return await response.json()


async def test_only_reading_is_possible(http: aiohttp.ClientSession) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        for path in ("/", "/api/pools", "/api/pools/tiny"):
            async with http.request(method, path) as response:
                assert response.status == 405
    async with http.head("/") as response:
        assert response.status == 200


async def test_every_answer_carries_the_security_headers(http: aiohttp.ClientSession) -> None:
    for path in ("/", "/page.js", "/api/pools", "/api/pools/none", "/nothing", "/api/search?q=x"):
        async with http.get(path) as response:
            assert response.headers["Content-Security-Policy"].startswith("default-src 'self'")
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "aiohttp" not in response.headers["Server"]


async def test_static_files_need_nothing_from_elsewhere_and_are_revalidated(http: aiohttp.ClientSession) -> None:
    for path in ("/", "/page.css", "/page.js", "/grid.js", "/texts.js", "/icon.svg"):
        async with http.get(path) as response:
            text = (await response.text()).replace("http://www.w3.org/2000/svg", "")
            assert response.status == 200 and "://" not in text
    async with (
        http.get("/page.js") as first,
        http.get("/page.js", headers={"If-None-Match": first.headers["ETag"]}) as second,
    ):
        assert second.status == 304


async def test_a_pool_and_its_addresses(http: aiohttp.ClientSession) -> None:
    names = [pool["name"] for pool in (await answer(http, "/api/pools"))["pools"]]
    assert names == ["broken", "busy", "edge", "tiny", "v6"]
    tiny = await answer(http, "/api/pools/tiny")
    assert (tiny["states"], tiny["spans"]) == ("a3wcpqsfr", [["10.6.0.10", 10]])
    part = await answer(http, "/api/pools/tiny?first=4&count=3")
    assert (part["states"], part["previous"], part["next"]) == ("cpq", "1", "7")
    pod = await answer(http, "/api/pools/tiny/10.6.0.11")
    told = (pod["state"], pod["pod"], pod["node"], pod["mac"], pod["interface"], pod["owner"], pod["lease"])
    assert told == ("allocated", "shop/web-1", "node-1", "02:42:0a:06:00:0b", "eth0", "Deployment web", "node-1")
    assert (await answer(http, "/api/pools/tiny/10.6.0.15"))["pin"] == "StatefulSet shop/db-0 eth0"
    assert (await answer(http, "/api/pools/tiny/10.6.0.16"))["conflicts"][0]["mac"] == "52:54:00:aa:bb:cc"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/pools/none", 404),
        ("/api/pools/tiny?first=-1", 400),
        ("/api/pools/tiny?count=many", 400),
        ("/api/pools/tiny/nonsense", 400),
        (f"/api/search?q={'x' * 201}", 400),
    ],
)
async def test_a_refusal_says_why(http: aiohttp.ClientSession, path: str, status: int) -> None:
    assert (await answer(http, path, status))["message"]


@pytest.mark.parametrize(
    ("query", "kind", "found"),
    [
        ("10.6.0.12", "address", ["10.6.0.12"]),
        ("10.7.0", "address", ["10.7.0.10"]),
        ("10.8.0.0/25", "address", ["10.8.0.1"]),
        ("fd00:6::5", "address", ["fd00:6::5"]),
        ("web-2", "pod", ["10.6.0.12"]),
        ("shop/web", "pod", ["10.6.0.10", "10.6.0.11", "10.6.0.12"]),
        ("02-42-0A-06-00-0B", "mac", ["10.6.0.11"]),
        ("52:54:00", "conflict", ["10.6.0.16"]),
        ("node-1", "node", ["10.6.0.10"]),
        ("nobody", "", []),
        ("", "", []),
        ("300.1.1.", "", []),
    ],
)
async def test_search(http: aiohttp.ClientSession, query: str, kind: str, found: list[str]) -> None:
    matches = (await answer(http, f"/api/search?q={query}"))["matches"]
    assert sorted(match["address"] for match in matches) == found
    assert {match["kind"] for match in matches} == ({kind} if kind else set())


async def test_a_pod_without_endpoint_counts_too(http: aiohttp.ClientSession, world: World) -> None:
    world.make(POD, metadata={"name": "bare", "namespace": "shop"}, spec={"nodeName": "node-2"})
    world.status(POD, "bare", "shop", phase="Running", podIPs=[{"ip": "10.6.0.18"}])
    async with asyncio.timeout(20):
        while (await answer(http, "/api/pools/tiny"))["states"] != "a3wcpqsar":
            await asyncio.sleep(0.1)
    assert (await answer(http, "/api/pools/tiny/10.6.0.18"))["node"] == "node-2"
    assert (await answer(http, "/api/search?q=bare"))["matches"][0]["address"] == "10.6.0.18"


async def next_event(stream: aiohttp.ClientResponse, within_s: float = 20.0) -> list[str]:
    async with asyncio.timeout(within_s):
        while True:
            line = (await stream.content.readline()).decode()
            if line.startswith("data: ["):
                return sorted(line.removeprefix("data: ")[1:-2].replace('"', "").split(","))


async def test_changes_are_told_once_for_many(http: aiohttp.ClientSession, world: World) -> None:
    await answer(http, "/api/pools")
    async with http.get("/api/changes") as stream:
        assert stream.content_type == "text/event-stream"
        with suppress(TimeoutError):  # what was new at the first look, and what the leader writes into new pools
            while await next_event(stream, 3.0):
                pass
        for index in range(30):
            world.endpoint(f"e{index}", f"10.8.0.{170 + index}", "busy", "node-2", f"e{index}", "e")
        assert await next_event(stream) == ["busy"]
        assert (await answer(http, "/api/pools/busy"))["pool"]["allocated"] == 194
        for index in range(30):
            world.memory.delete(ENDPOINT, ("shop", f"e{index}"), uid="", resource_version="")
        world.memory.delete(IP_BLOCK, ("", "ip4-10-6-0-0"), uid="", resource_version="")
        told: set[str] = set()
        while told != {"busy", "tiny"}:
            told |= set(await next_event(stream))
    assert (await answer(http, "/api/pools/tiny"))["states"] == "a3f3qf2r"


async def test_there_are_only_so_many_watchers(http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MAX_CLIENTS", 2)
    async with http.get("/api/changes") as one, http.get("/api/changes") as two:
        assert (one.status, two.status) == (200, 200)
        async with http.get("/api/changes") as three:
            assert three.status == 503


async def test_a_standby_says_who_leads(world: World) -> None:
    page = PageServer("127.0.0.1:0", Standby(), world.store, world.clock)
    await page.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{page.port}") as http:
            for path in ("/api/pools", "/api/pools/tiny", "/api/search?q=x", "/api/changes"):
                told = await answer(http, path, 503)
                assert (told["error"], told["leader"]) == ("not-leading", "node-7-ab")
    finally:
        await page.stop()
