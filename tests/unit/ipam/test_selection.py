"""Which pools are candidates for an interface, and in which order."""

from typing import Any

import pytest

from ipam.annotations import IPPOOL, IPPOOLS, NAMESPACE_POOLS
from ipam.errors import BadAnnotation, BadConfig, NoPoolMatches, NoPoolSelected, PoolNotFound
from ipam.multus import NETWORKS
from ipam.selection import Catalog, Features, NicFacts, Source
from tests.unit.ipam.choosing import (
    V4,
    V6,
    WEB,
    by_ippool,
    chosen,
    pod,
    pool,
    pool6,
    v4,
    why_not,
)

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


# The catalogue


def test_the_catalogue_lists_pools_by_name() -> None:
    catalog = Catalog([pool("b"), pool("a")])
    assert [made.name for made in catalog] == ["a", "b"]
    assert len(catalog) == 2
