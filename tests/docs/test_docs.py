"""The documentation is true where a machine can tell: links, commands, error reasons, and the tour of Getting started."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer.main

from cli.main import app, kind_of
from e2e.lab import standing
from ipam import errors
from tests.docs import pages
from tests.docs.pages import ROOT, Block, Command

GETTING_STARTED = ROOT / "docs" / "getting-started.md"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
SHELL_LANGUAGES = frozenset({"", "sh", "bash", "shell", "console"})
CHANGES = ("kubectl create", "kubectl apply", "kubectl delete", "kubectl -n first delete", "cat", "rm")
PATIENCE_S = 15.0
LAB = 'title="lab"'
"""What marks the blocks that are run: an attribute that GitHub leaves out and the site shows."""

every_page = pytest.mark.parametrize("page", pages.pages(), ids=lambda page: str(page.relative_to(ROOT)))


@every_page
def test_no_link_is_dead(page: Path) -> None:
    dead = []
    for line, target in pages.links(page):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        goal = (page.parent / path).resolve() if path else page
        if not goal.exists() or ROOT not in (goal, *goal.parents):
            dead.append(f"{page.name}:{line}: {target} does not exist")
        elif anchor and goal.suffix == ".md" and anchor not in pages.anchors(goal):
            dead.append(f"{page.name}:{line}: {goal.name} has no heading for #{anchor}")
    assert not dead, "\n".join(dead)


@every_page
def test_every_command_exists(page: Path) -> None:
    problems = [f"{where}: {why}" for where, words in mentioned(page) if (why := refused(words))]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nephila status -o json", ""),
        ("nephila trace pod NAMESPACE/NAME", ""),
        ("nephila --context here trace ip 10.6.0.1", ""),
        ("nephila trace 10.6.0.1", ""),
        ("nephila explain NAMESPACE/NAME", ""),
        ("nephila trace host a", "no command"),
        ("nephila fsck --deep", "no option"),
        ("kubectl nephila nodes", ""),
        ("kubectl nephila nodez", "no command"),
        ("make lab SCENARIO=tight", ""),
        ("make lobster", "no target"),
    ],
)
def test_a_wrong_command_would_be_noticed(line: str, why: str) -> None:
    assert why in refused(shlex.split(line)) and bool(refused(shlex.split(line))) == bool(why)


def test_every_error_reason_is_explained() -> None:
    text = TROUBLESHOOTING.read_text()
    explained = {
        (int(row["code"]), row["reason"])
        for row in re.finditer(r"^\| (?P<code>\d+) \| `(?P<reason>\w+)` \|", text, re.MULTILINE)
    }
    assert {(kind.code, kind.reason) for kind in leaves(errors.NephilaError)} - explained == set()


def test_every_error_of_the_shim_alone_is_explained() -> None:
    source = (ROOT / "cni" / "shim.c").read_text()
    reasons = set(re.findall(r"fail\([^,]+, \"(\w+)\"", source))
    assert reasons
    assert {reason for reason in reasons if f"`{reason}`" not in TROUBLESHOOTING.read_text()} == set()


def test_every_event_reason_that_warns_of_a_pod_is_in_troubleshooting() -> None:
    page = (ROOT / "docs" / "reference" / "events.md").read_text()
    reasons = re.findall(r"^\| `(\w+)` \| Warning \| (?:Pod|SpiderIPPool, Node, Pod) \|", page, re.MULTILINE)
    assert len(reasons) >= 8
    assert [reason for reason in reasons if f"`{reason}`" not in TROUBLESHOOTING.read_text()] == []


def test_promises_name_tests_that_exist() -> None:
    """`tests/a/test_b.py::test_c`, or a file or folder alone."""
    text = (ROOT / "docs" / "promises.md").read_text()
    named = re.findall(r"`((?:tests|e2e|sim)/[\w/.]+)(?:::(\w+))?`", text)
    assert len(named) >= 20
    missing = [
        f"{path}::{test}"
        for path, test in named
        if not (ROOT / path).exists() or (test and f"def {test}(" not in (ROOT / path).read_text())
    ]
    assert not missing


def test_every_page_but_the_runbooks_is_in_the_sites_menu() -> None:
    def named(item: Any) -> Iterator[str]:
        for value in item.values() if isinstance(item, dict) else item:
            yield from (value,) if isinstance(value, str) else named(value)

    menu = set(named(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    docs = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").glob("**/*.md")}
    assert menu == {page for page in docs if not page.startswith("runbooks/Nephila")}


def test_the_two_readmes_have_the_same_commands_and_links() -> None:
    ours, theirs = ROOT / "README.md", ROOT / "README.zh.md"
    assert {" ".join(words) for _, words in mentioned(ours)} == {" ".join(words) for _, words in mentioned(theirs)}
    languages = {ours.name, theirs.name}
    assert {target for _, target in pages.links(ours)} - languages == {
        target for _, target in pages.links(theirs)
    } - languages


def test_output_is_compared() -> None:
    shown = pages.pattern(("a … c", "…", "  end"))
    assert shown.fullmatch(pages.plain("a b c\n\nx\ny\n end\n"))
    assert shown.fullmatch(pages.plain("a  c\nend\n"))
    assert not shown.fullmatch(pages.plain("a b d\nend\n"))
    assert not shown.fullmatch(pages.plain("a b c\nend\nmore\n"))


# The tour ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kubeconfig() -> Iterator[str]:
    """Of the lab that stands, else of one that stands for this test."""
    present = standing.current()
    if present is not None:
        yield present.kubeconfig
        return
    nephila = Path(sys.executable).with_name("nephila")
    subprocess.run([nephila, "lab", "up", "--empty"], check=True, timeout=100)
    try:
        started = standing.current()
        assert started is not None
        yield started.kubeconfig
    finally:
        subprocess.run([nephila, "lab", "down"], check=True, timeout=60)


@pytest.mark.netns
@pytest.mark.timeout(180)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_getting_started_works_by_the_text_alone(kubeconfig: str) -> None:
    tour = [block for block in pages.blocks(GETTING_STARTED) if block.info == ("console", LAB)]
    assert len(tour) >= 5
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "KUBECONFIG": kubeconfig, "COLUMNS": "150"}
    for block in tour:
        for command in pages.commands(block):
            perform(block, command, environ)


def perform(block: Block, command: Command, environ: dict[str, str]) -> None:
    """What only looks is repeated for a while: records follow the pods."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        done = subprocess.run(
            ["bash", "-c", command.text], env=environ, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
        )
        fits = not command.shown or pages.pattern(command.shown).fullmatch(pages.plain(done.stdout))
        if done.returncode == 0 and fits:
            return
        if command.text.startswith(CHANGES) or time.monotonic() > deadline:
            pytest.fail(
                f"{block.page.name}:{command.line}: {command.text}\nexit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        time.sleep(0.5)


# Commands ----------------------------------------------------------------------------------------------------------------------------


def mentioned(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Every `nephila …`, `kubectl nephila …` and `make …` of the page's shell blocks, and of the code in its prose."""
    for block in pages.blocks(page):
        if block.info[:1] == ("console",):
            for command in pages.commands(block):
                yield from ((f"{block.where}", words) for words in ours(command.text.split("<<")[0]))
        elif (block.info or ("",))[0] in SHELL_LANGUAGES:
            for line in block.text.splitlines():
                yield from ((block.where, words) for words in ours(line.split("#")[0]))
    for number, line in pages.prose(page):
        for code in re.findall(r"`([^`]+)`", line):
            yield from ((f"{page.relative_to(ROOT)}:{number}", words) for words in ours(code))


def ours(line: str) -> Iterator[list[str]]:
    """The parts of a shell line that are ours."""
    for part in re.split(r"&&|\|\||[;|]", line.replace("\\\n", " ")):
        try:
            words = shlex.split(part)
        except ValueError:
            continue
        while words and re.fullmatch(r"\w+=\S*|sudo|\$", words[0]):
            words.pop(0)
        if words and words[0].startswith(".venv/bin/"):
            words[0] = words[0].removeprefix(".venv/bin/")
        if (words[:1] in (["nephila"], ["make"]) or words[:2] == ["kubectl", "nephila"]) and "…" not in words:
            yield words


def refused(words: list[str]) -> str:
    """Why the command line would not be understood; "" if it would."""
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        wrong = [word for word in words[1:] if "=" not in word and word not in targets]
        return f"no target {wrong[0]}" if wrong else ""
    if words[0] == "kubectl":
        words = words[1:]
    if len(words) > 1 and not words[1].startswith("-") and " " in words[1]:
        return f"no command {words[1]}"
    # Typer may carry a copy of click, hence no types here.
    command: Any = typer.main.get_command(app)
    root = options_of(command)
    rest = words[1:]
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            return ""
        if word.startswith("-"):
            name = word.partition("=")[0]
            known = root | options_of(command)
            if name not in known:
                return f"{command.name}: no option {name}"
            if known[name] and "=" not in word and rest:
                rest.pop(0)
        elif hasattr(command, "commands"):
            word, rest = meant(command.commands, word, rest)
            if word not in command.commands:
                return f"{command.name}: no command {word}"
            command = command.commands[word]
            if command.name == "shell":  # what follows is another program's
                return ""
    return ""


def meant(commands: Any, word: str, rest: list[str]) -> tuple[str, list[str]]:
    """`trace 10.0.0.5` is `trace ip 10.0.0.5`."""
    kind = kind_of(word)
    return (kind, [word, *rest]) if word not in commands and kind in commands else (word, rest)


def options_of(command: Any) -> dict[str, bool]:
    """Name → whether it takes a value."""
    return {
        name: not getattr(param, "is_flag", False)
        for param in command.params
        if param.param_type_name == "option"
        for name in (*param.opts, *param.secondary_opts)
    }


def leaves(kind: type[errors.NephilaError]) -> Iterator[type[errors.NephilaError]]:
    """Errors that are raised as they are: those below `kind` with a reason of their own, and without further children."""
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    if kind is errors.BadValue or not children:
        yield kind
    for child in children:
        yield from leaves(child)
