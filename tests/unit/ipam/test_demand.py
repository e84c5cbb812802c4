from __future__ import annotations

import pytest

from ipam.demand import BATCHES, batch, missing, resting_surplus, surplus, target


@pytest.mark.parametrize(
    ("bound", "size", "expected"), [(0, 16, 16), (12, 16, 16), (13, 16, 32), (0, 1, 0), (7, 1, 7), (1, 2, 2), (2, 2, 4)]
)
def test_target(bound: int, size: int, expected: int) -> None:
    assert target(bound, size) == expected


def test_a_target_always_covers_the_bound_pods() -> None:
    assert all(target(bound, size) >= bound for bound in range(300) for size in BATCHES)


def test_batches_shrink_with_scarcity_down_to_no_warm_stock() -> None:
    assert [batch(free, nodes=10) for free in (320, 319, 80, 39, 0)] == [16, 8, 4, 1, 1]
    assert batch(10_000, nodes=0) == 16


@pytest.mark.parametrize(
    ("needed", "used", "usable", "expected"),
    [(1, 0, 0, 16), (1, 0, 16, 0), (5, 5, 4, 0), (12, 12, 4, 0), (13, 13, 3, 16), (13, 12, 4, 16), (40, 0, 0, 48)],
)
def test_one_claim_serves_about_a_batch_of_pods(needed: int, used: int, usable: int, expected: int) -> None:
    assert missing(needed, used, usable, 16) == expected


def test_without_warm_stock_exactly_the_bound_pods_are_served() -> None:
    assert [missing(needed, 2, 1, 1) for needed in (2, 3, 4, 9)] == [0, 0, 1, 6]


def test_claiming_never_makes_a_surplus() -> None:
    for size in BATCHES:
        for needed in range(60):
            for used in range(needed + 1):
                for usable in range(40):
                    claimed = missing(needed, used, usable, size)
                    assert not claimed or surplus(needed, used, usable + claimed, size) == 0


def test_surplus_is_never_more_than_what_is_usable() -> None:
    assert surplus(0, 0, 40, 16) == 8
    assert surplus(0, 30, 5, 1) == 5
    assert surplus(40, 40, 10, 16) == 0


def test_at_batch_one_no_node_keeps_an_address_that_its_pods_do_not_need() -> None:
    assert [surplus(0, 0, usable, 1) for usable in range(4)] == [0, 1, 2, 3]
    assert surplus(3, 2, 1, 1) == 0 and surplus(3, 3, 1, 1) == 1


def test_a_cooling_address_leaves_only_where_no_warm_stock_is_kept() -> None:
    assert [resting_surplus(0, 0, 0, 5, size) for size in BATCHES] == [0, 0, 0, 0, 5]


def test_an_address_that_was_claimed_for_a_pod_stays_though_another_cools() -> None:
    """The cooling one is too much, not the usable one: giving that back and claiming it again never ended."""
    for needed in range(6):
        for used in range(needed + 1):
            for cooling in range(4):
                usable = missing(needed, used, 0, 1)
                assert surplus(needed, used, usable, 1) == 0
                assert resting_surplus(needed, used, usable, cooling, 1) == cooling
