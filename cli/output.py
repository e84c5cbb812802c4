"""From records to what is printed: aligned columns, JSON, YAML or names. Colour only on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar, dataclass_transform

import msgspec

from crds.meta import wire_name


class Format(StrEnum):
    """`-o`."""

    TEXT = ""
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Record(msgspec.Struct, frozen=True, kw_only=True, rename=wire_name):
    """Base of what views return: one line of a table, one object of JSON; every field is printed in JSON."""


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """One column. `wide`: only with `-o wide`. `style` gives a rich style for a cell's text, "" for none."""

    title: str
    text: Callable[[R], object]
    wide: bool = False
    style: Callable[[str], str] = lambda text: ""


def machine(value: object, fmt: Format) -> str:
    """JSON or YAML of any record or list of records."""
    plain: Any = msgspec.to_builtins(value)
    if fmt is Format.YAML:
        import yaml

        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=1000)
    return msgspec.json.format(msgspec.json.encode(plain), indent=2).decode() + "\n"


def names(kind: str, listed: Sequence[str]) -> str:
    """`kind/name` lines, as `kubectl -o name` prints them."""
    return "".join(f"{kind}/{name}\n" for name in listed)


def table(
    columns: Sequence[Column[R]], records: Sequence[R], fmt: Format = Format.TEXT, *, colour: bool = False
) -> str:
    """Aligned columns with a heading line; two spaces between, nothing cut off."""
    shown = [column for column in columns if fmt is Format.WIDE or not column.wide]
    cells = [[str(column.text(record)) or "-" for column in shown] for record in records]
    widths = [
        max(len(column.title), *(len(row[index]) for row in cells)) if cells else len(column.title)
        for index, column in enumerate(shown)
    ]
    lines = [_line([column.title for column in shown], widths)]
    for row in cells:
        styles = [column.style(text) for column, text in zip(shown, row, strict=True)] if colour else []
        lines.append(_line(row, widths, styles))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int], styles: Sequence[str] = ()) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    padded[-1] = padded[-1].rstrip()
    if styles:
        padded = [styled(text, style) for text, style in zip(padded, styles, strict=True)]
    return "  ".join(padded).rstrip()


def styled(text: str, style: str) -> str:
    """The text in a rich style (`bold red`), as terminal escapes."""
    if not style:
        return text
    from rich.color import ColorSystem
    from rich.style import Style

    return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)


def facts(pairs: Sequence[tuple[str, str]], indent: str = "  ") -> str:
    """Label and text, one a line, aligned; empty texts are left out."""
    shown = [(label, text) for label, text in pairs if text]
    width = max((len(label) for label, _ in shown), default=0)
    return "".join(f"{indent}{label.ljust(width)}  {text}\n" for label, text in shown)
