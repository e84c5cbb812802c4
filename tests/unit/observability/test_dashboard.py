"""Every query of the dashboard asks for what is really exported, with labels that it really has, in PromQL that Prometheus can parse."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.unit.observability.exposed import declared_series
from tests.unit.observability.queries import metrics_of, parse_problem, problems

PATH = Path(__file__).resolve().parents[3] / "helm/nephila/files/dashboard.json"
_VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$__interval": "1m"}


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(PATH.read_text())
    return loaded


def expressions() -> Iterator[tuple[str, str]]:
    """(panel, expression with the variables filled in)"""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], filled(target["expr"])


def filled(text: str) -> str:
    for name, value in _VARIABLES.items():
        text = text.replace(name, value)
    return re.sub(r"\$\{?\w+\}?", ".*", text)


def test_every_query_asks_for_what_is_exported() -> None:
    declared = declared_series()
    found = [f"{title}: {problem}" for title, text in expressions() for problem in problems(text, declared)]
    assert not found, found


def test_prometheus_can_parse_every_query(tmp_path: Path) -> None:
    assert parse_problem((text for _, text in expressions()), tmp_path) == ""


def test_a_wrong_query_would_be_found(tmp_path: Path) -> None:
    declared = declared_series()
    assert problems("rate(nephila_nothing_total[5m])", declared) == ["nephila_nothing_total is not exported"]
    assert problems('nephila_ready{pool="x"}', declared) == ["nephila_ready has no label pool"]
    assert problems("sum by (pod) (nephila_ready)", declared) == ["no metric in it has label pod"]
    assert parse_problem(["sum(("], tmp_path) != ""


def test_every_query_names_a_metric_and_every_panel_says_what_it_shows() -> None:
    assert all(metrics_of(text) for _, text in expressions())
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])
    assert all(panel["title"] and panel["targets"] for panel in panels)


def test_variables_are_filled_from_labels_that_exist() -> None:
    declared = declared_series()
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] != "query":
            continue
        matched = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        assert matched is not None
        assert matched[1] in declared and matched[2] in declared[matched[1]] | {"instance"}


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} over {taken[x, y]}"
                taken[x, y] = panel["title"]
                assert x < 24
