"""A first handful of seeds, some of the planted bugs, and the weakened protocols; `python -m sim` and `python -m sim.model` do the rest."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
import structlog

from ipam.reclaim import Standing
from sim.model.__main__ import WEAKENINGS
from sim.model.explorer import explore
from sim.model.steps import Variant
from sim.mutants import BY_POWER_LOSS, MUTANTS
from sim.runner import hunt, hunt_by_power_loss
from sim.world import simulate


@pytest.mark.parametrize("seed", range(1, 13))
def test_a_seed_keeps_every_invariant(seed: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    outcome = simulate(seed)
    assert outcome.violation is None, f"python -m sim replay {seed}: {outcome.violation}"


def test_leaders_take_by_force_from_nodes_of_every_standing() -> None:
    """Of all standings two in these four worlds: what no world reaches, no world tests."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    taken: Counter[str] = Counter()
    for seed in (79, 89, 102, 118):
        outcome = simulate(seed)
        assert outcome.violation is None, f"python -m sim replay {seed}: {outcome.violation}"
        taken.update(outcome.taken)
    missing = {standing.value for standing in Standing} - set(taken)
    assert not missing, f"nothing was taken from a node that is {missing}: choose other seeds (`sim run` counts them)"


def test_administrators_edit_every_kind_of_thing() -> None:
    """A pool in use goes, and comes again; an affinity and a reservation stand when all must be quiet."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    events: Counter[str] = Counter()
    for seed in (21, 45, 56):
        outcome = simulate(seed, tracing=True)
        assert outcome.violation is None, f"python -m sim replay {seed}: {outcome.violation}"
        after = outcome.tail[next(i for i, line in enumerate(outcome.tail) if "repaired" in line) :]
        events.update(line.split()[1] for line in outcome.tail)
        events.update(["standing affinity"] * any("pool_edited" in line and "'nodeName': ['" in line for line in after))
        events.update(["standing reservation"] * (events["reserved"] > events["unreserved"]))
    missing = {"pool_deleted", "pool_created", "standing affinity", "standing reservation"} - set(events)
    assert not missing, f"nothing of {missing}: choose other seeds"


@pytest.mark.parametrize("name", ["drop-cas", "ignore-generation-on-del", "half-dual-stack", "forget-excluded"])
def test_a_planted_bug_is_caught(name: str) -> None:
    assert hunt(name, range(1, 40), jobs=1) is not None


def test_a_forgotten_fsync_is_caught_where_power_fails_at_every_boundary() -> None:
    for name in BY_POWER_LOSS:
        found = hunt_by_power_loss(name)
        assert found is not None and found.unfinished[0][0] == "I7"


def test_twenty_one_bugs_are_planted() -> None:
    assert len(MUTANTS) == 21
    assert set(MUTANTS) >= BY_POWER_LOSS


@pytest.mark.parametrize("name", ["the leader does not wait", "the leader reclaims by belief"])
def test_a_weakened_protocol_gives_an_address_twice(name: str) -> None:
    assert explore(WEAKENINGS[name], 200_000).run


def test_the_protocol_gives_none_twice_among_the_first_states() -> None:
    assert explore(Variant(), 30_000).run == ()
