"""Whatever overlaps there are: an edit that only gives up unused addresses is accepted, and what is accepted on its own overlaps nothing."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ipam.addresses import Family, Network
from ipam.admission import Neighbours, judge_pool
from ipam.pools import Pool
from ipam.ranges import RangeSet

NETWORK = Network.parse("10.1.0.0/24")


@st.composite
def sets(draw: st.DrawFn) -> RangeSet:
    lows = draw(st.lists(st.integers(0, 40), max_size=4))
    spans = [(NETWORK.first + low, NETWORK.first + low + draw(st.integers(0, 6))) for low in lows]
    return RangeSet.of(Family.V4, spans)


def pools(names: str) -> st.SearchStrategy[list[Pool]]:
    one = st.builds(lambda ips, exclude: Pool("", Family.V4, NETWORK, ips, exclude), sets(), sets())
    return st.tuples(*(one for _ in names)).map(
        lambda found: [replace(pool, name=name) for pool, name in zip(found, names, strict=True)]
    )


@given(pools("abc"), sets(), st.data())
def test_giving_up_unused_addresses_is_always_accepted(
    there: list[Pool], given_up: RangeSet, data: st.DataObject
) -> None:
    mine = there[0]
    has = mine.ips - mine.exclude
    busy = data.draw(st.sets(st.sampled_from(sorted(has)), max_size=5)) if has else set()
    uses = {value: "ns/pod" for value in busy}
    new = replace(mine, ips=mine.ips - (given_up - RangeSet.of(Family.V4, [(value, value) for value in busy])))
    assert judge_pool(new, mine, Neighbours(there), uses) == ()


@given(pools("abcd"))
def test_pools_accepted_one_after_the_other_never_overlap(asked: list[Pool]) -> None:
    accepted: list[Pool] = []
    for pool in asked:
        if not judge_pool(pool, None, Neighbours(accepted), {}):
            accepted.append(pool)
    taken = RangeSet.empty(Family.V4)
    for pool in accepted:
        assert not pool.usable & taken
        taken |= pool.usable


@given(pools("ab"), sets(), sets())
def test_an_accepted_update_overlaps_no_more_than_before(there: list[Pool], ips: RangeSet, exclude: RangeSet) -> None:
    mine, other = there
    new = replace(mine, ips=ips, exclude=exclude)
    if not judge_pool(new, mine, Neighbours(there), {}):
        assert not (new.usable & other.usable) - (mine.usable & other.usable)
