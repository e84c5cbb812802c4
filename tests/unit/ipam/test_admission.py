"""What an edit may not do because of other objects: each refusal names the field, the other object and the fix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipam.addresses import Address, Family, Network
from ipam.admission import Neighbours, judge_pool, judge_pool_deletion, judge_subnet, judge_subnet_deletion
from ipam.applications import AppOwner
from ipam.pools import Pool
from ipam.ranges import RangeSet


def ranges(*items: str) -> RangeSet:
    return RangeSet.parse(Family.V4, items)


def pool(name: str, *ips: str, subnet: str = "10.1.0.0/24", exclude: tuple[str, ...] = (), **more: Any) -> Pool:
    return Pool(name, Family.V4, Network.parse(subnet), ranges(*ips), ranges(*exclude), **more)


def value(text: str) -> int:
    return Address.parse(text).value


OLD = pool("old", "10.1.0.1-10.1.0.9")
APP = AppOwner("apps", "v1", "Deployment", "default", "web")


def says(problems: tuple[Any, ...]) -> str:
    return "; ".join(map(str, problems))


@pytest.mark.parametrize(
    ("new", "others", "parts"),
    [
        (
            pool("new", "10.1.0.9-10.1.0.20"),
            Neighbours([OLD]),
            ("spec.ips: 10.1.0.9 belongs to SpiderIPPool old too", "exclude it in SpiderIPPool old"),
        ),
        (
            pool("new", "10.1.0.20", subnet="10.1.0.0/25"),
            Neighbours([OLD]),
            ("spec.subnet: 10.1.0.0/25 overlaps 10.1.0.0/24 of SpiderIPPool old", "write 10.1.0.0/24"),
        ),
        (
            pool("new", "10.1.0.20-10.1.0.30"),
            Neighbours(subnets=[pool("s4", "10.1.0.1-10.1.0.25")]),
            ("spec.ips: 10.1.0.26-10.1.0.30 is not among the addresses of SpiderSubnet s4", "spec.ips of SpiderSubnet"),
        ),
        (
            pool("new", "10.1.0.20-10.1.0.30", gateway=Address.parse("10.1.0.20")),
            Neighbours(),
            ("spec.ips: conflicts with gateway 10.1.0.20", "add it to excludeIPs"),
        ),
    ],
    ids=["overlap", "other network", "outside its Subnet", "gateway"],
)
def test_a_new_pool_is_refused_with_field_object_and_fix(new: Pool, others: Neighbours, parts: tuple[str, ...]) -> None:
    found = judge_pool(new, None, others, {})
    assert len(found) == 1
    for part in parts:
        assert part in says(found)


@pytest.mark.parametrize(
    "new",
    [
        pool("new", "10.1.0.10-10.1.0.20"),
        pool("new", "10.1.0.1-10.1.0.20", exclude=("10.1.0.1-10.1.0.9",)),
        pool("new", "10.1.0.1-10.1.0.9", domain="other"),
        pool("old", "10.1.0.1-10.1.0.20"),
    ],
    ids=["apart", "excluded", "another L2 domain", "itself"],
)
def test_what_does_not_overlap_is_accepted(new: Pool) -> None:
    assert judge_pool(new, None, Neighbours([OLD]), {}) == ()


def test_pools_that_overlap_already_can_be_edited_but_not_made_worse() -> None:
    twin = replace(OLD, name="twin")
    others = Neighbours([OLD, twin])
    assert judge_pool(replace(twin, disable=True), twin, others, {}) == ()
    assert judge_pool(pool("twin", "10.1.0.5-10.1.0.9"), twin, others, {}) == ()
    third = Neighbours([OLD, twin, pool("third", "10.1.0.10-10.1.0.19")])
    assert "third" in says(judge_pool(pool("twin", "10.1.0.1-10.1.0.10"), twin, third, {}))


def test_an_address_in_use_can_neither_be_removed_nor_excluded() -> None:
    uses = {value("10.1.0.3"): "default/web-1", value("10.1.0.4"): "default/web-2"}
    removed = judge_pool(pool("old", "10.1.0.5-10.1.0.9"), OLD, Neighbours([OLD]), uses)
    assert [problem.field for problem in removed] == ["spec.ips"]
    assert "10.1.0.3 (pod default/web-1), 10.1.0.4 (pod default/web-2)" in says(removed)
    excluded = judge_pool(replace(OLD, exclude=ranges("10.1.0.3")), OLD, Neighbours([OLD]), uses)
    assert [problem.field for problem in excluded] == ["spec.excludeIPs"]
    assert "excludes addresses in use: 10.1.0.3 (pod default/web-1)" in says(excluded)
    assert judge_pool(pool("old", "10.1.0.3-10.1.0.4"), OLD, Neighbours([OLD]), uses) == ()


def test_addresses_of_an_application_pool_are_the_leaders() -> None:
    mine = pool("auto4-web-eth0-1", "10.1.0.1-10.1.0.2", app=APP, owner_subnet="s4")
    bigger = replace(mine, ips=ranges("10.1.0.1-10.1.0.3"))
    others = Neighbours([mine], [pool("s4", "10.1.0.1-10.1.0.99")], {"s4": {mine.name: mine.ips}})
    assert "managed by SpiderSubnet s4, for Deployment default/web" in says(judge_pool(bigger, mine, others, {}))
    grown = replace(others, given={"s4": {mine.name: bigger.ips}})
    assert judge_pool(bigger, mine, grown, {}) == ()
    assert judge_pool(replace(mine, disable=True), mine, others, {}) == ()


SUBNET = pool("s4", "10.1.0.1-10.1.0.99")


@pytest.mark.parametrize(
    ("new", "others", "part"),
    [
        (replace(SUBNET, name="s5"), Neighbours(subnets=[SUBNET]), "overlaps 10.1.0.0/24 of SpiderSubnet s4"),
        (
            pool("s5", "10.1.0.1", subnet="10.1.0.0/16"),
            Neighbours([OLD]),
            "overlaps 10.1.0.0/24 of SpiderIPPool old without being the same network",
        ),
        (pool("s5", "10.1.0.5-10.1.0.99"), Neighbours([OLD]), "10.1.0.1-10.1.0.4 of SpiderIPPool old is outside"),
    ],
    ids=["same network", "wider than a pool", "does not hold a pool"],
)
def test_a_new_subnet_is_refused_with_field_object_and_fix(new: Pool, others: Neighbours, part: str) -> None:
    found = judge_subnet(new, None, others)
    assert len(found) == 1
    assert part in says(found)
    assert found[0].fix


def test_ranges_that_pools_have_stay_in_their_subnet() -> None:
    others = Neighbours([OLD], [SUBNET])
    found = judge_subnet(replace(SUBNET, ips=ranges("10.1.0.6-10.1.0.99")), SUBNET, others)
    assert "10.1.0.1-10.1.0.5 of SpiderIPPool old would be outside" in says(found)
    assert judge_subnet(replace(SUBNET, ips=ranges("10.1.0.1-10.1.0.9")), SUBNET, others) == ()


def test_what_is_in_use_is_not_deleted() -> None:
    assert judge_pool_deletion("p", (), 0) == ()
    assert "has 5 addresses in use, by a/1, a/2, a/3 and 1 more" in says(
        judge_pool_deletion("p", ["a/1", "a/2", "a/3", "a/4"], 5)
    )
    assert judge_subnet_deletion("s4", [OLD]) == ()
    assert "in use by SpiderIPPool old" in says(judge_subnet_deletion("s4", [replace(OLD, owner_subnet="s4")]))


def test_a_family_that_is_off_refuses_new_objects_and_leaves_old_ones_editable() -> None:
    off = (Family.V6,)
    assert "IPv4 is switched off" in says(judge_pool(OLD, None, Neighbours(), {}, off))
    assert judge_pool(replace(OLD, disable=True), OLD, Neighbours(), {}, off) == ()
