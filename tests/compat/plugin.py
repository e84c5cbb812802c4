"""A pytest plugin that notes what the tests of each case did: `-p tests.compat.plugin --compat-outcomes=PATH`. See `tests.compat.report`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.compat.catalogue import CASES
from tests.compat.results import Ran, Results, Where

OPTION = "--compat-outcomes"
PROPERTY, PLACE = "compat-case", "compat-where"


class Reporter:
    """Hears of every test, also those of xdist's workers, and writes the outcomes at the end of the session."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.results = Results()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        test = report.nodeid.removeprefix("tests/").partition("[")[0].replace(".py::", "::")
        properties = dict(report.user_properties)
        for name, value in report.user_properties:
            if name == PROPERTY:
                self.results.add(str(value), test, Ran(report.outcome, Where(properties[PLACE])))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        outcomes = self.results.as_json() | {"commit": commit.stdout.strip()}
        self._path.write_text(json.dumps(outcomes, indent=1, sort_keys=True) + "\n")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, type=Path, default=None, help="write the outcomes of the catalogue's cases")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption(OPTION)
    if path is not None and not hasattr(config, "workerinput"):  # with xdist, the controller hears of every test
        config.pluginmanager.register(Reporter(path))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    note_cases(items)


def note_cases(items: list[pytest.Item]) -> None:
    """Give each test the cases that it shows, and the place where it runs. Raises UsageError for a case that the catalogue does not have."""
    for item in items:
        cases = [case for mark in item.iter_markers("case") for case in mark.args]
        for case in cases:
            if case not in CASES:
                raise pytest.UsageError(f"{item.nodeid}: {case} is not in tests/compat/catalogue.py")
            if (PROPERTY, case) not in item.user_properties:
                item.user_properties.append((PROPERTY, case))
        if cases and PLACE not in dict(item.user_properties):
            item.user_properties.append((PLACE, place_of(item).value))


def place_of(item: pytest.Item) -> Where:
    """By the folder of the test, and by whether it asks for the embedded server."""
    path = item.path.as_posix()
    if "/tests/cluster/" in path:
        return Where.CLUSTER
    if "/tests/netns/" in path:
        return Where.NAMESPACES
    return Where.EMBEDDED if "api" in getattr(item, "fixturenames", ()) else Where.MEMORY
