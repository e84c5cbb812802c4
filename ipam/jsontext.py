"""JSON inside annotations, read as Go's decoder would: keys in any letter case, unknown keys ignored, null for absent.

Every function raises BadAnnotation with the path of the offending field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from ipam.errors import BadAnnotation


def parse_json(text: str, key: str) -> object:
    """The decoded value of the annotation `key`."""
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadAnnotation(
            key,
            f"not JSON: {error.msg} at line {error.lineno} column {error.colno}",
            "quote names, and end no list with a comma",
        ) from None
    except (ValueError, RecursionError):  # numbers of thousands of digits, nesting of thousands of levels
        raise BadAnnotation(key, "not acceptable JSON", "simplify it") from None
    return value


def shape(raw: object, field: str) -> Mapping[str, object]:
    """An object with its keys in lower case."""
    if not isinstance(raw, dict):
        raise BadAnnotation(field, "not a JSON object", 'write {"ipv4": ["pool"]}')
    return {key.lower(): value for key, value in raw.items()}


def items(raw: object, field: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The objects of a list, each with its own field path."""
    if not isinstance(raw, list):
        raise BadAnnotation(field, "not a JSON list", "wrap the object in [ ]")
    for index, item in enumerate(raw):
        yield f"{field}[{index}]", shape(item, f"{field}[{index}]")


def optional_string(item: Mapping[str, object], name: str, field: str) -> str:
    """A string member, "" if absent."""
    value = item.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadAnnotation(f"{field}.{name}", "not a string", "put it in quotes")
    return value


def optional_bool(item: Mapping[str, object], name: str, field: str) -> bool | None:
    """A boolean member, None if absent."""
    value = item.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadAnnotation(f"{field}.{name}", "not a boolean", "write true or false, without quotes")
    return value


def names(raw: object, field: str) -> tuple[str, ...]:
    """A list of names, () if absent; no name may be empty."""
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise BadAnnotation(field, "not a list of names", 'write ["name"]')
    for index, name in enumerate(raw):
        if not isinstance(name, str) or not name.strip():
            raise BadAnnotation(f"{field}[{index}]", "not a name", "write a non-empty string")
    return tuple(raw)
