"""Recalls: never more than is needed or free, no trading back and forth, and an end."""

from __future__ import annotations

import time
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from ipam.planner import (
    MAX_RECALLS,
    PATIENCE_S,
    Offer,
    Outstanding,
    Recall,
    Report,
    Snapshot,
    offers,
    plan,
    sharing_nodes,
)

counts = st.integers(0, 20)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    pools = [f"p{i}" for i in range(draw(st.integers(1, 3)))]
    nodes = [f"n{i}" for i in range(draw(st.integers(1, 12)))]
    reports = [
        Report(node, pool, draw(counts), draw(counts), draw(counts), draw(counts))
        for node in nodes
        for pool in pools
        if draw(st.booleans())
    ]
    outstanding = [
        Outstanding(
            draw(st.sampled_from(nodes)),
            draw(st.sampled_from(pools)),
            draw(st.integers(1, 10)),
            draw(st.floats(0, 30)),
            draw(st.integers(0, 10)),
            draw(st.none() | st.floats(0, 3)),
        )
        for _ in range(draw(st.integers(0, 5)))
    ]
    unleased = {pool: draw(counts) for pool in pools}
    return Snapshot(reports, unleased, outstanding, draw(st.frozensets(st.sampled_from(nodes), max_size=3)))


def by_pool(actions: tuple[Recall, ...]) -> Mapping[str, int]:
    total: dict[str, int] = {}
    for action in actions:
        total[action.pool] = total.get(action.pool, 0) + action.count
    return total


@given(snapshots())
def test_never_more_than_needed_nor_than_free(snapshot: Snapshot) -> None:
    actions = plan(snapshot)
    assert len(actions) <= MAX_RECALLS
    report = {(item.node, item.pool): item for item in snapshot.reports}
    for action in actions:
        assert 0 < action.count <= report[action.node, action.pool].spare
        assert action.node not in snapshot.silent
        assert report[action.needy, action.pool].lacking
    for pool, count in by_pool(actions).items():
        lacking = sum(item.lacking for item in snapshot.reports if item.pool == pool)
        coming = sum(item.coming for item in snapshot.outstanding if item.pool == pool)
        assert count <= lacking - snapshot.unleased[pool] - coming
    assert len({(action.node, action.pool) for action in actions}) == len(actions)


@given(snapshots())
def test_the_same_snapshot_gives_the_same_plan_in_whatever_order_it_is_told(snapshot: Snapshot) -> None:
    turned = Snapshot(tuple(reversed(list(snapshot.reports))), snapshot.unleased, snapshot.outstanding, snapshot.silent)
    assert plan(turned) == plan(snapshot)


@given(snapshots())
def test_nobody_is_asked_twice_at_a_time(snapshot: Snapshot) -> None:
    asked = {(item.node, item.pool) for item in snapshot.outstanding if item.is_open}
    assert not asked & {(action.node, action.pool) for action in plan(snapshot)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(counts, counts, counts), min_size=2, max_size=20), counts)
def test_it_converges_and_nobody_gives_what_it_then_lacks(nodes: list[tuple[int, int, int]], unleased: int) -> None:
    """Played to the end: every recall served, needy nodes claim. Then no node lacks anything that another could spare."""
    stock = {f"n{i}": [used, free, wanted] for i, (used, free, wanted) in enumerate(nodes)}
    before = sum(free for _, free, _ in stock.values()) + unleased
    moves = 0
    for _ in range(50):
        reports = [Report(node, "p", used, free, 0, wanted) for node, (used, free, wanted) in stock.items()]
        actions = plan(Snapshot(reports, {"p": unleased}))
        for action in actions:
            stock[action.node][1] -= action.count
            unleased += action.count
            moves += action.count
        for node in sorted(stock):
            lacking = min(max(stock[node][2] - stock[node][1], 0), unleased)
            stock[node][1] += lacking
            unleased -= lacking
        if not actions:
            break
    lacking = sum(max(wanted - free, 0) for _, free, wanted in stock.values())
    spare = sum(max(free - wanted, 0) for _, free, wanted in stock.values())
    assert not (lacking and (spare or unleased))
    assert sum(free for _, free, _ in stock.values()) + unleased == before
    assert moves <= sum(
        max(wanted - free, 0) for _, free, wanted in nodes
    )  # nothing moved that was not needed: no oscillation


def test_the_largest_surplus_gives_first() -> None:
    reports = [Report("a", "p", free=3), Report("b", "p", free=9), Report("c", "p", wanted=10)]
    assert [(item.node, item.count) for item in plan(Snapshot(reports, {}))] == [("b", 9), ("a", 1)]


def test_an_unanswered_recall_goes_to_another_node_after_its_time() -> None:
    reports = [Report("a", "p", free=9), Report("b", "p", free=3), Report("c", "p", wanted=1)]
    early = Snapshot(reports, {}, [Outstanding("a", "p", 1, PATIENCE_S - 1)])
    late = Snapshot(reports, {}, [Outstanding("a", "p", 1, PATIENCE_S)])
    assert plan(early) == ()
    assert [item.node for item in plan(late)] == ["b"]


def test_what_lies_unleased_or_is_on_its_way_is_not_recalled() -> None:
    reports = [Report("a", "p", free=9), Report("c", "p", wanted=3)]
    assert plan(Snapshot(reports, {"p": 3})) == ()
    assert by_pool(plan(Snapshot(reports, {"p": 1}, [Outstanding("b", "p", 1, 0.0, 1, 0.1)]))) == {"p": 1}


@given(snapshots(), st.dictionaries(st.sampled_from(["p0", "p1", "p2"]), st.lists(st.integers(1, 9), max_size=6)))
def test_no_address_is_offered_twice(snapshot: Snapshot, pages: dict[str, list[int]]) -> None:
    made = offers(snapshot.reports, lambda pool: [(f"{pool}-{i}", n) for i, n in enumerate(pages.get(pool, []))])
    lacking = {(item.node, item.pool): item.lacking for item in snapshot.reports}
    for pool, found in pages.items():
        for index, count in enumerate(found):
            told = [offer for offer in made if offer.pool == pool and f"{pool}-{index}" in offer.pages]
            # Every node but the last that is sent to a page takes at least one of its addresses.
            assert len(told) <= count
    assert all(lacking[offer.node, offer.pool] for offer in made)


def test_the_neediest_is_told_first() -> None:
    reports = [Report("a", "p", wanted=1), Report("b", "p", wanted=5)]
    assert offers(reports, lambda _: [("x", 4), ("y", 2)]) == (Offer("b", "p", ("x", "y")), Offer("a", "p", ("y",)))


def test_nodes_that_hold_nothing_do_not_share_a_pool() -> None:
    reports = [Report("a", "p", used=1), Report("b", "p"), Report("c", "p", wanted=1), Report("c", "q", cooling=1)]
    assert sharing_nodes(reports) == {"p": 2, "q": 1}


def test_five_thousand_nodes_are_planned_in_a_fraction_of_a_second() -> None:
    reports = [
        Report(f"node-{i:04d}", f"pool-{p}", used=15, free=i % 7, wanted=9 if i % 50 == 0 else 0)
        for i in range(5_000)
        for p in range(2)
    ]
    began = time.perf_counter()
    actions = plan(Snapshot(reports, {}))
    assert time.perf_counter() - began < 1.0
    assert len(actions) == MAX_RECALLS
