"""Label and field selectors as values with one question: does this object match?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from e2e.apiserver.errors import Obj, bad_request


class Operator(Enum):
    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class LabelRequirement:
    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        if self.operator is Operator.IN:
            return value is not None and value in self.values
        if self.operator is Operator.NOT_IN:
            return value is None or value not in self.values
        return (value is not None) == (self.operator is Operator.EXISTS)


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    """`path` is the place in the stored object, already translated from the label that the client used."""

    path: tuple[str, ...]
    value: str
    negated: bool = False

    def matches(self, obj: Obj) -> bool:
        return (field_text(obj, self.path) == self.value) != self.negated


@dataclass(frozen=True, slots=True)
class Selector:
    labels: tuple[LabelRequirement, ...] = ()
    fields: tuple[FieldRequirement, ...] = ()

    def matches(self, obj: Obj) -> bool:
        for requirement in self.fields:
            if not requirement.matches(obj):
                return False
        if not self.labels:
            return True
        labels = obj.get("metadata", {}).get("labels") or {}
        return all(requirement.matches(labels) for requirement in self.labels)

    @property
    def pinned(self) -> FieldRequirement | None:
        """The first equality on a field: a watcher is indexed by it, so that others' events never cost it anything."""
        return next((field for field in self.fields if not field.negated), None)


EVERYTHING = Selector()


def field_text(obj: Obj, path: tuple[str, ...]) -> str:
    """The value at `path` as selectors compare it: absent is the empty string, booleans are lower case."""
    value: object = obj
    for step in path:
        if not isinstance(value, dict):
            return ""
        value = value.get(step)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


_SET = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^\s!=,()]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^\s!=,()]*)$")
_BARE = re.compile(r"^(?P<not>!?)\s*(?P<key>[^\s!=,()]+)$")


def _split(text: str) -> list[str]:
    """Commas at depth zero separate requirements; those inside `in (…)` do not."""
    parts: list[str] = []
    depth = start = 0
    for position, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    parts.append(text[start:].strip())
    return parts


def _label_requirement(part: str) -> LabelRequirement:
    if found := _SET.match(part):
        values = frozenset(value.strip() for value in found["values"].split(","))
        return LabelRequirement(found["key"], Operator(found["op"]), values)
    if found := _EQUAL.match(part):
        operator = Operator.NOT_IN if found["op"] == "!=" else Operator.IN
        return LabelRequirement(found["key"], operator, frozenset({found["value"]}))
    if found := _BARE.match(part):
        return LabelRequirement(found["key"], Operator.ABSENT if found["not"] else Operator.EXISTS)
    raise bad_request(f"unable to parse requirement: {part!r} is not a label selector")


def parse_labels(text: str) -> tuple[LabelRequirement, ...]:
    """Raises 400 for what is not a label selector."""
    if not text.strip():
        return ()
    return tuple(_label_requirement(part) for part in _split(text))


def parse_fields(text: str, selectable: Mapping[str, tuple[str, ...]]) -> tuple[FieldRequirement, ...]:
    """Raises 400 for a field that the resource does not offer for selection."""
    if not text.strip():
        return ()
    requirements = []
    for part in text.split(","):
        if not part:
            continue
        found = re.match(r"^([^!=]+)(==|!=|=)(.*)$", part)
        if found is None:
            raise bad_request(f"invalid selector: {part!r}; can't understand it")
        label, operator, value = found.groups()
        path = selectable.get(label)
        if path is None:
            raise bad_request(f"field label not supported: {label}")
        requirements.append(FieldRequirement(path, re.sub(r"\\([,=\\])", r"\1", value), operator == "!="))
    return tuple(requirements)
