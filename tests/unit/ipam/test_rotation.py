"""A certificate is renewed long before it ends, and never served before its authority was published for a while."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ipam.rotation import LIFE_S, RENEW_BEFORE_S, SETTLE_S, SKEW_S, Certificate, Step, step

NAMES = ("nephila-webhook.nephila-system.svc",)
MADE = 1_000_000_000.0


def made(at: float, *, names: tuple[str, ...] = NAMES, sound: bool = True) -> Certificate:
    return Certificate(at - SKEW_S, at + LIFE_S, frozenset(names), sound)


@pytest.mark.parametrize(
    "serving",
    [None, made(MADE, names=("other.svc",)), made(MADE, sound=False), made(MADE - LIFE_S), made(MADE + 2 * SKEW_S)],
    ids=["none", "other name", "key does not fit", "over", "not yet valid"],
)
def test_one_that_cannot_be_used_is_replaced_at_once(serving: Certificate | None) -> None:
    assert step(serving, None, NAMES, MADE) is Step.ISSUE
    assert step(serving, made(MADE), NAMES, MADE) is Step.PROMOTE


def test_a_whole_life() -> None:
    serving, prepared, now = None, None, MADE
    seen: list[tuple[Step, float]] = []
    for _ in range(3 * 365 * 24):  # an hour each
        match step(serving, prepared, NAMES, now):
            case Step.ISSUE:
                serving = made(now)
                seen.append((Step.ISSUE, now))
            case Step.PREPARE:
                prepared = made(now)
                seen.append((Step.PREPARE, now))
            case Step.PROMOTE:
                serving, prepared = prepared, None
                seen.append((Step.PROMOTE, now))
        assert serving is not None and serving.is_usable(NAMES, now)
        assert serving.not_after - now > RENEW_BEFORE_S - SETTLE_S - 2 * 3600
        now += 3600.0
    assert [what for what, _ in seen[:3]] == [Step.ISSUE, Step.PREPARE, Step.PROMOTE]
    assert sum(what is Step.ISSUE for what, _ in seen) == 1
    for (what, at), (_, after) in pairwise(seen):
        if what is Step.PREPARE:
            assert after - at >= SETTLE_S


def test_a_prepared_one_that_spoilt_is_prepared_anew() -> None:
    late = MADE + LIFE_S - RENEW_BEFORE_S + 1
    assert step(made(MADE), made(late, sound=False), NAMES, late + 2 * SETTLE_S) is Step.PREPARE
    assert step(made(MADE), made(late), NAMES, late + SETTLE_S - 1) is Step.KEEP
    assert step(made(MADE), made(late), NAMES, late + SETTLE_S) is Step.PROMOTE
