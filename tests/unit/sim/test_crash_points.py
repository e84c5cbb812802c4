"""kill -9 and power loss at every effect boundary of a node's life: nothing is lost, doubled or leaked (I2, I3, I4, I7, I8, I12)."""

from __future__ import annotations

import logging

import pytest
import structlog

from sim.crashpoints import crash
from sim.reclaimpoints import crash_leader

SHARDS = 4


@pytest.fixture(autouse=True)
def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def test_the_story_ends_well_without_a_crash_and_passes_every_kind_of_boundary() -> None:
    told = crash(-1)
    assert told.violation is None and told.unfinished == []
    assert told.boundaries > 80


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("power", [False, True], ids=["kill -9", "power loss"])
def test_a_crash_at_every_boundary_leaves_the_world_whole(shard: int, power: bool) -> None:  # noqa: FBT001
    failures = []
    for number in range(shard, crash(-1).boundaries, SHARDS):
        hit = crash(number, power=power)
        assert hit.where, f"boundary {number} was not reached"
        if hit.violation is not None or hit.unfinished:
            failures.append((hit.number, hit.where, hit.violation, hit.unfinished[:2]))
    assert failures == []


@pytest.mark.parametrize("gone", [False, True], ids=["silent node", "deleted node"])
def test_a_leader_s_death_at_every_boundary_of_a_forced_reclaim_leaves_the_world_whole(gone: bool) -> None:  # noqa: FBT001
    told = crash_leader(-1, gone=gone)
    assert told.violation is None and told.unfinished == []
    hits = [crash_leader(number, gone=gone) for number in range(told.boundaries)]
    assert [
        (hit.number, hit.where, hit.violation, hit.unfinished[:2]) for hit in hits if hit.violation or hit.unfinished
    ] == []
    wanted = {"patch IPNode", "patch IPBlock", *(("delete IPNode",) if gone else ())}
    seen = {hit.where for hit in hits}
    assert {f"{when} {write}" for when in ("before", "after") for write in wanted} <= seen, "mark, taking, burial"
