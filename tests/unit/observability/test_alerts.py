"""Alerts: valid, tested by promtool both ways, about metrics that exist, each with a runbook whose commands exist."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cli.main import app
from tests.unit.observability.exposed import declared_series
from tests.unit.observability.queries import problems

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "helm/nephila/files/alerts.yaml"
TESTS = sorted((ROOT / "tests/alerts").glob("*.yaml"))
RUNBOOKS = ROOT / "docs/runbooks"
SECTIONS = ("## Symptom", "## Meaning", "## What to look at", "## Cure")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def names() -> list[str]:
    return [rule["alert"] for rule in rules()]


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_the_rules_are_valid() -> None:
    promtool("check", "rules", str(RULES))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_they_fire_and_keep_quiet_as_they_should(path: Path) -> None:
    promtool("test", "rules", str(path))


def test_every_alert_is_tested_both_ways() -> None:
    fires: Counter[str] = Counter()
    quiet: Counter[str] = Counter()
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                (fires if case["exp_alerts"] else quiet)[case["alertname"]] += 1
    assert set(fires) == set(quiet) == set(names())


def test_every_expression_asks_for_what_is_exported() -> None:
    declared = declared_series()
    assert not [f"{rule['alert']}: {text}" for rule in rules() for text in problems(rule["expr"], declared)]


def test_every_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert rule["annotations"]["runbook_url"].endswith(f"docs/runbooks/{rule['alert']}.md")
        assert rule["annotations"]["summary"]


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == set(names())
    index = (RUNBOOKS / "README.md").read_text()
    for name in names():
        text = (RUNBOOKS / f"{name}.md").read_text()
        places = [text.index(section) for section in SECTIONS]
        assert places == sorted(places) and f"({name}.md)" in index


def test_links_between_runbooks_lead_somewhere() -> None:
    for path in RUNBOOKS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize(
    "path", [*sorted(RUNBOOKS.glob("*.md")), ROOT / "docs/reference/events.md"], ids=lambda path: path.stem
)
def test_the_commands_in_it_exist(path: Path) -> None:
    """`nephila …` in code: its words are commands, its options exist; what is in capitals is the reader's."""
    for line in re.findall(r"`nephila ([^`]+)`", path.read_text()):
        words = line.split("\\|")[0].split()
        command: Any = typer.main.get_command(app)
        while words and (inner := getattr(command, "commands", None)):
            word = words.pop(0)
            assert word in inner, f"nephila {line}: no command {word!r}"
            command = inner[word]
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        wanted = {word for word in words if word.startswith("-")}
        assert wanted <= options, f"nephila {line}: {wanted - options}"
