"""From a typed model to the structural OpenAPI schema that a CustomResourceDefinition needs.

Structural means: every node has a `type`, nothing is referenced or nullable, no `anyOf` outside value checks. Limits,
descriptions and CEL rules come from `crds.rules.say` annotations, descriptions of objects from the structs' docstrings.
Only defaults written in an annotation are defaults of the API; those of the Python models mean "absent".
"""

from __future__ import annotations

import inspect as python_inspect
from collections.abc import Callable
from typing import Any

from msgspec import inspect

Schema = dict[str, Any]


class NotStructural(TypeError):
    """A model uses a type that has no structural schema. A mistake in the model, found when generating."""


def structural(struct: type) -> Schema:
    """The schema of a struct, with everything inlined. Raises NotStructural, naming the place."""
    return _convert(inspect.type_info(struct), struct.__name__)


def root(struct: type, rules: tuple[dict[str, str], ...] = ()) -> Schema:
    """The schema of a whole object: as `structural`, but `metadata` is the API server's own business."""
    schema = structural(struct)
    schema["properties"] = {
        "apiVersion": {"type": "string", "description": "Group and version of this object's schema."},
        "kind": {"type": "string", "description": "The kind of this object."},
        "metadata": {"type": "object"},
        **{name: part for name, part in schema["properties"].items() if name not in ("apiVersion", "kind", "metadata")},
    }
    if rules:
        schema["x-kubernetes-validations"] = list(rules)
    return schema


def _convert(node: inspect.Type, where: str) -> Schema:
    if isinstance(node, inspect.Metadata):
        return {**_convert(node.type, where), **(node.extra_json_schema or {})}
    if isinstance(node, inspect.StructType):
        return _object(node, where)
    if isinstance(node, inspect.VarTupleType):
        return {"type": "array", "items": _convert(node.item_type, f"{where}[]")}
    if isinstance(node, inspect.DictType):
        return _map(node, where)
    scalar = _SCALARS.get(type(node))
    if scalar is None:
        # A union would need `anyOf` or `nullable`; of `T | UnsetType`, for what may be absent, msgspec shows T alone.
        raise NotStructural(f"{where}: {type(node).__name__} has no structural schema")
    return scalar()


_SCALARS: dict[type, Callable[[], Schema]] = {
    inspect.StrType: lambda: {"type": "string"},
    inspect.BoolType: lambda: {"type": "boolean"},
    inspect.IntType: lambda: {"type": "integer", "format": "int64"},
    inspect.DateTimeType: lambda: {"type": "string", "format": "date-time"},
}


def _object(node: inspect.StructType, where: str) -> Schema:
    schema: Schema = {"type": "object"}
    if doc := node.cls.__dict__.get("__doc__"):
        schema["description"] = " ".join(python_inspect.cleandoc(doc).split())
    fields = [field for field in node.fields if field.encode_name != "metadata"]
    if required := [field.encode_name for field in fields if field.required]:
        schema["required"] = required
    schema["properties"] = {field.encode_name: _convert(field.type, f"{where}.{field.encode_name}") for field in fields}
    return schema


def _map(node: inspect.DictType, where: str) -> Schema:
    if isinstance(node.value_type, inspect.AnyType):
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {"type": "object", "additionalProperties": _convert(node.value_type, f"{where}{{}}")}
