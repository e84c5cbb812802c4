"""A page for one settings file: every key, its type, its default and its meaning, from the msgspec structs and the comments beside their fields."""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
import typing
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import msgspec


class Undocumented(ValueError):
    """A field has no comment that says what it means."""


def page(title: str, program: str, settings: type[msgspec.Struct]) -> str:
    """Raises Undocumented."""
    lines = [
        f"# {title}",
        "",
        "Generated from the code by `make generate`; do not edit.",
        "",
        f"One YAML file, given to `{program} --config FILE`. A key that is not listed here is refused, so a misspelt one is an error and never",
        "a silent default. Names that end in `S` are seconds.",
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{key}` | {kind} | {default} | {meaning} |" for key, kind, default, meaning in rows(settings)]
    return "\n".join([*lines, ""])


def rows(settings: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of every key, the group itself before its keys. Raises Undocumented."""
    comments = comments_of(settings)
    hints = typing.get_type_hints(settings)
    for field in msgspec.structs.fields(settings):
        key, kind = f"{prefix}{field.encode_name}", hints[field.name]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield key, "object", "", _sentence(" ".join((inspect.getdoc(kind) or "").split()))
            yield from rows(kind, f"{key}.")
            continue
        meaning = comments.get(field.name, "")
        if not meaning:
            raise Undocumented(
                f"{settings.__module__}.{settings.__name__}.{field.name} has no comment that says what it means"
            )
        yield key, _type(kind), _default(field), _sentence(meaning)
        if (item := _item_of(kind)) is not None:
            yield from rows(item, f"{key}[].")


def _item_of(kind: Any) -> type[msgspec.Struct] | None:
    """What a list of objects consists of."""
    inner = get_args(kind)[0] if get_origin(kind) in (list, tuple) else None
    return inner if isinstance(inner, type) and issubclass(inner, msgspec.Struct) else None


def comments_of(settings: type[msgspec.Struct]) -> dict[str, str]:
    """The comments on the lines of each field."""
    source = inspect.getsource(settings)
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    notes: dict[int, str] = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, str] = {}
    for statement in body.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            last = statement.end_lineno or statement.lineno
            texts = [notes[line] for line in range(statement.lineno, last + 1) if line in notes]
            found[statement.target.id] = " ".join(texts)
    return found


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not msgspec.NODEFAULT:
        return f"`{msgspec.json.encode(field.default).decode()}`"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{msgspec.json.encode(field.default_factory()).decode()}`"
    return "required"


def _type(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) in (typing.Union, UnionType):
        return " or ".join(_type(part) for part in get_args(kind))
    if get_origin(kind) is dict:
        return "map"
    if get_origin(kind) in (list, tuple):
        return "list of objects" if _item_of(kind) else f"list of {_type(get_args(kind)[0])}"
    return {str: "text", bool: "true or false", int: "whole number", float: "number"}.get(kind, str(kind))


def _sentence(text: str) -> str:
    """As a sentence within a table."""
    text = text.strip().replace("|", "\\|")
    first = text[:1].upper() + text[1:] if text[:1].islower() and not text.startswith("`") else text
    return first if first.endswith((".", "!", "?")) else f"{first}."
