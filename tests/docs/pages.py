"""The Markdown pages of the project as data: headings, links, fenced blocks, and the commands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<info>[^`]*)$")
_LINK = re.compile(
    r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)(?:\s+\"[^\"]*\")?\)|!\[[^\]]*\]\((?P<image>[^()\s]+)\)"
)
_HEADING = re.compile(r"^#{1,6}\s+(?P<text>.+?)\s*#*$")
_ANCHOR = re.compile(r"<a\s+(?:name|id)=\"(?P<name>[^\"]+)\"")
_CODE = re.compile(r"`[^`]*`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `line` is that of its fence, from 1; `text` has the fence's indentation removed."""

    page: Path
    line: int
    info: tuple[str, ...]
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a `console` block with the output that the page shows; `shown` is empty if it shows none."""

    line: int
    text: str
    shown: tuple[str, ...]


@cache
def pages() -> tuple[Path, ...]:
    """What people read: the README in each language and everything below docs/, the chart's and the examples' pages."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("helm/**/*.md"), *ROOT.glob("cni/**/*.md")]
    return tuple(sorted(found))


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block, also one inside a list. Raises ValueError if the last is not closed."""
    opened: tuple[int, re.Match[str]] | None = None
    body: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence:
                opened, body = (number, fence), []
            continue
        start, opening = opened
        if fence and fence["ticks"].startswith(opening["ticks"]) and not fence["info"].strip():
            yield Block(page, start, tuple(opening["info"].split()), "\n".join(body))
            opened = None
        else:
            body.append(line.removeprefix(opening["indent"]))
    if opened is not None:
        raise ValueError(f"{page}:{opened[0]}: the block is not closed")


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Lines outside fenced blocks, with their numbers."""
    inside = ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if fence and (not inside or fence["ticks"].startswith(inside)):
            inside = "" if inside else fence["ticks"]
        elif not inside:
            yield number, line


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Targets of links and images outside code, with their line."""
    for number, line in prose(page):
        for match in _LINK.finditer(_CODE.sub("", line)):
            yield number, match["target"] or match["image"]


def anchors(page: Path) -> frozenset[str]:
    """What `#…` may name, as GitHub makes it of headings."""
    found: dict[str, int] = {}
    names: set[str] = set()
    for _, line in prose(page):
        if heading := _HEADING.match(line):
            slug = slug_of(heading["text"])
            count = found[slug] = found.get(slug, -1) + 1
            names.add(f"{slug}-{count}" if count else slug)
        names.update(match["name"] for match in _ANCHOR.finditer(line))
    return frozenset(names)


def slug_of(heading: str) -> str:
    """GitHub's anchor of a heading: the letters, digits, `-` and `_` of its text, lower case, spaces as `-`."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def commands(block: Block) -> tuple[Command, ...]:
    """Those of a `console` block: `$ ` begins one, `> ` continues it, every other line is what it prints."""
    found: list[Command] = []
    for offset, line in enumerate(block.text.splitlines(), 1):
        if line.startswith("$ "):
            found.append(Command(block.line + offset, line[2:], ()))
        elif not found:
            raise ValueError(f"{block.where}: a console block begins with a command")
        elif line.startswith("> ") or (found[-1].text.endswith("\\") and not found[-1].shown):
            last = found.pop()
            found.append(Command(last.line, f"{last.text}\n{line.removeprefix('> ')}", ()))
        else:
            last = found.pop()
            found.append(Command(last.line, last.text, (*last.shown, line)))
    return tuple(found)


def pattern(shown: tuple[str, ...]) -> re.Pattern[str]:
    """What output must look like: `…` stands for any text of a line, alone on a line for any lines; runs of blanks are equal."""
    parts = []
    for line in (item.strip() for item in shown):
        if line == "…":
            parts.append(r"(?:.*\n)*?")
        elif line:
            pieces = [r"\s*".join(re.escape(word) for word in piece.split()) for piece in line.split("…")]
            parts.append(r".*?".join(pieces) + r"[^\S\n]*\n")
    return re.compile("".join(parts))


def plain(output: str) -> str:
    """Output as `pattern` compares it: no blank lines, no indentation."""
    return "".join(f"{line.strip()}\n" for line in output.splitlines() if line.strip())
