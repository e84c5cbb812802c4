"""The cluster that most tests of the leader begin with."""

from __future__ import annotations

import pytest

from tests.unit.nodeagent.harness import Lab


@pytest.fixture
async def lab() -> Lab:
    """A namespace and one node, without pools or pods."""
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    return lab
