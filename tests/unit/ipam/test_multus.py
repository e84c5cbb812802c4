import pytest

from ipam.errors import BadAnnotation
from ipam.multus import DEFAULT_NETWORK, NETWORKS, NetworkRef, nad_of_interface, parse_networks, position

COMPACT = '[{"name":"vlan10","namespace":"kube-system"},{"name":"vlan20","interface":"data"}]'
PRETTY = """
[
  {
    "name": "vlan10",
    "namespace": "kube-system"
  },
  {
    "name": "vlan20",
    "interface": "data"
  }
]
"""
EXPECTED = (NetworkRef("kube-system", "vlan10", "net1"), NetworkRef("default", "vlan20", "data"))


@pytest.mark.parametrize(
    "text", [COMPACT, PRETTY, "kube-system/vlan10,vlan20@data", " kube-system/vlan10 ,\n  default/vlan20@data "]
)
def test_m00036_m00037_both_notations_mean_the_same(text: str) -> None:
    assert parse_networks(text, "default") == EXPECTED


def test_old_name_of_the_interface_key_is_understood() -> None:
    assert parse_networks('[{"name":"a","interfaceRequest":"x0"}]', "d") == (NetworkRef("d", "a", "x0"),)


def test_nothing_written_is_no_network() -> None:
    assert parse_networks("", "d") == parse_networks(" \n", "d") == ()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("a,,b", "[1]"),
        ("a@", "[0]"),
        ("a@b@c", "[0]"),
        ("x/y/z", "[0]"),
        ("/a", "[0]"),
        ("ns/", "[0]"),
        ("Upper", "[0]"),
        ("a,ns_1/b", "[1]"),
        ('[{"name":""}]', "[0]"),
        ('[{"namespace":"x"}]', "[0]"),
        ('[{"name":1}]', "[0].name"),
        ('["a"]', "[0]"),
        ('{"name":"a"}', ""),
        ('[{"name":"a"},]', ""),
    ],
)
def test_malformed_networks_are_wrong_input(text: str, field: str) -> None:
    with pytest.raises(BadAnnotation) as caught:
        parse_networks(text, "default")
    assert caught.value.field == NETWORKS + field


def nad(interface: str, annotations: dict[str, str], cluster_network: str = "") -> str | None:
    return nad_of_interface(
        interface,
        annotations,
        pod_namespace="default",
        agent_namespace="kube-system",
        cluster_network=cluster_network,
    )


def test_eth0_has_the_default_network_of_the_pod_else_of_the_cluster() -> None:
    assert nad("eth0", {DEFAULT_NETWORK: "infra/main"}, "other") == "infra/main"
    assert nad("eth0", {DEFAULT_NETWORK: "main"}) == "kube-system/main"
    assert nad("eth0", {}, "main") == "kube-system/main"
    assert nad("eth0", {}, "infra/main") == "infra/main"
    assert nad("eth0", {NETWORKS: "a@eth0"}) is None


def test_other_interfaces_have_their_entry() -> None:
    annotations = {NETWORKS: "infra/a, b@data"}
    assert nad("net1", annotations) == "infra/a"
    assert nad("data", annotations) == "default/b"
    assert nad("net2", annotations) is None
    assert nad("net1", {}) is None


def test_two_default_networks_are_wrong_input() -> None:
    with pytest.raises(BadAnnotation, match="several networks"):
        nad("eth0", {DEFAULT_NETWORK: "a,b"})


def test_positions_count_eth0_first() -> None:
    annotations = {NETWORKS: "a,b@data"}
    assert [position(name, annotations, "d") for name in ("eth0", "net1", "data", "net2")] == [0, 1, 2, None]
