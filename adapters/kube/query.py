"""Label and field selectors as text, applied to decoded JSON: for the in-memory store.

Grammar: Kubernetes' selector strings (`a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`; fields only the
first three).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Wire: TypeAlias = Mapping[str, Any]
Test: TypeAlias = Callable[[Wire], bool]

_SET = re.compile(r"^\s*(?P<key>[\w./-]+)\s+(?P<operator>in|notin)\s*\(\s*(?P<values>[^)]*)\)\s*$")
_EQUAL = re.compile(r"^\s*(?P<key>[\w./-]+)\s*(?P<operator>==|=|!=)\s*(?P<value>[^=!]*?)\s*$")
_EXISTS = re.compile(r"^\s*(?P<not>!?)\s*(?P<key>[\w./-]+)\s*$")
_COMMA_OUTSIDE_PARENTHESES = re.compile(r",(?![^(]*\))")


@dataclass(frozen=True, slots=True)
class Query:
    """What a list or watch is restricted to. `name` is set if only one object of the scope can match."""

    namespace: str
    name: str
    tests: tuple[Test, ...]

    def matches(self, wire: Wire) -> bool:
        if self.namespace and wire["metadata"].get("namespace") != self.namespace:
            return False
        return all(test(wire) for test in self.tests)


def parse_query(namespace: str = "", labels: str = "", fields: str = "") -> Query:
    """Raises ValueError, naming the part, for text that is not a selector."""
    tests = [_label_test(part) for part in _parts(labels)]
    name = ""
    for part in _parts(fields):
        path, operator, value = _equality(part)
        tests.append(_field_test(path, operator, value))
        if path == ["metadata", "name"] and operator != "!=":
            name = value
    return Query(namespace, name, tuple(tests))


def _parts(text: str) -> list[str]:
    return [part for part in _COMMA_OUTSIDE_PARENTHESES.split(text) if part.strip()]


def _equality(part: str) -> tuple[list[str], str, str]:
    found = _EQUAL.match(part)
    if found is None:
        raise ValueError(f"not a field selector: {part!r}")
    return found["key"].split("."), found["operator"], found["value"]


def _field_test(path: list[str], operator: str, value: str) -> Test:
    def test(wire: Wire) -> bool:
        at: Any = wire
        for step in path:
            at = at.get(step) if isinstance(at, Mapping) else None
        text = "" if at is None else ("true" if at is True else "false" if at is False else str(at))
        return (text == value) is (operator != "!=")

    return test


def _label_test(part: str) -> Test:
    if found := _SET.match(part):
        key, values = found["key"], frozenset(value.strip() for value in found["values"].split(","))
        if found["operator"] == "in":
            return lambda wire: _labels(wire).get(key) in values
        return lambda wire: _labels(wire).get(key) not in values
    if found := _EXISTS.match(part):
        key, wanted = found["key"], not found["not"]
        return lambda wire: (key in _labels(wire)) is wanted
    if found := _EQUAL.match(part):
        key, value, equal = found["key"], found["value"], found["operator"] != "!="
        return lambda wire: (_labels(wire).get(key) == value) is equal
    raise ValueError(f"not a label selector: {part!r}")


def _labels(wire: Wire) -> Wire:
    labels: Wire = wire["metadata"].get("labels") or {}
    return labels
