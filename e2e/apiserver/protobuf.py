"""The few bodies that kubectl sends only as protobuf (`create namespace`, `drain`, …), read into their JSON form.

Field numbers are those of the published Kubernetes API definitions (`generated.proto`). A kind or a field that is not listed here is
refused, never dropped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAGIC = b"k8s\x00"
MEDIA_TYPE = "application/vnd.kubernetes.protobuf"


class Unreadable(ValueError):
    """Not a body that this reader knows."""


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    kind: str = "text"  # text, int, bool, bytes, texts, map, bytemap, message
    fields: dict[int, Field] | None = None


_TIME = {1: Field("seconds", "int"), 2: Field("nanos", "int")}
_METADATA = {
    1: Field("name"),
    2: Field("generateName"),
    3: Field("namespace"),
    4: Field("selfLink"),
    5: Field("uid"),
    6: Field("resourceVersion"),
    7: Field("generation", "int"),
    8: Field("creationTimestamp", "message", _TIME),
    11: Field("labels", "map"),
    12: Field("annotations", "map"),
    14: Field("finalizers", "texts"),
}
_META = Field("metadata", "message", _METADATA)
_PRECONDITIONS = {1: Field("uid"), 2: Field("resourceVersion")}
_DELETE_OPTIONS = {
    1: Field("gracePeriodSeconds", "int"),
    2: Field("preconditions", "message", _PRECONDITIONS),
    3: Field("orphanDependents", "bool"),
    4: Field("propagationPolicy"),
    5: Field("dryRun", "texts"),
}
_TARGET = {1: Field("kind"), 2: Field("namespace"), 3: Field("name"), 4: Field("uid"), 5: Field("apiVersion")}
_TOKEN_SPEC = {1: Field("audiences", "texts"), 4: Field("expirationSeconds", "int")}
_TOKEN_STATUS = {1: Field("token"), 2: Field("expirationTimestamp", "message", _TIME)}
_NAMESPACE_SPEC = {1: Field("finalizers", "texts")}
_KINDS: dict[str, dict[int, Field]] = {
    "Namespace": {
        1: _META,
        2: Field("spec", "message", _NAMESPACE_SPEC),
        3: Field("status", "message", {1: Field("phase")}),
    },
    "ConfigMap": {1: _META, 2: Field("data", "map"), 3: Field("binaryData", "bytemap"), 4: Field("immutable", "bool")},
    "Secret": {
        1: _META,
        2: Field("data", "bytemap"),
        3: Field("type"),
        4: Field("stringData", "map"),
        5: Field("immutable", "bool"),
    },
    "ServiceAccount": {1: _META},
    "Eviction": {1: _META, 2: Field("deleteOptions", "message", _DELETE_OPTIONS)},
    "DeleteOptions": _DELETE_OPTIONS,
    "Binding": {1: _META, 2: Field("target", "message", _TARGET)},
    "TokenRequest": {1: _META, 2: Field("spec", "message", _TOKEN_SPEC), 3: Field("status", "message", _TOKEN_STATUS)},
}
_TYPE = {1: Field("apiVersion"), 2: Field("kind")}
_ENVELOPE = {
    1: Field("type", "message", _TYPE),
    2: Field("raw", "bytes"),
    3: Field("contentEncoding"),
    4: Field("contentType"),
}


def decode(data: bytes) -> dict[str, Any]:
    """The JSON form. Raises Unreadable."""
    if not data.startswith(MAGIC):
        raise Unreadable("the magic number is missing")
    envelope = _message(data[len(MAGIC) :], _ENVELOPE)
    identity = envelope.get("type", {})
    fields = _KINDS.get(identity.get("kind", ""))
    if fields is None:
        raise Unreadable(f"{identity.get('kind')} is not read from protobuf here")
    return {**identity, **_message(envelope.get("raw", b""), fields)}


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise Unreadable("a number is cut off")


def _entries(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) in order; only numbers and length-delimited values occur in these kinds."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag & 7 == 0:
            number, position = _varint(data, position)
            yield tag >> 3, number
        elif tag & 7 == 2:
            length, position = _varint(data, position)
            if position + length > len(data):
                raise Unreadable("a value is cut off")
            yield tag >> 3, data[position : position + length]
            position += length
        else:
            raise Unreadable(f"wire type {tag & 7} does not occur here")


def _message(data: bytes, fields: dict[int, Field]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for number, value in _entries(data):
        field = fields.get(number)
        if field is None:
            if value:
                raise Unreadable(f"field {number} is not read here")
            continue
        _set(result, field, value)
    # Go writes empty values too; in JSON they are absent.
    return {name: value for name, value in result.items() if value not in ("", {}, [], b"") and value is not None}


def _set(result: dict[str, Any], field: Field, value: int | bytes) -> None:
    if isinstance(value, int):
        if field.kind not in ("int", "bool"):
            raise Unreadable(f"{field.name} is not a number")
        if field.kind == "bool":
            result[field.name] = bool(value)
        elif value or field.name == "gracePeriodSeconds":
            result[field.name] = value
    elif field.kind == "text":
        result[field.name] = value.decode()
    elif field.kind == "bytes":
        result[field.name] = value
    elif field.kind == "texts":
        result.setdefault(field.name, []).append(value.decode())
    elif field.kind in ("map", "bytemap"):
        pair = dict(_entries(value))
        key, item = pair.get(1, b""), pair.get(2, b"")
        if isinstance(key, int) or isinstance(item, int):
            raise Unreadable(f"{field.name} is not a map of texts")
        text = item.decode() if field.kind == "map" else base64.b64encode(item).decode()
        result.setdefault(field.name, {})[key.decode()] = text
    else:
        result[field.name] = _message(value, field.fields or {})
