from __future__ import annotations

import pytest

from ipam.demand import BATCHES, batch, target


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
