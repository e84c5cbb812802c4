"""One settings file serves every node of a DaemonSet."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipam.addresses import Address, Network
from ipam.errors import BadValue
from ipam.parents import Parent
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


def test_one_interface_and_several_are_told_alike(settings: Path) -> None:
    settings.write_text(
        "node: n\nparent: eth0\nparents:\n- {interface: eth1, subnets: [10.7.0.0/16]}\n- {interface: eth2, domain: lab}\n"
    )
    parents = load_config(settings, {}).attached()
    assert parents.listed == (
        Parent("eth0"),
        Parent("eth1", subnets=(Network.parse("10.7.0.0/16"),)),
        Parent("eth2", "lab"),
    )

    def behind(domain: str, text: str) -> str:
        found = parents.of(domain, Address.parse(text))
        return found.interface if found is not None else ""

    assert behind("", "10.7.1.2") == "eth1"  # named subnets go before what is left
    assert behind("", "10.6.1.2") == behind("", "fd00::1") == "eth0"
    assert behind("lab", "10.7.1.2") == "eth2"
    assert behind("other", "10.7.1.2") == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("parents: [{interface: eth1}]", "eth0 and eth1 both take every subnet"),
        ("parents: [{interface: eth0, subnets: [10.7.0.0/16]}]", "eth0 is listed twice"),
        ("parents: [{interface: eth1, subnets: [10.7.0.1/16]}]", r"parents\[0\].subnets: .*host bits"),
        ("parents: [{interface: '', domain: lab}]", r"parents\[0\].interface"),
        (
            "parents: [{interface: eth1, subnets: [10.0.0.0/8]}, {interface: eth2, subnets: [10.7.0.0/16]}]",
            "subnet 10.7.0.0/16 of eth2 overlaps 10.0.0.0/8 of eth1",
        ),
        ("parents: [{name: eth1}]", "interface"),
        ("probe: {proxyMACs: ['02:00']}", r"proxyMACs\[0\]"),
    ],
)
def test_interfaces_that_cannot_be_told_apart_are_refused(settings: Path, text: str, why: str) -> None:
    settings.write_text(f"node: n\nparent: eth0\n{text}\n")
    with pytest.raises(BadValue, match=why):
        load_config(settings, {})
