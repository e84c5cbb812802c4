"""One cluster per test module; its `ControlPlane` is bound to no event loop, so each test may have its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from e2e.cluster.binaries import Binaries, ensure
from e2e.cluster.controlplane import ControlPlane


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


_NOTES: list[str] = []


@pytest.fixture
def note() -> Callable[[str], None]:
    """Something measured, printed at the end of the run."""
    return _NOTES.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _NOTES:
        terminalreporter.section("measured")
        for line in _NOTES:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def binaries() -> Binaries:
    return ensure()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(binaries: Binaries) -> AsyncIterator[ControlPlane]:
    async with ControlPlane(binaries) as started:
        yield started
