"""Real namespaces need root. One lab for all tests of a module: to start one takes longer than most of them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from e2e.lab import labs
from e2e.lab.agents import Settings
from e2e.lab.labs import Lab, Plan
from tests.netns.compat.foreign_crds import definitions
from tests.netns.compat.site import Site

FAST = Settings(
    agent={
        "probe": {"watch": "packet"},  # to compile the eBPF program on each node would take longer than all the rest
        "lease": {"cooldownS": 2.0, "cooldownFloorS": 1.0, "waitS": 4.0},
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/netns/compat" in str(item.path):
            item.add_marker(pytest.mark.netns)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Lab]:
    async with labs.build(Plan(3, settings=FAST, manifests=Path(__file__).with_name("manifests"))) as lab:
        for crd in definitions():
            await lab.api.apply(crd)
        yield lab


@pytest_asyncio.fixture(loop_scope="module")
async def site(cluster: Lab) -> AsyncIterator[Site]:
    one = Site(cluster)
    await one.open()
    yield one
    await one.close()
