"""The product in the lab: the real agent goes through the story and through every mistake of a runtime or user."""

import asyncio
import sys

import pytest
from rich.console import Console

from e2e.lab import run as runs


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "name",
    [
        "story",
        "api-outage",
        "rolling-restart",
        "bad-input",
        "tight",
        "conflict",
        "leader-kill",
        "node-death",
        "partition",
        "reserved",
        "identity",
    ],
)
def test_the_real_agent_passes(name: str) -> None:
    console = Console(file=sys.stderr, width=150)
    summary = asyncio.run(runs.run_scenario(runs.load(name), None, console))
    assert summary.passed, summary.as_json()
