"""The cases' lab: two agents' nodes over an in-memory API server."""

from __future__ import annotations

import pytest

from tests.compat.plugin import note_cases
from tests.contract.crds.conftest import api
from tests.unit.nodeagent.harness import Lab

__all__ = ["api"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    note_cases(items)  # also where the plugin is not loaded: a case that the catalogue lacks is a mistake


@pytest.fixture
async def lab() -> Lab:
    """Two nodes, one namespace, no pool. Sandboxes live until their DEL."""
    lab = Lab()
    lab.sandboxes.alive |= {f"/run/netns/c{i}" for i in range(200)}
    await lab.namespace()
    for name in ("n1", "n2"):
        await lab.node(name)
    return lab
