"""The first form of `nephila`: it starts quickly and hands the lab's commands on unchanged."""

import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from cli.main import app


@pytest.fixture
def handed_on(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []

    def execv(_path: str, argv: list[str]) -> None:
        calls.append(argv[1:])
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    return calls


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["run"], ["run", "story"]),
        (["run", "bad-input", "--nodes", "5", "--json"], ["run", "bad-input", "--nodes", "5", "--json"]),
        (["up", "--nodes", "2", "--empty"], ["up", "--nodes", "2", "--empty"]),
        (["down"], ["down"]),
        (["shell"], ["shell"]),
        (["shell", "node-1", "ip", "-d", "link"], ["shell", "node-1", "ip", "-d", "link"]),
        (["scenarios"], ["scenarios"]),
    ],
)
def test_lab_commands_become_the_lab_program(handed_on: list[list[str]], typed: list[str], expected: list[str]) -> None:
    result = CliRunner().invoke(app, ["lab", *typed])
    assert result.exit_code == 0, result.output
    assert handed_on == [["-m", "e2e.lab", *expected]]


def test_help_is_quick_and_imports_no_client() -> None:
    """The target is 150 ms; the test allows for a busy machine and checks the cause: what is imported."""
    begun = time.monotonic()
    program = "import sys, cli.main; print(sorted(m for m in sys.modules if m.split('.')[0] in ('aiohttp', 'kubernetes', 'rich', 'e2e')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.strip() == "[]"
    assert time.monotonic() - begun < 5
