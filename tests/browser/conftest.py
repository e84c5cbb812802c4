"""One browser and one leader per module; its tests share the module's event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from leader.page.server import PageServer
from tests.browser.chromium import Browser, browser
from tests.browser.world import World, large, others, served, small

SHOTS = Path(__file__).parents[2] / "build/browser"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def world() -> World:
    made = World()
    small(made)
    large(made)
    others(made)
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(world: World) -> AsyncIterator[PageServer]:
    async with served(world) as started:
        yield started
