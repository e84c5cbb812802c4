"""The examples are configurations that the shim understands."""

import json
from pathlib import Path

import pytest
import yaml

from cni import build

EXAMPLES = build.HERE / "examples"
DEFINITIONS = sorted(EXAMPLES.glob("*.yaml"))


def check_plugin(config: dict[str, object]) -> None:
    ipam = config["ipam"]
    assert isinstance(ipam, dict)
    assert ipam["type"] in ("nephila", "spiderpool")
    assert config["type"] == "macvlan"


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: str(path.name))
def test_network_definitions_hold_json(path: Path) -> None:
    definition = yaml.safe_load(path.read_text())
    assert definition["kind"] == "NetworkAttachmentDefinition"
    config = json.loads(definition["spec"]["config"])
    assert config["cniVersion"] in ("0.3.1", "1.0.0")
    check_plugin(config)


def test_conflist_holds_plugins() -> None:
    config = json.loads((EXAMPLES / "10-macvlan-nephila.conflist").read_text())
    assert config["name"]
    check_plugin(config["plugins"][0])


def test_every_example_is_explained() -> None:
    text = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in EXAMPLES.iterdir() if path.name not in text and path.name != "README.md"] == []
