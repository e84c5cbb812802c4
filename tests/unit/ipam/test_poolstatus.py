"""Counts, the list of addresses, and conditions of a pool."""

from __future__ import annotations

import json
from typing import Any

from ipam.addresses import Address, Family, Network
from ipam.coverage import Coverage
from ipam.errors import Problem
from ipam.pools import Pool
from ipam.poolstatus import (
    CONFLICT_SEEN,
    EXHAUSTED,
    MAX_RECORDS,
    OVERLAPPING,
    READY,
    Condition,
    Counts,
    Holdings,
    Observation,
    Use,
    allocated_text,
    count,
    observations,
    transition,
)
from ipam.ranges import RangeSet
from ipam.slots import Page, SlotId

BASE = Address.parse("10.6.0.0").value


def pool(first: int = 10, last: int = 19, **more: Any) -> Pool:
    return Pool(
        name="p",
        family=Family.V4,
        subnet=Network.parse("10.6.0.0/16"),
        ips=RangeSet.of(Family.V4, [(BASE + first, BASE + last)]),
        exclude=RangeSet.of(Family.V4, [(BASE + last, BASE + last)]),
        **more,
    )


def use(number: int) -> Use:
    return Use(Address(Family.V4, BASE + number), "default", f"p{number}", f"uid-{number}")


def test_counts_as_spiderpool_defines_them() -> None:
    effective = pool().usable - RangeSet.of(Family.V4, [(BASE + 10, BASE + 11)])  # two are reserved
    found = count(
        pool(), effective, [use(12), use(13)], Holdings(used=2, cooling=1, quarantined=1, nodes=3), {BASE + 14}
    )
    assert found == Counts(total=9, allocated=2, free=7 - 2 - 1 - 1, cooling=1, quarantined=1, nodes=3)


def test_an_address_that_is_kept_for_an_identity_is_counted_once_with_its_record_or_without() -> None:
    """Found by the simulation's pool deletions: the record of a StatefulSet's pod that waits, and its pin, made one address two."""
    kept = frozenset({BASE + 12})
    recorded = count(pool(), pool().usable, [use(12), use(13)], Holdings(used=1), kept)
    assert (recorded.allocated, recorded.free) == (2, 9 - 2)
    unrecorded = count(pool(), pool().usable, [use(13)], Holdings(used=1), kept)
    assert (unrecorded.allocated, unrecorded.free) == (1, 9 - 2)
    only_pinned_ones_recorded = count(pool(), pool().usable, [use(12)], Holdings(used=4), kept)
    assert (only_pinned_ones_recorded.allocated, only_pinned_ones_recorded.free) == (5, 9 - 5)


def test_an_address_that_was_reserved_after_it_was_given_out_takes_nothing_from_the_rest() -> None:
    effective = pool().usable - RangeSet.of(Family.V4, [(BASE + 10, BASE + 10)])
    assert count(pool(), effective, [use(10)], Holdings()).free == 8


def test_where_not_every_pod_has_an_endpoint_the_nodes_counts_win() -> None:
    assert count(pool(), pool().usable, [use(12)], Holdings(used=4)).allocated == 4


def test_the_text_is_bounded_and_sorted_by_address() -> None:
    assert allocated_text([]) is None
    text = allocated_text([use(number) for number in reversed(range(MAX_RECORDS + 10))])
    assert text is not None
    told = list(json.loads(text))
    assert len(told) == MAX_RECORDS and told[:2] == ["10.6.0.0", "10.6.0.1"]
    assert json.loads(text)["10.6.0.1"] == {"pod": "default/p1", "podUid": "uid-1"}


FULL = Counts(9, 9, 0, 0, 0, 1)
SOME = Counts(9, 1, 8, 0, 0, 1)


def seen(of: Pool, counts: Counts = SOME, **more: Any) -> dict[str, Observation]:
    given: dict[str, Any] = {"problems": (), "senior": (), "junior": (), "conflicts": ()}
    return observations(of, counts, **{**given, **more})


def test_conditions_say_what_is_so_and_why() -> None:
    assert seen(pool())[READY].holds
    assert seen(pool(disable=True))[READY].reason == "Disabled"
    assert seen(pool(deleting=True))[READY].reason == "Deleting"
    assert seen(pool(first=19))[READY].reason == "NoAddresses"
    broken = seen(pool(), problems=[Problem("spec.gateway", "outside", "move it")])[READY]
    assert not broken.holds and "spec.gateway" in broken.message
    assert seen(pool(), FULL)[EXHAUSTED].holds and not seen(pool())[EXHAUSTED].holds
    assert seen(pool(), senior=["old"])[OVERLAPPING].reason == "OlderPoolWins"
    assert seen(pool(), junior=["new"])[OVERLAPPING].reason == "YoungerPoolLoses"
    assert seen(pool(), conflicts=[f"10.6.0.{n}" for n in range(9)])[CONFLICT_SEEN].message.endswith("and 4 more")


def test_a_condition_keeps_its_time_until_it_turns() -> None:
    before = {READY: Condition(READY, Observation(True, "Serving"), 100.0)}
    (same,) = transition(before, {READY: Observation(True, "Other")}, 200.0)
    assert (same.since, same.observation.reason) == (100.0, "Other")
    (turned,) = transition(before, {READY: Observation(False, "Disabled")}, 200.0)
    assert turned.since == 200.0


def test_coverage_finds_the_pool_of_an_address_and_of_each_slot_of_a_page() -> None:
    low = RangeSet.of(Family.V4, [(BASE + 1, BASE + 3), (BASE + 6, BASE + 70)])
    high = RangeSet.of(Family.V4, [(BASE + 4, BASE + 5)])
    other = RangeSet.of(Family.V4, [(BASE, BASE + 63)])
    cover = Coverage({"low": low, "high": high, "other": other}, {"low": "", "high": "", "other": "dc2"})
    names = [cover.pool_of(SlotId("", Family.V4, BASE + n)) for n in (0, 1, 3, 4, 5, 6, 70, 71)]
    assert names == ["", "low", "low", "high", "high", "low", "low", ""]
    assert cover.pool_of(SlotId("dc2", Family.V4, BASE)) == "other"
    masks = dict(cover.of_page(Page(Family.V4, BASE)))
    assert masks == {"low": low.mask(BASE), "high": 0b110000}
    assert dict(cover.of_page(Page(Family.V4, BASE + 64))) == {"low": 0b1111111}
    assert dict(cover.of_page(Page(Family.V4, BASE + 128))) == {}
    assert dict(cover.of_page(Page(Family.V6, 0))) == {}
