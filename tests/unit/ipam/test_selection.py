import json
from typing import Any

import pytest

from ipam.addresses import Address, Family, Network
from ipam.annotations import IPPOOL, IPPOOL_NUMBER, IPPOOL_RECLAIM, IPPOOLS, NAMESPACE_POOLS, SUBNET, SUBNETS
from ipam.applications import AppOwner, PoolNumber
from ipam.errors import BadAnnotation, BadConfig, NoPoolMatches, NoPoolSelected, OwnerMissing, PoolNotFound
from ipam.multus import NETWORKS
from ipam.owners import TopOwner
from ipam.pools import Pool
from ipam.ranges import RangeSet
from ipam.selection import Catalog, Features, NicFacts, PodFacts, Selection, Source, needs_owner, pod_refusal, select
from ipam.selectors import LabelSelector

V4, V6 = Family.V4, Family.V6
WEB = LabelSelector.of({"app": "web"})
DB = LabelSelector.of({"app": "db"})
DEPLOYMENT = TopOwner("apps/v1", "Deployment", "default", "web", "uid-12345678")
APP = AppOwner.of(DEPLOYMENT)
ETH0 = NicFacts()
DEFAULTS = Features()
SUBNET_MODE = Features(subnets=True, auto_pools=True)


def pool(name: str, subnet: str = "10.6.0.0/16", **more: Any) -> Pool:
    network = Network.parse(subnet)
    empty = RangeSet.empty(network.family)
    return Pool(name, network.family, network, empty, empty, **more)


def pool6(name: str, **more: Any) -> Pool:
    return pool(name, "fd00::/64", **more)


def app_pool(name: str, subnet: str = "10.6.0.0/16", app_interface: str = "eth0", **more: Any) -> Pool:
    return pool(name, subnet, **{"app": APP, "app_interface": app_interface, "owner_subnet": "s4", **more})


def pod(annotations: dict[str, Any] | None = None, **more: Any) -> PodFacts:
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (annotations or {}).items()}
    return PodFacts("default", "web-0", "pod-uid", "n1", annotations=texts, **{"labels": {"app": "web"}, **more})


def by_ippool(*names: str, v6: tuple[str, ...] = (), **more: Any) -> PodFacts:
    return pod({IPPOOL: {"ipv4": names, "ipv6": v6}}, **more)


def chosen(facts: PodFacts, *pools: Pool, nic: NicFacts = ETH0, features: Features = DEFAULTS) -> Selection:
    return select(facts, nic, Catalog(pools), features)


def v4(facts: PodFacts, *pools: Pool, **more: Any) -> tuple[str, ...]:
    return chosen(facts, *pools, **more).candidates[V4]


def why_not(facts: PodFacts, *pools: Pool, **more: Any) -> str:
    """The reason for refusing the only pool."""
    with pytest.raises(NoPoolMatches) as caught:
        chosen(facts, *pools, **more)
    (refusal,) = caught.value.refused
    return refusal.reason


# Sources


def test_a00004_a00006_order_of_sources() -> None:
    pools = [pool(name) for name in ("many", "one", "ns", "cni")] + [pool("cluster", default=True)]
    annotations: dict[str, Any] = {IPPOOLS: [{"interface": "eth0", "ipv4": ["many"]}], IPPOOL: {"ipv4": ["one"]}}
    namespace = {"namespace_annotations": {NAMESPACE_POOLS[V4]: '["ns"]'}}
    nic = NicFacts(default_v4=("cni",))
    got = []
    for facts, netconf in (
        (pod(annotations, **namespace), nic),
        (pod({IPPOOL: annotations[IPPOOL]}, **namespace), nic),
        (pod(**namespace), nic),
        (pod(), nic),
        (pod(), NicFacts()),
    ):
        answer = chosen(facts, *pools, nic=netconf)
        got.append((answer.source, *answer.candidates[V4]))
    assert got == [
        (Source.POD_IPPOOLS, "many"),
        (Source.POD_IPPOOL, "one"),
        (Source.NAMESPACE, "ns"),
        (Source.NETCONF, "cni"),
        (Source.CLUSTER, "cluster"),
    ]


def test_sources_are_not_merged_by_family() -> None:
    answer = chosen(by_ippool("a"), pool("a"), pool6("b", default=True), nic=NicFacts(default_v6=("b",)))
    assert answer.candidates == {V4: ("a",)}


def test_nothing_names_a_pool() -> None:
    with pytest.raises(NoPoolSelected, match="no pool selection rules of any type"):
        chosen(pod(), pool("a"))


def test_cluster_defaults_are_all_default_pools_of_both_families() -> None:
    pools = [pool("b", default=True), pool("a", default=True), pool("c"), pool6("d", default=True)]
    assert chosen(pod(), *pools).candidates == {V4: ("a", "b"), V6: ("d",)}
    assert chosen(pod(), *pools, features=Features(ipv6=False)).candidates == {V4: ("a", "b")}


def test_d00005_disabled_default_pools_are_named_in_the_refusal() -> None:
    assert why_not(pod(), pool("a", default=True, disable=True)) == "it is disabled"


@pytest.mark.parametrize("names", [("a", "a"), ("a", "b*", "a"), ("",)])
def test_netconf_lists_are_checked(names: tuple[str, ...]) -> None:
    with pytest.raises(BadConfig, match="default_ipv4_ippool"):
        chosen(pod(), pool("a"), nic=NicFacts(default_v4=names))


# Families


def test_e00009_one_family_alone_is_served() -> None:
    assert chosen(by_ippool("a"), pool("a")).candidates == {V4: ("a",)}
    assert chosen(by_ippool(v6=("b",)), pool6("b")).candidates == {V6: ("b",)}


def test_both_families_asked_for_must_both_have_a_candidate() -> None:
    facts = by_ippool("a", v6=("b",))
    assert chosen(facts, pool("a"), pool6("b")).candidates == {V4: ("a",), V6: ("b",)}
    with pytest.raises(NoPoolMatches, match="no IPv6 pool for eth0"):
        chosen(facts, pool("a"), pool6("b", disable=True))
    with pytest.raises(NoPoolMatches, match="no IPv4 and no IPv6 pool"):
        chosen(facts, pool("a", disable=True), pool6("b", disable=True))


def test_a_family_switched_off_is_dropped_silently_even_if_its_pools_do_not_exist() -> None:
    facts = by_ippool("a", v6=("gone",))
    assert chosen(facts, pool("a"), features=Features(ipv6=False)).candidates == {V4: ("a",)}
    with pytest.raises(NoPoolSelected, match="switched off"):
        chosen(facts, pool("a"), features=Features(ipv4=False, ipv6=False))


def test_a_pool_of_the_other_family_is_refused() -> None:
    assert why_not(by_ippool("b"), pool6("b")) == "it is of IPv6, but named for IPv4"


# Names


def test_a_literal_name_that_does_not_exist_fails_the_whole_request() -> None:
    with pytest.raises(PoolNotFound) as caught:
        chosen(by_ippool("a", "gone"), pool("a"))
    assert caught.value.name == "gone"


def test_a00007_a00015_patterns_expand_in_place_sorted_and_each_pool_counts_once() -> None:
    pools = [pool(name) for name in ("x2", "x1", "y1", "y2", "z")]
    assert v4(by_ippool("z", "x*", "y?"), *pools) == ("z", "x1", "x2", "y1", "y2")
    assert v4(by_ippool("x2", "x*"), *pools) == ("x2", "x1")
    assert v4(by_ippool("x*", "?2"), *pools) == ("x1", "x2", "y2")
    assert v4(by_ippool("[xy]1"), *pools) == ("x1", "y1")
    assert v4(by_ippool("[^xy]*"), *pools) == v4(by_ippool("[!xy]*"), *pools) == ("z",)


def test_patterns_see_only_their_family() -> None:
    facts = by_ippool("a*", v6=("a*",))
    assert chosen(facts, pool("a4"), pool6("a6")).candidates == {V4: ("a4",), V6: ("a6",)}


def test_a_pattern_that_matches_nothing_is_refused_with_its_reason() -> None:
    assert why_not(by_ippool("q*"), pool("a")) == "the pattern matches no IPv4 pool"
    answer = chosen(by_ippool("q*", "a"), pool("a"))
    assert answer.candidates == {V4: ("a",)}
    assert [str(refusal) for refusal in answer.refused] == ["q*: the pattern matches no IPv4 pool"]


# Order of trying


def test_backup_pools_are_tried_in_the_listed_order() -> None:
    pools = [pool("a"), pool("b"), pool("c")]
    assert v4(by_ippool("c", "a", "b"), *pools) == ("c", "a", "b")


def test_ranks_come_before_the_listed_order() -> None:
    pools = [
        pool("plain"),
        pool("multus", multus_names=("vlan10",)),
        pool("ns-affinity", namespace_affinity=WEB),
        pool("ns-name", namespace_names=("default",)),
        pool("node-affinity", node_affinity=WEB),
        pool("node-name", node_names=("n1",)),
        pool("pod", pod_affinity=WEB),
    ]
    facts = by_ippool(*(made.name for made in pools), node_labels={"app": "web"}, namespace_labels={"app": "web"})
    got = v4(facts, *pools, nic=NicFacts(nad="kube-system/vlan10"))
    assert list(got) == [made.name for made in reversed(pools)]


# Filters


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


# Several interfaces


def test_named_items_are_found_by_interface_with_their_own_clean_gateway() -> None:
    facts = pod(
        {
            IPPOOLS: [
                {"interface": "eth0", "ipv4": ["a"], "cleangateway": True},
                {"interface": "net1", "ipv4": ["a", "b"], "cleangateway": False},
                {"interface": "net2", "ipv4": ["b"]},
            ]
        }
    )
    got = [
        chosen(facts, pool("a"), pool("b"), nic=NicFacts(name, clean_gateway=True)) for name in ("eth0", "net1", "net2")
    ]
    assert [answer.candidates[V4] for answer in got] == [("a",), ("a", "b"), ("b",)]
    assert [answer.clean_gateway for answer in got] == [True, False, True]


def test_clean_gateway_comes_from_the_netconf_otherwise() -> None:
    assert not chosen(by_ippool("a"), pool("a")).clean_gateway
    assert chosen(by_ippool("a"), pool("a"), nic=NicFacts(clean_gateway=True)).clean_gateway


def test_a00013_an_interface_that_is_not_listed_is_wrong_input() -> None:
    facts = pod({IPPOOLS: [{"interface": "net1", "ipv4": ["a"]}]})
    with pytest.raises(BadAnnotation, match="eth0 is being set up, but is not among those listed"):
        chosen(facts, pool("a"))


def test_a00018_unnamed_items_are_found_by_position() -> None:
    facts = pod({IPPOOLS: [{"ipv4": ["a"]}, {"ipv4": ["b"]}], NETWORKS: "x/m1@data,m2"})
    assert v4(facts, pool("a"), pool("b")) == ("a",)
    assert v4(facts, pool("a"), pool("b"), nic=NicFacts("data")) == ("b",)
    for name in ("net2", "net9"):
        with pytest.raises(BadAnnotation, match=f"no item for interface {name}"):
            chosen(facts, pool("a"), pool("b"), nic=NicFacts(name))


# Subnets


def by_subnet(**more: Any) -> PodFacts:
    return pod({SUBNET: {"ipv4": ["s4", "unused"], "ipv6": ["s6"]}}, **{"owner": DEPLOYMENT, **more})


def test_i00024_the_subnet_annotation_is_ignored_while_the_feature_is_off() -> None:
    with pytest.raises(NoPoolSelected):
        chosen(by_subnet())
    assert v4(pod({SUBNET: {"ipv4": ["s"]}, IPPOOL: {"ipv4": ["a"]}}), pool("a")) == ("a",)


def test_subnet_mode_leaves_pods_without_its_annotations_alone() -> None:
    assert v4(by_ippool("a"), pool("a"), features=SUBNET_MODE) == ("a",)


def test_subnets_without_application_pools_is_an_error() -> None:
    with pytest.raises(BadAnnotation, match="switched off"):
        chosen(by_subnet(), features=Features(subnets=True))


def test_missing_application_pools_are_named() -> None:
    answer = chosen(by_subnet(), pool("a", default=True), features=SUBNET_MODE)
    assert answer.source is Source.POD_SUBNET
    assert answer.candidates == {}
    assert [(want.name, want.family, want.subnet) for want in answer.missing] == [
        ("auto4-web-eth0-12345", V4, "s4"),
        ("auto6-web-eth0-12345", V6, "s6"),
    ]
    assert answer.wanted == answer.missing
    assert all((want.number, want.reclaim, want.owner) == (None, True, DEPLOYMENT) for want in answer.wanted)


def test_existing_application_pools_are_candidates_and_others_refused() -> None:
    answer = chosen(
        by_subnet(),
        app_pool("auto4"),
        app_pool("auto4-b", owner_subnet="s5"),
        app_pool("auto4-c", owner_subnet=""),
        app_pool("auto4-net1", app_interface="net1"),
        app_pool("auto6", "fd00::/64", owner_subnet="s6", disable=True),
        features=SUBNET_MODE,
    )
    assert answer.candidates == {V4: ("auto4", "auto4-c")}
    assert [want.family for want in answer.missing] == [V6]
    assert [str(refusal) for refusal in answer.refused] == [
        "auto4-b: it belongs to subnet s5, not to s4",
        "auto6: it is disabled",
    ]


def test_e00010_a_subnet_of_one_family_is_enough_and_a_family_switched_off_is_dropped() -> None:
    only_v4 = Features(ipv6=False, subnets=True, auto_pools=True)
    assert [want.family for want in chosen(by_subnet(), features=only_v4).wanted] == [V4]
    neither = Features(ipv4=False, ipv6=False, subnets=True, auto_pools=True)
    with pytest.raises(NoPoolSelected, match="switched off"):
        chosen(by_subnet(), features=neither)


def test_subnets_beat_subnet_and_must_list_the_interface() -> None:
    facts = pod(
        {SUBNETS: [{"interface": "net1", "ipv4": ["m"]}], SUBNET: {"ipv4": ["s"]}, IPPOOL_RECLAIM: "false"},
        owner=DEPLOYMENT,
    )
    answer = chosen(facts, features=SUBNET_MODE, nic=NicFacts("net1", clean_gateway=True))
    assert answer.source is Source.POD_SUBNETS
    assert [(want.name, want.subnet, want.reclaim) for want in answer.wanted] == [("auto4-web-net1-12345", "m", False)]
    assert answer.clean_gateway
    with pytest.raises(BadAnnotation, match="no item for interface eth0"):
        chosen(facts, features=SUBNET_MODE)


def test_subnet_of_another_interface_leaves_this_one_to_the_next_source() -> None:
    answer = chosen(by_subnet(), pool("a"), features=SUBNET_MODE, nic=NicFacts("net1", default_v4=("a",)))
    assert (answer.source, answer.candidates) == (Source.NETCONF, {V4: ("a",)})
    assert answer.missing == ()


def test_i00023_a_bare_pod_is_refused_and_an_unknown_owner_is_retried() -> None:
    with pytest.raises(BadAnnotation, match="no-controller pod"):
        chosen(by_subnet(owner=TopOwner("v1", "Pod", "default", "web-0", "u")), features=SUBNET_MODE)
    with pytest.raises(OwnerMissing):
        chosen(by_subnet(owner=None), features=SUBNET_MODE)


def test_t00002_third_party_controllers_need_a_fixed_number() -> None:
    rollout = TopOwner("argoproj.io/v1alpha1", "Rollout", "default", "web", "u-98765")
    for number in ({}, {IPPOOL_NUMBER: "+1"}):
        with pytest.raises(BadAnnotation, match="only supports fixed"):
            chosen(pod({SUBNET: {"ipv4": ["s"]}, **number}, owner=rollout), features=SUBNET_MODE)
    answer = chosen(pod({SUBNET: {"ipv4": ["s"]}, IPPOOL_NUMBER: "5"}, owner=rollout), features=SUBNET_MODE)
    assert answer.wanted[0].number == PoolNumber(fixed=5)


def test_the_owner_is_needed_only_where_application_pools_play_a_part() -> None:
    plain, with_app = Catalog([pool("a")]), Catalog([app_pool("auto")])
    assert not needs_owner(by_ippool("a"), plain, SUBNET_MODE)
    assert needs_owner(by_ippool("a"), with_app, Features())
    assert needs_owner(by_subnet(), plain, SUBNET_MODE)
    assert needs_owner(pod({SUBNETS: "[]"}), plain, SUBNET_MODE)
    assert not needs_owner(by_subnet(), plain, Features())


def test_the_catalogue_lists_pools_by_name() -> None:
    catalog = Catalog([pool("b"), pool("a")])
    assert [made.name for made in catalog] == ["a", "b"]
    assert len(catalog) == 2


# Pods that will not run


@pytest.mark.parametrize(
    ("facts", "gist"),
    [
        ({"deleting": True}, "is being deleted"),
        ({"phase": "Succeeded", "restart_policy": "Never"}, "has succeeded"),
        ({"phase": "Succeeded", "restart_policy": "OnFailure"}, "has succeeded"),
        ({"phase": "Failed", "restart_policy": "Never"}, "has failed"),
        ({"phase": "Failed", "restart_policy": "Always", "status_reason": "Evicted"}, "was evicted"),
    ],
)
def test_a_dead_pod_gets_no_address(facts: dict[str, Any], gist: str) -> None:
    refusal = pod_refusal(pod(**facts))
    assert refusal is not None
    assert gist in refusal.message
    assert refusal.code == 120


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"phase": "Running"},
        {"phase": "Succeeded", "restart_policy": "Always"},
        {"phase": "Failed", "restart_policy": "OnFailure"},
        {"phase": "Failed", "restart_policy": "Always", "status_reason": "NodeLost"},
    ],
)
def test_a_pod_that_can_run_is_served(facts: dict[str, Any]) -> None:
    assert pod_refusal(pod(**facts)) is None
