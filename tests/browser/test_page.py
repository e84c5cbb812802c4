"""The page in Debian's Chromium: real clicks and key strokes, at the width of a phone and of a desk. Screenshots stay in build/browser."""

from __future__ import annotations

from typing import Any

import pytest

from crds.spiderpool import ENDPOINT, IP_POOL
from leader.page.server import PageServer
from tests.browser.chromium import Browser
from tests.browser.conftest import SHOTS
from tests.browser.world import World, served

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

WIDE, PHONE = (1440, 900), (390, 844)
LIVE = "document.querySelector('#live').dataset.state === 'live'"
# The middle of the address's cell, and its colour there, read from the canvas as a user would see it.
CELL = """
const { grid } = window.nephila, index = arguments[0];
grid.box.scrollIntoView({ block: 'end' });
const { x, y, width } = grid.cellBox(index), box = grid.canvas.getBoundingClientRect();
return [box.left + x + width / 2, box.top + y + width / 2];
"""


async def opened(
    chromium: Browser, page: PageServer, size: tuple[int, int], pool: str = "", scheme: str = "light"
) -> None:
    await chromium.size(*size)
    await chromium.scheme(scheme)
    await chromium.go("about:blank")
    await chromium.go(f"http://127.0.0.1:{page.port}/{f'#pool={pool}' if pool else ''}")
    await chromium.until(LIVE)
    if pool:
        await chromium.until("document.querySelector('#pool-name').innerText === arguments[0]", pool)
        await chromium.until("window.nephila.grid.rows > 0")


async def cell(chromium: Browser, index: int) -> tuple[float, float]:
    x, y = await chromium.script(CELL, index)
    return x, y


async def no_sideways_scrolling(chromium: Browser) -> None:
    assert await chromium.script("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
async def test_pools_are_bars_with_thresholds(chromium: Browser, page: PageServer, size: tuple[int, int]) -> None:
    await opened(chromium, page, size)
    await chromium.until("document.querySelectorAll('#pool-list li').length === 6")
    await chromium.until("[...document.querySelectorAll('#pool-list li')].every(row => row.innerText.trim() !== '')")
    await no_sideways_scrolling(chromium)
    seen = {name: await chromium.text(f"[data-pool={name}]") for name in ("tiny", "edge", "busy", "broken", "campus")}
    assert "4 available of 10" in seen["tiny"] and "default" in seen["tiny"]
    assert "Exhausted" in seen["edge"] and "100 %" in seen["edge"]
    assert "filling up" in seen["busy"]
    assert "Invalid" in seen["broken"]
    assert "of 65,536" in seen["campus"]
    label = await chromium.script("return document.querySelector('[data-pool=tiny] .bar').getAttribute('aria-label')")
    assert label.startswith("3 allocated, 1 pinned, 1 warm")
    await chromium.shot(SHOTS / f"pools-{size[0]}.png")
    assert await chromium.log() == []


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
async def test_a_click_on_a_pool_shows_its_addresses(
    chromium: Browser, page: PageServer, size: tuple[int, int]
) -> None:
    await opened(chromium, page, size)
    await chromium.until("document.querySelector('[data-pool=tiny]') !== null")
    await chromium.click("[data-pool=tiny]")
    await chromium.until("document.querySelector('#pool-name').innerText === 'tiny'")
    await chromium.until("window.nephila.grid.states.length === 10")
    assert await chromium.script("return [...window.nephila.grid.states]") == [0, 0, 0, 2, 4, 1, 6, 5, 3, 7]
    await no_sideways_scrolling(chromium)
    legend = await chromium.text("#legend")
    for word in ("allocated", "warm", "free", "cooling", "quarantined", "reserved", "pinned", "suspect"):
        assert word in legend
    x, y = await cell(chromium, 1)
    await chromium.point(x, y, press="left")
    await chromium.until("document.querySelector('#tip').innerText.includes('02:42:0a:06:00:0b')")
    tip = await chromium.text("#tip")
    for part in ("10.6.0.11", "shop/web-1", "node-1", "Deployment web", "Since", "allocated"):
        assert part in tip
    box = "const b = document.querySelector('#tip').getBoundingClientRect();"
    inside = f"{box} return b.left >= 0 && b.right <= innerWidth && b.bottom <= innerHeight"
    assert await chromium.script(inside)
    await chromium.shot(SHOTS / f"tiny-{size[0]}.png")


async def test_hovering_tells_whose_an_address_is(chromium: Browser, page: PageServer) -> None:
    await opened(chromium, page, WIDE, "tiny")
    x, y = await cell(chromium, 6)
    await chromium.point(x, y)
    await chromium.until("document.querySelector('#tip').innerText.includes('52:54:00:aa:bb:cc')")
    assert "seen by node-1" in await chromium.text("#tip")
    x, y = await cell(chromium, 3)
    await chromium.point(x, y)
    await chromium.until("document.querySelector('#tip').innerText.includes('Leased by')")
    await chromium.point(5, 5)
    await chromium.until("document.querySelector('#tip').hidden")


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
async def test_a_pool_of_65536_addresses(chromium: Browser, page: PageServer, size: tuple[int, int]) -> None:
    await opened(chromium, page, size, "campus")
    await chromium.until("window.nephila.grid.states.length === 65536")
    await no_sideways_scrolling(chromium)
    painted = await chromium.script(
        "const t = performance.now(); window.nephila.grid.paint(); return performance.now() - t"
    )
    assert painted < 1000, f"painting took {painted} ms"
    assert await chromium.script("return window.nephila.grid.canvas.height < 2000")
    await chromium.shot(SHOTS / f"campus-{size[0]}.png")
    await chromium.script("document.querySelector('#grid-box').scrollTop = 1e6")
    await chromium.until("window.nephila.grid.visibleRows()[1] === window.nephila.grid.rows - 1")
    x, y = await cell(chromium, 65535)
    await chromium.point(x, y, press="left")
    await chromium.until("document.querySelector('#tip').innerText.includes('10.32.255.255')")
    assert "reserved" in await chromium.text("#tip")
    assert await chromium.log() == []


@pytest.mark.parametrize(
    ("typed", "pool", "told"),
    [
        ("10.32.3.44", "campus", "10.32.3.44"),
        ("shop/web-2", "tiny", "10.6.0.12"),
        ("02:42:0A:06:00:0A", "tiny", "10.6.0.10"),
        ("52:54:00:aa:bb:cc", "tiny", "10.6.0.16"),
    ],
)
async def test_search_jumps_to_an_address(
    chromium: Browser, page: PageServer, typed: str, pool: str, told: str
) -> None:
    await opened(chromium, page, WIDE, "edge")
    await chromium.type("#query", typed)
    await chromium.until(
        "document.querySelectorAll('#matches li').length === 1 && !document.querySelector('#matches-box').hidden"
    )
    await chromium.press("Enter")
    await chromium.until("document.querySelector('#pool-name').innerText === arguments[0]", pool)
    await chromium.until(
        "!document.querySelector('#tip').hidden && document.querySelector('#tip').innerText.includes(arguments[0])",
        told,
    )
    assert await chromium.script("return document.activeElement.id") == "grid-box"
    row = "const { grid } = window.nephila, [a, b] = grid.visibleRows(), r = Math.floor(grid.cursor / grid.columns); return r >= a && r <= b"
    assert await chromium.script(row)


async def test_search_for_a_node_highlights_what_it_holds(chromium: Browser, page: PageServer) -> None:
    await opened(chromium, page, WIDE, "tiny")
    await chromium.type("#query", "worker-7")
    await chromium.until("document.querySelectorAll('#matches li').length === 1")
    await chromium.shot(SHOTS / "search.png")
    await chromium.click("#matches li")
    await chromium.until("window.nephila.grid.ranges.length >= 8")
    assert "worker-7" in await chromium.text("#highlight")
    await chromium.until("window.nephila.grid.states.length === 65536")
    await chromium.shot(SHOTS / "node-1440.png")
    await chromium.click("#clear")
    await chromium.until("window.nephila.grid.ranges.length === 0 && document.querySelector('#highlight').hidden")


async def test_everything_is_reached_by_keyboard(chromium: Browser, page: PageServer) -> None:
    await opened(chromium, page, WIDE, "tiny")
    await chromium.press("Tab", "Enter")  # skip to the addresses
    await chromium.until("document.activeElement.id === 'grid-box'")
    await chromium.press("ArrowRight", "ArrowRight")
    await chromium.until(
        "document.querySelector('#said').innerText.includes('10.6.0.12, allocated, shop/web-2 on node-1')"
    )
    await chromium.press("Enter")
    await chromium.until("document.querySelector('#tip').classList.contains('kept')")
    await chromium.press("Escape")
    await chromium.until("document.querySelector('#tip').hidden")
    await chromium.press("/")
    await chromium.until("document.activeElement.id === 'query'")


async def test_changes_appear_by_themselves(chromium: Browser, page: PageServer, world: World) -> None:
    await opened(chromium, page, WIDE, "tiny")
    assert await chromium.script("return window.nephila.grid.states[8]") == 3
    world.endpoint("late", "10.6.0.18", "tiny", "node-2", "late", "late")
    try:
        await chromium.until("window.nephila.grid.states[8] === 0")
        await chromium.until("document.querySelector('[data-pool=tiny]').innerText.includes('3 available')")
    finally:
        world.memory.delete(ENDPOINT, ("shop", "late"), uid="", resource_version="")
    await chromium.until("window.nephila.grid.states[8] === 3")


async def test_a_pool_without_end_is_shown_in_parts(chromium: Browser, page: PageServer) -> None:
    await opened(chromium, page, WIDE, "v6")
    assert "fd00:6:: – fd00:6::ffff" in await chromium.text("#part")
    await chromium.click("#next")
    await chromium.until("document.querySelector('#part').innerText.startsWith('fd00:6::1:0 ')")
    await chromium.type("#query", "fd00:6::8000:0:0:1")
    await chromium.until("document.querySelectorAll('#matches li').length === 1")
    await chromium.press("Enter")
    await chromium.until("document.querySelector('#tip').innerText.includes('fd00:6::8000:0:0:1')")
    assert (await chromium.text("#part")).startswith("fd00:6:0:0:8000:: – fd00:6::8000:0:0:ffff")
    await chromium.shot(SHOTS / "v6-1440.png")


async def test_the_picture_for_the_docs(chromium: Browser, page: PageServer) -> None:
    """docs/images/page.png is a copy of this."""
    await opened(chromium, page, (1280, 800), "campus")
    first = await chromium.script("const g = window.nephila.grid; g.box.scrollTop = 30 * g.cell; return 48 * g.columns")
    x, y = await cell(chromium, first + 5)
    await chromium.point(x, y)
    await chromium.until("document.querySelector('#tip').innerText.includes('Pod')")
    await chromium.shot(SHOTS / "docs.png")


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
async def test_the_dark_scheme_is_honoured(chromium: Browser, page: PageServer, size: tuple[int, int]) -> None:
    await opened(chromium, page, size, "tiny", scheme="dark")
    assert await chromium.script("return getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 29)"
    await chromium.shot(SHOTS / f"dark-{size[0]}.png")


async def test_no_pools_and_no_leader(chromium: Browser, page: PageServer) -> None:
    empty = World()
    async with served(empty) as bare:
        await opened(chromium, bare, PHONE)
        await chromium.until("!document.querySelector('#no-pools').hidden")
        await chromium.shot(SHOTS / "empty-390.png")
        empty.pool("first", "10.1.0.0/24", "10.1.0.1-10.1.0.9")
        await chromium.until("document.querySelector('[data-pool=first]') !== null")
        assert empty.memory.read(IP_POOL, ("", "first")) is not None
    await chromium.until("!document.querySelector('#banner').hidden")
    assert "cannot be reached" in await chromium.text("#banner")
    await chromium.shot(SHOTS / "lost-390.png")
    errors: list[Any] = await chromium.log()
    assert all("ERR_CONNECTION" in line or "ERR_INCOMPLETE" in line for line in errors), errors
