"""The product in the lab: the real agent goes through the story and through every mistake of a runtime or user."""

import asyncio
import sys

import pytest
from rich.console import Console

from e2e.lab import run as runs

SMALLER = {"tight": (5, 120), "strand": (3, 20)}  # nodes and pods: the scenario's own size is for `make lab`


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "name",
    [
        "story",
        "api-outage",
        "rolling-restart",
        "bad-input",
        "tight",
        "strand",
        "conflict",
        "leader-kill",
        "node-death",
        "partition",
        "reserved",
        "identity",
        "manifests",
    ],
)
def test_the_real_agent_passes(name: str) -> None:
    console = Console(file=sys.stderr, width=150)
    nodes, size = SMALLER.get(name, (None, None))
    summary = asyncio.run(runs.run_scenario(runs.load(name), nodes, console, size=size))
    assert summary.passed, summary.as_json()
