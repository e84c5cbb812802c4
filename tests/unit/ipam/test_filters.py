"""Which of the pools that were named refuse a pod, and what they say."""

from typing import Any

import pytest

from ipam.addresses import Address
from ipam.multus import NETWORKS
from ipam.owners import TopOwner
from ipam.selection import Features, NicFacts
from ipam.selectors import LabelSelector
from tests.unit.ipam.choosing import DB, DEPLOYMENT, WEB, app_pool, by_ippool, pool, v4, why_not


@pytest.mark.parametrize(
    ("case", "rules", "facts", "reason"),
    [
        ("L00001", {"node_affinity": WEB}, {"node_labels": {"app": "web"}}, ""),
        ("L00002", {"node_affinity": WEB}, {"node_labels": {"app": "db"}}, "nodeAffinity (app=web)"),
        ("L00003", {"namespace_affinity": WEB}, {"namespace_labels": {"app": "web"}}, ""),
        ("L00004", {"namespace_affinity": WEB}, {}, "namespaceAffinity (app=web)"),
        ("L00005", {"pod_affinity": WEB}, {}, ""),
        ("L00006", {"pod_affinity": DB}, {}, "podAffinity (app=db) does not match the pod's labels"),
        ("D00011", {"node_names": ("n0", "n1")}, {}, ""),
        ("D00012", {"node_names": ("n2",)}, {}, "nodeName does not list node n1"),
        ("D00013", {"node_names": ("n1",), "node_affinity": DB}, {}, ""),
        ("D00013", {"node_names": ("n2",), "node_affinity": WEB}, {"node_labels": {"app": "web"}}, "nodeName"),
        ("D00014", {"namespace_names": ("default",)}, {}, ""),
        ("D00015", {"namespace_names": ("other",)}, {}, "namespaceName does not list default"),
        ("D00016", {"namespace_names": ("default",), "namespace_affinity": DB}, {}, ""),
        ("D00005", {"disable": True}, {}, "it is disabled"),
        ("terminating", {"deleting": True, "disable": True}, {}, "it is being deleted"),
        ("empty selector", {"pod_affinity": LabelSelector()}, {}, ""),
    ],
)
def test_affinities(case: str, rules: dict[str, Any], facts: dict[str, Any], reason: str) -> None:
    if reason:
        assert reason in why_not(by_ippool("p", **facts), pool("p", **rules)), case
    else:
        assert v4(by_ippool("p", **facts), pool("p", **rules)) == ("p",), case


def test_d00009_d00010_multus_name_must_list_the_interfaces_network() -> None:
    listed = pool("p", multus_names=("infra/vlan20", "vlan10"))
    assert v4(by_ippool("p"), listed, nic=NicFacts(nad="kube-system/vlan10")) == ("p",)
    assert v4(by_ippool("p"), listed, nic=NicFacts(nad="infra/vlan20")) == ("p",)
    assert v4(by_ippool("p"), listed, nic=NicFacts(nad="own/vlan10"), features=Features(agent_namespace="own")) == (
        "p",
    )
    assert "does not list infra/vlan10" in why_not(by_ippool("p"), listed, nic=NicFacts(nad="infra/vlan10"))


def test_surprise_9_without_a_default_network_only_pools_with_multus_name_are_refused() -> None:
    assert v4(by_ippool("a", "b"), pool("a"), pool("b", multus_names=("vlan10",))) == ("a",)
    assert "MULTUS_CLUSTER_NETWORK" in why_not(by_ippool("b"), pool("b", multus_names=("vlan10",)))
    assert NETWORKS in why_not(by_ippool("b"), pool("b", multus_names=("vlan10",)), nic=NicFacts("net1"))


def test_match_master_subnet_asks_for_an_address_of_the_master() -> None:
    inside = NicFacts(nad="x/y", master_addresses=(Address.parse("fd00::1"), Address.parse("10.6.0.9")))
    outside = NicFacts(nad="x/y", master_addresses=(Address.parse("10.7.0.9"),))
    assert v4(by_ippool("p"), pool("p"), nic=inside) == ("p",)
    assert "inside subnet 10.6.0.0/16" in why_not(by_ippool("p"), pool("p"), nic=outside)
    assert v4(by_ippool("p"), pool("p", multus_names=("x/y",)), nic=outside) == ("p",)


def test_an_application_pool_serves_its_application_only_and_skips_the_multus_test() -> None:
    made = app_pool("auto", multus_names=("vlan10",))
    assert v4(by_ippool("auto", owner=DEPLOYMENT), made) == ("auto",)
    other = TopOwner("apps/v1", "StatefulSet", "default", "web", "u")
    assert why_not(by_ippool("auto", owner=other), made) == (
        "it belongs to Deployment default/web, and the pod to StatefulSet default/web"
    )
    for none in (None, TopOwner("v1", "Pod", "default", "web-0", "u")):
        assert "the pod has no controller" in why_not(by_ippool("auto", owner=none), made)


def test_i00015_a_kept_application_pool_serves_the_recreated_application() -> None:
    again = TopOwner("apps/v1", "Deployment", "default", "web", "another-uid")
    assert v4(by_ippool("auto", owner=again), app_pool("auto")) == ("auto",)
