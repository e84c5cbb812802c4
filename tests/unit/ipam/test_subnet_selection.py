"""Interfaces whose addresses come from an application pool of a SpiderSubnet."""

from typing import Any

import pytest

from ipam.annotations import IPPOOL, IPPOOL_NUMBER, IPPOOL_RECLAIM, SUBNET, SUBNETS
from ipam.applications import PoolNumber
from ipam.errors import BadAnnotation, NoPoolSelected, OwnerMissing
from ipam.owners import TopOwner
from ipam.selection import Catalog, Features, NicFacts, PodFacts, Source, needs_owner
from tests.unit.ipam.choosing import (
    DEPLOYMENT,
    SUBNET_MODE,
    V4,
    V6,
    app_pool,
    by_ippool,
    chosen,
    pod,
    pool,
    v4,
)


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
