"""The compatibility table says what happened, above all when that was bad."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat.catalogue import CASES, WITHOUT_TEST
from tests.compat.results import Ran, Results, Where

ROOT = Path(__file__).parent.parent.parent.parent


def test_a_failure_of_any_parameter_or_phase_stays() -> None:
    results = Results()
    for outcome in ("passed", "failed", "passed"):
        results.add("E00001", "test_a", Ran(outcome))
    results.add("E00001", "test_b", Ran("passed"))
    assert results.row("E00001").endswith("| **failed** |")


def test_a_skipped_test_shows_nothing() -> None:
    results = Results()
    results.add("E00001", "test_a", Ran("passed"))
    results.add("E00001", "test_b", Ran("skipped"))
    assert results.row("E00001").endswith("| **skipped** |")


def test_a_case_without_test_needs_a_reason() -> None:
    assert Results().row("E00001").endswith("| **missing** |")
    assert Results().row("A00001").endswith(f"| {WITHOUT_TEST['A00001']} |")
    assert f"{len(CASES)} cases: 0 passed" in Results().text()
    assert set(WITHOUT_TEST) <= set(CASES)


@pytest.mark.parametrize(("body", "shown"), [("assert False", "**failed**"), ("pass", "passed")])
def test_a_real_run_is_told_as_it_went(tmp_path: Path, body: str, shown: str) -> None:
    test = tmp_path / "test_probe.py"
    test.write_text(f"import pytest\n\n@pytest.mark.case('E00001')\ndef test_it():\n    {body}\n")
    written = tmp_path / "outcomes.json"
    command = [sys.executable, "-m", "pytest", "-p", "tests.compat.plugin", "-p", "no:cacheprovider", "-q"]
    subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), f"--compat-outcomes={written}", str(test)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    results = Results()
    results.merge(json.loads(written.read_text()))
    assert results.row("E00001").endswith(f"| in memory | {shown} |")


def test_outcomes_of_several_runs_make_one_table_that_says_where_each_ran() -> None:
    first, second = Results(), Results()
    first.add("E00001", "test_a", Ran("passed"))
    second.add("E00001", "test_b", Ran("failed", Where.NAMESPACES))
    second.add("R00002", "test_c", Ran("passed", Where.CLUSTER))
    both = Results()
    both.merge(first.as_json() | {"commit": "abc"})
    both.merge(second.as_json() | {"commit": "def"})
    assert both.row("E00001").endswith("| `test_a`<br>`test_b` | in memory, namespaces | **failed** |")
    assert both.row("R00002").endswith("| `test_c` | cluster | passed |")
    assert "1 passed" in both.text() and "outcomes of the cluster are those of commit def" in both.text()


def test_the_published_table_is_about_this_catalogue() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text()
    rows = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:] == list(CASES)
    assert "**missing**" not in text and "**failed**" not in text
