"""Structural schemas of custom resources, compiled once: prune unknown fields, fill defaults, validate with field paths."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from e2e.apiserver.errors import Cause, Obj

METADATA_KEYS = frozenset({"apiVersion", "kind", "metadata"})
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


@dataclass(slots=True)
class Node:
    """One level of a structural schema. `raw` keeps the value validations that are checked by keyword."""

    raw: Obj
    type: str
    properties: dict[str, Node] = field(default_factory=dict)
    items: Node | None = None
    additional: Node | None = None
    required: tuple[str, ...] = ()
    preserve: bool = False
    embedded: bool = False
    int_or_string: bool = False
    nullable: bool = False
    list_type: str = "atomic"
    map_keys: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    has_defaults: bool = False

    @property
    def keeps_unknown(self) -> bool:
        return self.preserve or self.additional is not None


class SchemaError(ValueError):
    """The schema is not structural; the message says where."""


def compile_schema(raw: Obj, path: str = "openAPIV3Schema") -> Node:
    """Raises SchemaError for what a structural schema may not contain."""
    _check_structure(raw, path)
    int_or_string = raw.get("x-kubernetes-int-or-string", False)
    preserve = raw.get("x-kubernetes-preserve-unknown-fields", False)
    kind, additional = raw.get("type", ""), raw.get("additionalProperties")
    try:
        pattern = re.compile(raw["pattern"]) if raw.get("pattern") else None
    except re.error as exc:
        raise SchemaError(f'{path}.pattern: Invalid value: "{raw["pattern"]}": {exc}') from exc
    node = Node(
        raw=raw,
        type=kind,
        required=tuple(raw.get("required", ())),
        preserve=bool(preserve) or additional is True,
        embedded=raw.get("x-kubernetes-embedded-resource", False),
        int_or_string=int_or_string,
        nullable=raw.get("nullable", False),
        list_type=raw.get("x-kubernetes-list-type", "atomic"),
        map_keys=tuple(raw.get("x-kubernetes-list-map-keys", ())),
        pattern=pattern,
    )
    for name, child in raw.get("properties", {}).items():
        node.properties[name] = compile_schema(child, f"{path}.properties[{name}]")
    if isinstance(additional, dict):
        node.additional = compile_schema(additional, f"{path}.additionalProperties")
    if isinstance(raw.get("items"), dict):
        node.items = compile_schema(raw["items"], f"{path}.items")
    if node.list_type == "map" and not node.map_keys:
        raise SchemaError(f"{path}.x-kubernetes-list-map-keys: Required value: must not be empty if list-type is map")
    children = [*node.properties.values(), *filter(None, (node.items, node.additional))]
    node.has_defaults = "default" in raw or any(child.has_defaults for child in children)
    return node


def _check_structure(raw: Obj, path: str) -> None:
    if "$ref" in raw:
        raise SchemaError(f"{path}.$ref: Forbidden: $ref is not supported")
    if raw.get("uniqueItems"):
        raise SchemaError(f"{path}.uniqueItems: Forbidden: uniqueItems cannot be set to true")
    int_or_string = raw.get("x-kubernetes-int-or-string", False)
    preserve = raw.get("x-kubernetes-preserve-unknown-fields", False)
    kind = raw.get("type", "")
    if not kind and not int_or_string and not preserve:
        raise SchemaError(f"{path}.type: Required value: must not be empty for specified {path}")
    if kind and kind not in _JSON_TYPES:
        raise SchemaError(f'{path}.type: Unsupported value: "{kind}"')
    additional = raw.get("additionalProperties")
    if additional is not None and raw.get("properties"):
        raise SchemaError(f"{path}.additionalProperties: Forbidden: mutually exclusive with properties")
    if kind == "array" and not isinstance(raw.get("items"), dict):
        raise SchemaError(f"{path}.items: Required value: must be specified")
    if preserve is False and "x-kubernetes-preserve-unknown-fields" in raw:
        raise SchemaError(
            f"{path}.x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined"
        )


def prune(node: Node, value: Any, path: str = "", unknown: list[str] | None = None) -> None:
    """Removes, in place, every field the schema does not know; their paths are added to `unknown`."""
    if isinstance(value, list):
        if node.items is not None:
            for index, item in enumerate(value):
                prune(node.items, item, f"{path}[{index}]", unknown)
        return
    if not isinstance(value, dict):
        return
    for name in tuple(value):
        where = f"{path}.{name}" if path else name
        if (node.embedded or not path) and name in METADATA_KEYS:
            continue
        child = node.properties.get(name, node.additional)
        if child is not None:
            prune(child, value[name], where, unknown)
        elif not node.preserve:
            del value[name]
            if unknown is not None:
                unknown.append(where)


def fill_defaults(node: Node, value: Any) -> None:
    """Sets, in place, absent fields that have a default; drops nulls where the schema does not allow them."""
    if isinstance(value, dict):
        for name, child in node.properties.items():
            if name in value and value[name] is None and not child.nullable and not child.preserve:
                del value[name]
            if name not in value:
                if "default" not in child.raw:
                    continue
                value[name] = copied(child.raw["default"])
            fill_defaults(child, value[name])
        if node.additional is not None:
            for name in value:
                fill_defaults(node.additional, value[name])
    elif isinstance(value, list) and node.items is not None:
        for item in value:
            fill_defaults(node.items, item)


def copied(value: Any) -> Any:
    """A deep copy of a JSON value."""
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value


def shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def validate(node: Node, value: Any, path: str, causes: list[Cause]) -> None:
    """Appends a cause for every violation; keeps going so that the client sees all of them."""
    if value is None:
        if not node.nullable and not (node.preserve and not node.type):
            causes.append(_wrong_type(node, value, path))
        return
    if not _has_type(node, value):
        causes.append(_wrong_type(node, value, path))
        return
    _check_values(node, node.raw, value, path, causes)
    if isinstance(value, dict):
        _validate_object(node, value, path, causes)
    elif isinstance(value, list):
        _validate_list(node, value, path, causes)


def _has_type(node: Node, value: Any) -> bool:
    if node.int_or_string:
        return isinstance(value, (int, str)) and not isinstance(value, bool)
    if not node.type:
        return True
    if isinstance(value, bool):
        return node.type == "boolean"
    if node.type == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _JSON_TYPES[node.type])


def _wrong_type(node: Node, value: Any, path: str) -> Cause:
    wanted = "integer,string" if node.int_or_string else node.type
    word = "null" if value is None else shown(value)
    message = f"Invalid value: {word}: {path} in body must be of type {wanted}: {word}"
    return Cause("FieldValueTypeInvalid", message, path or "<nil>")


def _require(names: Iterable[str], value: Obj, path: str, causes: list[Cause]) -> None:
    missing = [name for name in names if name not in value]
    causes += [Cause("FieldValueRequired", "Required value", f"{path}.{name}" if path else name) for name in missing]


def _validate_object(node: Node, value: Obj, path: str, causes: list[Cause]) -> None:
    _require(node.required, value, path, causes)
    for name, item in value.items():
        child = node.properties.get(name)
        if child is not None:
            validate(child, item, f"{path}.{name}" if path else name, causes)
        elif node.additional is not None:
            validate(node.additional, item, f"{path}.{name}" if path else name, causes)


def _validate_list(node: Node, value: list[Any], path: str, causes: list[Cause]) -> None:
    if node.items is not None:
        for index, item in enumerate(value):
            validate(node.items, item, f"{path}[{index}]", causes)
    if node.list_type == "atomic":
        return
    seen: set[str] = set()
    for index, item in enumerate(value):
        if node.list_type == "map":
            if not isinstance(item, dict):
                continue
            identity: Any = {key: item.get(key) for key in node.map_keys}
        else:
            identity = item
        word = shown(identity)
        if word in seen:
            causes.append(Cause("FieldValueDuplicate", f"Duplicate value: {word}", f"{path}[{index}]"))
        seen.add(word)


def _limits(raw: Obj, value: Any) -> list[str]:
    """What the numeric, length and size keywords say against the value."""
    problems: list[str] = []
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = raw.get("minimum"), raw.get("maximum")
        if low is not None and (value <= low if raw.get("exclusiveMinimum") else value < low):
            problems.append(f"should be greater than {'' if raw.get('exclusiveMinimum') else 'or equal to '}{low}")
        if high is not None and (value >= high if raw.get("exclusiveMaximum") else value > high):
            problems.append(f"should be less than {'' if raw.get('exclusiveMaximum') else 'or equal to '}{high}")
        if raw.get("multipleOf") and value % raw["multipleOf"]:
            problems.append(f"should be a multiple of {raw['multipleOf']}")
    elif isinstance(value, str):
        if len(value) < raw.get("minLength", 0):
            problems.append(f"should be at least {raw['minLength']} chars long")
    elif isinstance(value, list) and len(value) < raw.get("minItems", 0):
        problems.append(f"should have at least {raw['minItems']} items")
    elif isinstance(value, dict) and len(value) < raw.get("minProperties", 0):
        problems.append(f"should have at least {raw['minProperties']} properties")
    return problems


def _too_long(raw: Obj, value: Any) -> Cause | None:
    """Upper size limits have reasons of their own; the path is filled in by the caller."""
    if isinstance(value, str) and len(value) > raw.get("maxLength", len(value)):
        return Cause("FieldValueTooLong", f"Too long: may not be more than {raw['maxLength']} bytes", "")
    if isinstance(value, list) and len(value) > raw.get("maxItems", len(value)):
        limit = raw["maxItems"]
        return Cause("FieldValueTooMany", f"Too many: {len(value)}: must have at most {limit} items", "")
    if isinstance(value, dict) and len(value) > raw.get("maxProperties", len(value)):
        limit = raw["maxProperties"]
        return Cause("FieldValueTooMany", f"Too many: {len(value)}: must have at most {limit} items", "")
    return None


def _check_values(node: Node, raw: Obj, value: Any, path: str, causes: list[Cause]) -> None:
    where = path or "<nil>"
    for problem in _limits(raw, value):
        message = f"Invalid value: {shown(value)}: {path} in body {problem}"
        causes.append(Cause("FieldValueInvalid", message, where))
    if (long := _too_long(raw, value)) is not None:
        causes.append(Cause(long.reason, long.message, where))
    if "enum" in raw and value not in raw["enum"]:
        allowed = ", ".join(shown(item) for item in raw["enum"])
        message = f"Unsupported value: {shown(value)}: supported values: {allowed}"
        causes.append(Cause("FieldValueNotSupported", message, where))
    if isinstance(value, str):
        pattern = node.pattern if raw is node.raw else (re.compile(raw["pattern"]) if raw.get("pattern") else None)
        if pattern is not None and not pattern.search(value):
            message = f"Invalid value: {shown(value)}: {path} in body should match '{raw['pattern']}'"
            causes.append(Cause("FieldValueInvalid", message, where))
        check = _FORMATS.get(raw.get("format", ""))
        if check is not None and not _accepts(check, value):
            message = f"Invalid value: {shown(value)}: {path} in body must be of type {raw['format']}: {shown(value)}"
            causes.append(Cause("FieldValueInvalid", message, where))
    _check_junctors(node, raw, value, path, causes)


def _check_junctors(node: Node, raw: Obj, value: Any, path: str, causes: list[Cause]) -> None:
    for branch in raw.get("allOf", ()):
        _check_branch(node, branch, value, path, causes)
    for keyword in ("anyOf", "oneOf"):
        branches = raw.get(keyword)
        if not branches or (node.int_or_string and keyword == "anyOf"):
            continue
        fitting = sum(_fits(node, branch, value, path) for branch in branches)
        if fitting == 0 or (keyword == "oneOf" and fitting > 1):
            wanted = "at least one schema (anyOf)" if keyword == "anyOf" else "one and only one schema (oneOf)"
            message = f'Invalid value: "": "{path}" must validate {wanted}'
            causes.append(Cause("FieldValueInvalid", message, path or "<nil>"))
    if "not" in raw and _fits(node, raw["not"], value, path):
        message = f'Invalid value: "": "{path}" must not validate the schema (not)'
        causes.append(Cause("FieldValueInvalid", message, path or "<nil>"))


def _fits(node: Node, branch: Obj, value: Any, path: str) -> bool:
    found: list[Cause] = []
    _check_branch(node, branch, value, path, found)
    return not found


def _check_branch(node: Node, branch: Obj, value: Any, path: str, causes: list[Cause]) -> None:
    """A branch of a junctor says only value validations; structure comes from `node`."""
    _check_values(node, branch, value, path, causes)
    if isinstance(value, dict):
        _require(branch.get("required", ()), value, path, causes)
        for name, sub in branch.get("properties", {}).items():
            child = node.properties.get(name)
            if child is not None and name in value:
                _check_branch(child, sub, value[name], f"{path}.{name}" if path else name, causes)
    elif isinstance(value, list) and node.items is not None and isinstance(branch.get("items"), dict):
        for index, item in enumerate(value):
            _check_branch(node.items, branch["items"], item, f"{path}[{index}]", causes)


def _accepts(check: Callable[[str], object], value: str) -> bool:
    try:
        return check(value) is not False
    except ValueError:
        return False


_FORMATS: dict[str, Callable[[str], object]] = {
    "date-time": lambda text: "T" in text and datetime.fromisoformat(text),
    "date": lambda text: datetime.strptime(text, "%Y-%m-%d"),  # noqa: DTZ007 - a date has no zone
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "cidr": lambda text: "/" in text and ipaddress.ip_interface(text),
    "mac": lambda text: re.fullmatch(r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}", text) is not None,
    "uuid": lambda text: re.fullmatch(r"(?i)[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", text) is not None,
    "byte": lambda text: base64.b64decode(text, validate=True) is not None,
    "duration": lambda text: re.fullmatch(r"[-+]?(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+|0", text) is not None,
}
