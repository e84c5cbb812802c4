from typing import Any

import pytest

from ipam.addresses import Address, Family, Network
from ipam.applications import AppOwner
from ipam.overlaps import arbitrate, overlaps
from ipam.pools import Pool, pool_problems
from ipam.ranges import RangeSet
from ipam.routes import Route
from ipam.selectors import LabelSelector

APP = AppOwner("apps", "v1", "Deployment", "default", "web")


def pool(
    name: str = "p", subnet: str = "10.6.0.0/16", ips: str = "10.6.0.10-10.6.0.19", exclude: str = "", **more: Any
) -> Pool:
    network = Network.parse(subnet)
    family: Family = more.pop("family", network.family)
    if gateway := more.pop("gateway", ""):
        more["gateway"] = Address.parse(gateway)
    return Pool(
        name,
        family,
        network,
        RangeSet.parse(network.family, ips.split(",") if ips else ()),
        RangeSet.parse(network.family, exclude.split(",") if exclude else ()),
        **more,
    )


def test_s00002_usable_leaves_out_excluded_addresses_and_the_gateway() -> None:
    made = pool(exclude="10.6.0.12-10.6.0.13", gateway="10.6.0.10")
    assert made.usable.format() == ("10.6.0.11", "10.6.0.14-10.6.0.19")
    assert made.total_count == 8


def test_s00001_effective_leaves_out_reserved_addresses_but_the_total_does_not() -> None:
    made = pool()
    reserved = RangeSet.parse(Family.V4, ["10.6.0.0-10.6.0.15"])
    assert made.effective(reserved).format() == ("10.6.0.16-10.6.0.19",)
    assert made.total_count == 10


def test_an_unusual_pool_without_addresses_is_fine() -> None:
    assert pool(ips="").usable.size == pool(ips="").total_count == 0
    assert pool_problems(pool(ips="")) == ()


def test_rank_order_is_the_documented_one() -> None:
    selector = LabelSelector.of({"a": "b"})
    single: list[dict[str, Any]] = [
        {"pod_affinity": selector},
        {"node_names": ("n",)},
        {"node_affinity": selector},
        {"namespace_names": ("n",)},
        {"namespace_affinity": selector},
        {"multus_names": ("n",)},
        {},
    ]
    ranks = [pool(**one).rank for one in single]
    assert ranks == sorted(set(ranks), reverse=True)
    all_but_first = {key: value for one in single[1:] for key, value in one.items()}
    assert pool(**single[0]).rank > pool(**all_but_first).rank
    assert pool(app=APP).rank == pool(**single[0]).rank


@pytest.mark.parametrize(
    ("more", "field", "gist"),
    [
        ({"family": Family.V6, "ips": ""}, "spec.ipVersion", "does not fit subnet"),
        ({"ips": "10.7.0.1"}, "spec.ips", "10.7.0.1 is outside subnet"),
        ({"exclude": "10.7.0.1"}, "spec.excludeIPs", "10.7.0.1 is outside subnet"),
        ({"gateway": "10.7.0.1"}, "spec.gateway", "outside subnet"),
        ({"gateway": "fd00::1"}, "spec.gateway", "outside subnet"),
        ({"gateway": "10.6.0.10"}, "spec.ips", "conflicts with gateway 10.6.0.10"),
        ({"routes": (Route.parse("0.0.0.0/0", "10.6.0.1"),)}, "spec.routes[0].dst", "default route"),
        ({"pod_affinity": LabelSelector()}, "spec.podAffinity", "empty"),
        ({"app": APP, "pod_affinity": LabelSelector.of({"x": "y"})}, "spec.podAffinity", "may not also ask for x"),
    ],
)
def test_d00003_what_one_pool_may_not_say(more: dict[str, Any], field: str, gist: str) -> None:
    if more.get("family") is Family.V6:
        made = Pool("p", Family.V6, Network.parse("10.6.0.0/16"), RangeSet.empty(Family.V6), RangeSet.empty(Family.V6))
    else:
        made = pool(**more)
    (problem,) = pool_problems(made)
    assert problem.field == field
    assert gist in problem.reason
    assert problem.fix


def test_a_good_pool_has_no_problems() -> None:
    made = pool(
        exclude="10.6.0.10",
        gateway="10.6.0.10",
        routes=(Route.parse("172.16.0.0/12", "10.6.0.1"),),
        pod_affinity=APP.selector(),
        app=APP,
    )
    assert pool_problems(made) == ()
    assert pool_problems(pool(pod_affinity=LabelSelector.of({"a": "b"}))) == ()


def test_a_family_that_is_switched_off_is_a_problem() -> None:
    (problem,) = pool_problems(pool(), families=(Family.V6,))
    assert problem.field == "spec.ipVersion"
    assert "switched off" in problem.reason


def test_equal_pools_are_equal_values() -> None:
    assert pool() == pool()
    assert pool() != pool(disable=True)


def test_d00001_the_younger_pool_loses_addresses_that_an_older_one_claims() -> None:
    older = pool("b", ips="10.6.0.10-10.6.0.14", created="2026-01-01T00:00:00Z", disable=True)
    younger = pool("a", ips="10.6.0.13-10.6.0.19", created="2026-01-01T00:00:01Z")
    ((first, second, shared),) = overlaps([younger, older])
    assert (first.name, second.name, shared.format()) == ("b", "a", ("10.6.0.13-10.6.0.14",))
    got = arbitrate([younger, older], {Family.V4: RangeSet.parse(Family.V4, ["10.6.0.19"])})
    assert got["b"].format() == ("10.6.0.10-10.6.0.14",)
    assert got["a"].format() == ("10.6.0.15-10.6.0.18",)


def test_issue_746_pools_of_the_same_instant_are_ordered_by_name() -> None:
    twins = [pool("b", created="2026-01-01T00:00:00Z"), pool("a", created="2026-01-01T00:00:00Z")]
    got = arbitrate(twins, {})
    assert got["a"].size == 10
    assert not got["b"]


def test_pools_of_different_domains_or_families_do_not_overlap() -> None:
    six = pool("c", subnet="fd00::/64", ips="fd00::1-fd00::9")
    assert overlaps([pool("a"), pool("b", domain="lab"), six]) == []
    assert all(arbitrate([pool("a"), pool("b", domain="lab"), six], {}).values())


def test_excluding_what_the_other_uses_settles_an_overlap() -> None:
    assert overlaps([pool("a", exclude="10.6.0.15-10.6.0.19"), pool("b", ips="10.6.0.15-10.6.0.19")]) == []
