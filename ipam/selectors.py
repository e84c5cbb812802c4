"""Kubernetes label selectors as values.

An absent selector is `None` ("not set"); an empty one matches everything. Semantics: apimachinery
`LabelSelectorAsSelector`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ipam.errors import BadValue

# apimachinery pkg/util/validation: IsQualifiedName and IsValidLabelValue.
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_MAX_PREFIX = 253


class Operator(StrEnum):
    """How a requirement judges the value of its key."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One item of `matchExpressions`; `values` is empty exactly for Exists and DoesNotExist."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels satisfy it; NotIn is satisfied by an absent key, as in Kubernetes."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels

    def __str__(self) -> str:
        values = f" ({', '.join(sorted(self.values))})" if self.values else ""
        return f"{self.key} {self.operator}{values}"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """The conjunction of `match_labels` (sorted by key) and `match_expressions` (as listed)."""

    match_labels: tuple[tuple[str, str], ...] = ()
    match_expressions: tuple[Requirement, ...] = ()

    @classmethod
    def of(
        cls, match_labels: Mapping[str, str] | None = None, expressions: Iterable[tuple[str, str, Sequence[str]]] = ()
    ) -> LabelSelector:
        """From plain parts; an expression is (key, operator, values). Raises BadValue with a field of the selector."""
        for key, value in (match_labels or {}).items():
            _check_key(key, f"matchLabels[{key}]")
            _check_value(value, f"matchLabels[{key}]")
        requirements = tuple(
            _requirement(index, key, operator, values) for index, (key, operator, values) in enumerate(expressions)
        )
        return cls(tuple(sorted((match_labels or {}).items())), requirements)

    @classmethod
    def parse(cls, raw: object, field: str) -> LabelSelector | None:
        """From decoded JSON (`None`: not set); raises BadValue whose field starts with `field`."""
        if raw is None:
            return None
        try:
            shape = _mapping(raw, "")
            labels = {
                key: _string(value, f"matchLabels[{key}]")
                for key, value in _mapping(shape.get("matchLabels"), "matchLabels").items()
            }
            return cls.of(labels, _expressions(shape.get("matchExpressions")))
        except BadValue as error:
            raise error.within(field) from None

    @property
    def is_empty(self) -> bool:
        """Whether it selects everything because it says nothing."""
        return not self.match_labels and not self.match_expressions

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether every part is satisfied."""
        for key, value in self.match_labels:
            if labels.get(key) != value:
                return False
        return all(requirement.matches(labels) for requirement in self.match_expressions)

    def __str__(self) -> str:
        parts = [f"{key}={value}" for key, value in self.match_labels]
        return ", ".join(parts + [str(requirement) for requirement in self.match_expressions])


def _expressions(raw: object) -> list[tuple[str, str, list[str]]]:
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise BadValue("matchExpressions", "not a list")
    found: list[tuple[str, str, list[str]]] = []
    for index, item in enumerate(raw):
        field = f"matchExpressions[{index}]"
        shape = _mapping(item, field)
        values = shape.get("values") or []
        if not isinstance(values, list):
            raise BadValue(f"{field}.values", "not a list")
        found.append(
            (
                _string(shape.get("key"), f"{field}.key"),
                _string(shape.get("operator"), f"{field}.operator"),
                [_string(value, f"{field}.values") for value in values],
            )
        )
    return found


def _mapping(raw: object, field: str) -> dict[str, object]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise BadValue(field, "not an object")
    return raw


def _string(raw: object, field: str) -> str:
    if not isinstance(raw, str):
        raise BadValue(field, "not a string")
    return raw


def _requirement(index: int, key: str, operator: str, values: Sequence[str]) -> Requirement:
    field = f"matchExpressions[{index}]"
    _check_key(key, f"{field}.key")
    try:
        known = Operator(operator)
    except ValueError:
        raise BadValue(
            f"{field}.operator", f"{operator!r} is unknown", "use In, NotIn, Exists or DoesNotExist"
        ) from None
    needs_values = known in (Operator.IN, Operator.NOT_IN)
    if needs_values and not values:
        raise BadValue(f"{field}.values", f"{known} needs at least one value", "list the values, or use Exists")
    if values and not needs_values:
        raise BadValue(f"{field}.values", f"{known} takes no values", "remove them, or use In")
    for value in values:
        _check_value(value, f"{field}.values")
    return Requirement(key, known, frozenset(values))


def _check_key(key: str, field: str) -> None:
    prefix, slash, name = key.rpartition("/")
    valid = _NAME.fullmatch(name) and (not slash or (len(prefix) <= _MAX_PREFIX and _PREFIX.fullmatch(prefix)))
    if not valid:
        raise BadValue(field, f"{key!r} is not a label key", "use [dns-prefix/]name, the name at most 63 characters")


def _check_value(value: str, field: str) -> None:
    if value and not _NAME.fullmatch(value):
        raise BadValue(
            field,
            f"{value!r} is not a label value",
            "use at most 63 letters, digits, '-', '_' or '.', letters at the ends",
        )
