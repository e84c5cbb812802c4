"""Overlap detection and arbitration against the quadratic definition."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ipam.addresses import Address, Family, Network
from ipam.overlaps import arbitrate, overlaps, subnet_overlaps
from ipam.pools import Pool
from ipam.ranges import RangeSet

quick = settings(max_examples=150, deadline=None)
BASE = 0x0A00_0000
NETWORK = Network(Family.V4, BASE, 24)


@st.composite
def range_sets(draw: st.DrawFn) -> RangeSet:
    spans = draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=4))
    return RangeSet.of(Family.V4, [(BASE + low, BASE + low + length) for low, length in spans])


@st.composite
def pool_lists(draw: st.DrawFn) -> list[Pool]:
    return [
        Pool(
            name=f"p{index}",
            family=Family.V4,
            subnet=NETWORK,
            ips=draw(range_sets()),
            exclude=draw(range_sets()),
            created=f"2026-01-01T00:00:0{draw(st.integers(0, 3))}Z",
            domain=draw(st.sampled_from(["", "", "lab"])),
        )
        for index in range(draw(st.integers(0, 7)))
    ]


@quick
@given(pool_lists())
def test_overlaps_are_exactly_the_common_addresses_of_each_pair(pools: list[Pool]) -> None:
    expected = {}
    for a in pools:
        for b in pools:
            common = a.usable & b.usable
            if a.seniority < b.seniority and a.domain == b.domain and common:
                expected[a.name, b.name] = common
    found = overlaps(pools)
    assert {(older.name, younger.name): shared for older, younger, shared in found} == expected
    assert len(found) == len(expected)


@quick
@given(pool_lists(), range_sets())
def test_each_address_goes_to_the_oldest_pool_that_claims_it(pools: list[Pool], reserved: RangeSet) -> None:
    expected: dict[str, set[int]] = {}
    taken: dict[str, set[int]] = {"": set(), "lab": set()}
    for pool in sorted(pools, key=lambda pool: pool.seniority):
        mine = set(pool.usable)
        expected[pool.name] = mine - taken[pool.domain] - set(reserved)
        taken[pool.domain] |= mine
    got = arbitrate(pools, {Family.V4: reserved})
    assert {name: set(ranges) for name, ranges in got.items()} == expected


@quick
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32), st.integers(0, 2)), max_size=8))
def test_subnets_that_overlap_without_being_equal_are_all_found(raw: list[tuple[int, int, int]]) -> None:
    empty = RangeSet.empty(Family.V4)
    pools = [
        Pool(
            f"p{index}",
            Family.V4,
            Network.around(Address(Family.V4, BASE + offset), prefix),
            empty,
            empty,
            created=str(age),
        )
        for index, (offset, prefix, age) in enumerate(raw)
    ]
    expected = {
        (a.name, b.name)
        for a in pools
        for b in pools
        if a.seniority < b.seniority and a.subnet != b.subnet and a.subnet.overlaps(b.subnet)
    }
    found = [(older.name, younger.name) for older, younger in subnet_overlaps(pools)]
    assert sorted(found) == sorted(expected)
