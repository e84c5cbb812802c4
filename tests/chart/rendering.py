"""The chart rendered, as parsed objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import helm_python as helm  # type: ignore[import-not-found,unused-ignore]  # in .venv-chart only
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "helm/nephila"
CASES = {"default": None} | {path.stem: path for path in sorted((ROOT / "tests/chart/values").glob("*.yaml"))}
NAMESPACE, RELEASE, VERSION = "network", "neph", "1.37"

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Rendering:
    """Every object of one set of values, in the order of the templates."""

    objects: tuple[Object, ...]
    notes: str

    def all(self, kind: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind: str, name: str = "") -> Object:
        found = [item for item in self.all(kind) if not name or item["metadata"]["name"] == name]
        assert len(found) == 1, f"{kind} {name}: {len(found)}"
        return found[0]

    def pods(self) -> Iterator[tuple[str, Object]]:
        """(name, pod spec) of everything that runs."""
        for item in self.objects:
            if item["kind"] in ("DaemonSet", "Deployment"):
                yield item["metadata"]["name"], item["spec"]["template"]["spec"]
            elif item["kind"] == "Pod":
                yield item["metadata"]["name"], item["spec"]


def values_of(case: str) -> dict[str, Any]:
    path = CASES[case]
    return yaml.safe_load(path.read_text()) if path else {}


def render(values: Mapping[str, Any]) -> Rendering:
    """Raises helm's errors: values that the schema refuses, templates that fail."""
    with helm.Chart.load(str(CHART)) as chart:
        texts = chart.render(dict(values), name=RELEASE, namespace=NAMESPACE)
    objects = [
        document
        for name, text in sorted(texts.items())
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]
    notes = "".join(text for name, text in texts.items() if name.endswith("NOTES.txt"))
    return Rendering(tuple(objects), notes)


@cache
def rendered(case: str) -> Rendering:
    return render(values_of(case))
