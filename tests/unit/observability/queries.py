"""Reads PromQL as far as a test needs it: which metrics and labels an expression names, and whether Prometheus can parse it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import yaml

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"' + r"|'(?:[^'\\]|\\.)*'")
_METRIC = re.compile(r"\b(?:nephila|spiderpool|process|rdma)_[a-z0-9_]+\b")
_MATCHERS = re.compile(r"\b((?:nephila|spiderpool|process)_[a-z0-9_]+)\{([^}]*)\}")
_LABEL = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
OF_PROMETHEUS = frozenset({"instance", "job"})


def metrics_of(expression: str) -> set[str]:
    return set(_METRIC.findall(_STRING.sub('""', expression)))


def labels_of(expression: str) -> set[tuple[str, str]]:
    """(metric, label) of every matcher."""
    plain = _STRING.sub('""', expression)
    return {(name, label) for name, inside in _MATCHERS.findall(plain) for label in _LABEL.findall(inside)}


def grouped_by(expression: str) -> set[str]:
    plain = _STRING.sub('""', expression)
    return {label.strip() for inside in _GROUPING.findall(plain) for label in inside.split(",") if label.strip()}


def problems(expression: str, declared: dict[str, frozenset[str]]) -> list[str]:
    """What the expression asks for and nobody exports."""
    used = metrics_of(expression)
    found = [f"{name} is not exported" for name in sorted(used - declared.keys())]
    for name, label in sorted(labels_of(expression)):
        if name in declared and label not in declared[name] | OF_PROMETHEUS:
            found.append(f"{name} has no label {label}")
    known = {label for name in used & declared.keys() for label in declared[name]} | OF_PROMETHEUS
    found += [f"no metric in it has label {label}" for label in sorted(grouped_by(expression) - known)]
    return found


def parse_problem(expressions: Iterable[str], place: Path) -> str:
    """What promtool says of expressions that it cannot parse; "" if it can parse them all."""
    rules = [{"record": f"tested:expression:{number}", "expr": text} for number, text in enumerate(expressions)]
    path = place / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "tested", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}" if done.returncode else ""
