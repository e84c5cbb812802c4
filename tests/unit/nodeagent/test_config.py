"""One settings file serves every node of a DaemonSet."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipam.errors import BadValue
from nodeagent.config import load_config


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return tmp_path / "agent.yaml"


def test_the_environment_names_the_node_where_the_file_does_not(settings: Path) -> None:
    settings.write_text("parent: eth1\n")
    assert load_config(settings, {"NODE_NAME": "n1"}).node == "n1"


def test_the_file_wins_over_the_environment(settings: Path) -> None:
    settings.write_text("node: n2\n")
    assert load_config(settings, {"NODE_NAME": "n1"}).node == "n2"


def test_an_empty_file_is_enough(settings: Path) -> None:
    settings.write_text("")
    assert load_config(settings, {"NODE_NAME": "n1"}).node == "n1"


@pytest.mark.parametrize("text", ["parent: eth1\n", "", "- node\n"])
def test_a_node_must_come_from_somewhere(settings: Path, text: str) -> None:
    settings.write_text(text)
    with pytest.raises(BadValue, match="agent"):
        load_config(settings, {})
