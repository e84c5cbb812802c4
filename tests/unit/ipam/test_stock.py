"""The node's stock: states, order of use, and what may never happen to an allocated slot."""

from __future__ import annotations

import pytest

from ipam.addresses import Family
from ipam.slots import SlotId
from ipam.stock import NEVER, State, Stock, Trust


def slot(value: int) -> SlotId:
    return SlotId("", Family.V4, value)


def trusting() -> Stock:
    stock = Stock(Trust.unlimited())
    for value in range(4):
        stock.hold(slot(value), "p", now=0.0)
    return stock


def picked(stock: Stock, now: float) -> int | None:
    held = stock.pick("p", now)
    return held.slot.value if held else None


def test_the_least_recently_released_goes_first_and_only_after_its_cooldown() -> None:
    stock = trusting()
    for value in range(4):
        stock.allocate(slot(value))
    for value, at in ((2, 10.0), (0, 11.0)):
        stock.release(slot(value), at, cooldown_s=60.0)
    assert picked(stock, 69.9) is None
    assert picked(stock, 70.0) == 2
    stock.allocate(slot(2))
    assert picked(stock, 70.5) is None
    assert picked(stock, 71.0) == 0


def test_pick_changes_nothing_by_itself() -> None:
    stock = trusting()
    assert picked(stock, 0.0) == picked(stock, 0.0) == 0
    assert stock.count("p", State.READY) == 4


def test_a_slot_without_a_fresh_verdict_is_not_picked() -> None:
    stock = Stock(Trust(verdict_age_s=30.0))
    stock.hold(slot(1), "p", now=0.0)
    assert picked(stock, 0.0) is None
    assert stock.pick_unproven("p", 0.0) is not None
    stock.prove(slot(1), now=5.0)
    assert picked(stock, 35.0) == 1
    assert picked(stock, 35.1) is None
    assert [held.slot.value for held in stock.unproven(35.1)] == [1]


def test_a_suspect_slot_needs_a_proof_even_where_verification_is_off() -> None:
    stock = Stock(Trust.unlimited())
    stock.hold(slot(1), "p", now=0.0, suspect=True)
    assert picked(stock, 0.0) is None
    stock.prove(slot(1), now=1.0)
    assert picked(stock, 1.0) == 1


def test_cooldown_of_a_claimed_slot_is_kept() -> None:
    stock = Stock(Trust.unlimited())
    stock.hold(slot(1), "p", now=0.0, cool_until=20.0)
    assert picked(stock, 19.0) is None
    assert picked(stock, 20.0) == 1


def test_an_allocated_slot_is_never_dropped_left_or_quarantined() -> None:
    stock = trusting()
    stock.allocate(slot(0))
    with pytest.raises(ValueError, match="allocated"):
        stock.drop(slot(0))
    with pytest.raises(ValueError, match="allocated"):
        stock.allocate(slot(0))
    assert stock.leave([slot(0), slot(1)])[0].slot == slot(1)
    assert not stock.accuse(slot(0))
    assert stock.get(slot(0)).state is State.ALLOCATED  # type: ignore[union-attr]


def test_a_slot_that_is_set_aside_stays_and_is_remembered_as_accused_until_a_new_proof_begins() -> None:
    stock = trusting()
    stock.set_aside(slot(0))
    assert not stock.accuse(slot(0))
    held = stock.get(slot(0))
    assert held is not None
    assert held.state is State.PINNED
    assert held.accused
    stock.absolve(slot(0))
    assert not held.accused


def test_a_leaving_slot_is_never_picked() -> None:
    stock = trusting()
    stock.leave([slot(0), slot(1), slot(2)])
    assert picked(stock, 0.0) == 3
    stock.drop(slot(0))
    assert slot(0) not in stock
    assert len(stock) == 3


def test_quarantine_ends_unproven() -> None:
    stock = Stock(Trust(verdict_age_s=30.0))
    stock.hold(slot(1), "p", now=0.0)
    stock.prove(slot(1), 0.0)
    assert stock.accuse(slot(1))
    assert picked(stock, 1.0) is None
    stock.lift(slot(1), 2.0)
    assert picked(stock, 2.0) is None
    stock.prove(slot(1), 3.0)
    assert picked(stock, 3.0) == 1


def test_slots_follow_their_pool_when_pools_are_edited() -> None:
    stock = trusting()
    stock.repool(slot(0), "q")
    stock.repool(slot(1), "")
    assert [held.slot.value for held in stock.of_pool("q", State.READY)] == [0]
    assert set(stock.pools()) == {"p", "q", ""}
    assert picked(stock, 0.0) == 2


def test_releasing_twice_changes_nothing() -> None:
    stock = trusting()
    stock.allocate(slot(0))
    stock.release(slot(0), 1.0, 60.0)
    stock.release(slot(0), 50.0, 60.0)
    assert picked(stock, 61.0) == 1
    assert stock.count("p", State.COOLING) == 0


def test_when_the_next_slot_has_rested_is_known_whatever_the_order_of_releases() -> None:
    stock = trusting()
    assert stock.next_rested("p") is None and stock.next_rested("unknown") is None
    for value, cooldown_s in ((2, 60.0), (0, 20.0)):
        stock.allocate(slot(value))
        stock.release(slot(value), 10.0, cooldown_s)
    assert stock.next_rested("p") == 30.0


def test_a_page_s_slots_are_found_without_asking_for_each() -> None:
    stock = trusting()
    stock.hold(slot(64), "p", now=0.0)
    page = slot(0).page
    assert [held.slot.value for held in stock.on_page(page)] == [0, 1, 2, 3]
    for value in range(4):
        stock.drop(slot(value))
    assert stock.on_page(page) == ()
    assert [held.slot.value for held in stock.on_page(slot(64).page)] == [64]


def test_a_slot_that_nothing_here_can_see_is_ready_unproven_and_a_suspect_one_never() -> None:
    stock = Stock(Trust(60.0))
    stock.hold(SlotId("", Family.V4, 1), "far", 0.0)
    stock.hold(SlotId("", Family.V4, 2), "far", 0.0, suspect=True)
    for value in (1, 2):
        stock.unsee(SlotId("", Family.V4, value))
    picked = stock.pick("far", 1e6)
    assert picked is not None
    assert (picked.slot.value, picked.clear_at) == (1, NEVER)
    stock.allocate(picked.slot)
    assert stock.pick("far", 1e6) is None
    stock.release(picked.slot, 1e6, 10.0)
    assert stock.pick("far", 1e6 + 5.0) is None  # its cooldown holds all the same
    assert stock.pick("far", 1e6 + 11.0) is picked
    assert stock.unseen_pools() == {"far"}
