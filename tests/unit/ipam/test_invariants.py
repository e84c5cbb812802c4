"""The consistency predicate: each invariant is broken once, and found; a sound world has nothing to say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipam.addresses import Family
from ipam.blocks import Block, Holder, Lease, NodeRef, Pin, PinOwner
from ipam.invariants import (
    ALLOCATED,
    COOLING,
    FREE,
    LEAVING,
    QUARANTINED,
    Allocation,
    EndpointAddress,
    Facts,
    HeldSlot,
    Waiting,
    summary,
    violations,
)
from ipam.ranges import RangeSet
from ipam.slots import Page, SlotId

PAGE = Page(Family.V4, 0x0A060000)
ONE, TWO = NodeRef("n1", "u1"), NodeRef("n2", "u2")
OWNER = PinOwner("StatefulSet", "default", "web-0", "eth0")


def slot(ordinal: int) -> SlotId:
    return SlotId("", Family.V4, PAGE.base + ordinal)


BLOCK = Block(
    PAGE, (Lease(ONE, 0b0011, 5), Lease(TWO, 0b1100, 6)), (Pin(3, OWNER, Holder("n2", "uid-w")),), epoch=6, term=2
)
SOUND = Facts(
    blocks=(BLOCK,),
    allocations=(Allocation(slot(0), ONE, "uid-a", "c1"), Allocation(slot(3), TWO, "uid-w", "c2")),
    held=(
        HeldSlot(slot(0), ONE, ALLOCATED),
        HeldSlot(slot(1), ONE, FREE),
        HeldSlot(slot(2), TWO, COOLING, until=2_000.0),
        HeldSlot(slot(3), TWO, ALLOCATED),
    ),
    heard=frozenset({ONE, TWO}),
    endpoints=(
        EndpointAddress(slot(0), "default", "a", "uid-a"),
        EndpointAddress(slot(3), "default", "web-0", "uid-w"),
    ),
    nodes=frozenset({ONE, TWO}),
    live_pods=frozenset({"uid-a", "uid-w"}),
    living_owners=frozenset({replace(OWNER, uid="any")}),
    effective={"p": ("", RangeSet.of(Family.V4, [(PAGE.base, PAGE.base + 3)]))},
    reachable=frozenset({"n1", "n2"}),
    lock_term=2,
    wall=1_000.0,
    quiet=True,
)


def found(facts: Facts) -> list[str]:
    return [item.invariant for item in violations(facts)]


def test_a_sound_world_has_nothing_to_say() -> None:
    assert violations(SOUND) == ()


def test_no_facts_no_verdict() -> None:
    assert violations(Facts(quiet=True)) == ()


def replaced(facts: Facts, state: HeldSlot) -> Facts:
    held = tuple(state if item.slot == state.slot else item for item in facts.held)
    return replace(facts, held=held)


BROKEN: dict[str, tuple[str, Facts]] = {
    "slot in two leases": (
        "I1",
        replace(SOUND, blocks=(replace(BLOCK, leases=(*BLOCK.leases, Lease(NodeRef("n3", "u"), 1, 6))),), quiet=False),
    ),
    "one page, two blocks": ("I1", replace(SOUND, blocks=(BLOCK, BLOCK))),
    "lease above the epoch": ("I1", replace(SOUND, blocks=(replace(BLOCK, epoch=3),))),
    "allocated without a lease": (
        "I2",
        replace(SOUND, allocations=(*SOUND.allocations, Allocation(slot(9), ONE, "uid-a", "c9"))),
    ),
    "allocated from another's lease": (
        "I2",
        replace(SOUND, allocations=(*SOUND.allocations, Allocation(slot(2), ONE, "uid-a", "c9"))),
    ),
    "two sandboxes": ("I4", replace(SOUND, allocations=(*SOUND.allocations, Allocation(slot(0), ONE, "uid-w", "c9")))),
    "two endpoints": (
        "I4",
        replace(SOUND, endpoints=(*SOUND.endpoints, EndpointAddress(slot(0), "default", "w", "uid-w")), quiet=False),
    ),
    "pinned to another": (
        "I6",
        replace(SOUND, allocations=(SOUND.allocations[0], Allocation(slot(3), TWO, "uid-a", "c2")), endpoints=()),
    ),
    "one slot pinned twice": ("I6", replace(SOUND, blocks=(replace(BLOCK, pins=(*BLOCK.pins, *BLOCK.pins)),))),
    "leased to a gone node": ("I7", replace(SOUND, nodes=frozenset({ONE}), heard=frozenset({ONE}))),
    "unknown to its agent": ("I7", replace(SOUND, held=SOUND.held[:3])),
    "still leaving": ("I7", replaced(SOUND, HeldSlot(slot(1), ONE, LEAVING))),
    "quarantine without a reason": ("I7", replaced(SOUND, HeldSlot(slot(1), ONE, QUARANTINED))),
    "cooling that is over": ("I7", replaced(SOUND, HeldSlot(slot(2), TWO, COOLING, until=900.0))),
    "pod gone": ("I7", replace(SOUND, live_pods=frozenset({"uid-w"}))),
    "identity gone": ("I7", replace(SOUND, living_owners=frozenset())),
    "endpoint of nobody": (
        "I7",
        replace(SOUND, endpoints=(*SOUND.endpoints, EndpointAddress(slot(1), "d", "x", "uid-x"))),
    ),
    "waits while one is free": ("I8", replace(SOUND, waiting=(Waiting("n2", ("p",), 9.0),))),
    "term of nobody": ("I9", replace(SOUND, lock_term=1)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_breach_is_found_by_name(name: str) -> None:
    invariant, facts = BROKEN[name]
    assert invariant in found(facts)
    assert all(item.subject and item.text and str(item).startswith(item.invariant) for item in violations(facts))


def test_a_slot_taken_by_force_from_a_node_that_still_runs_is_no_breach() -> None:
    taken = replace(BLOCK, leases=(Lease(TWO, 0b1100, 6),), suspect=0b0011, epoch=7)
    assert found(replace(SOUND, blocks=(taken,), held=SOUND.held[2:])) == []


def test_waiting_is_no_breach_while_nothing_is_free_or_within_its_time() -> None:
    nothing = replaced(SOUND, HeldSlot(slot(1), ONE, QUARANTINED, reason="02:00:00:00:00:01 uses it"))
    assert found(replace(nothing, waiting=(Waiting("n2", ("p",), 9.0),))) == []
    assert found(replace(SOUND, waiting=(Waiting("n2", ("p",), 7.0),))) == []
    assert found(replace(SOUND, waiting=(Waiting("n2", ("p",), 9.0),), reachable=frozenset({"n2"}))) == []


def test_what_is_under_way_is_not_judged() -> None:
    busy = replace(replaced(SOUND, HeldSlot(slot(1), ONE, LEAVING)), quiet=False, live_pods=frozenset())
    assert found(busy) == []


def test_the_summary_counts() -> None:
    facts = replace(SOUND, blocks=(BLOCK, BLOCK), lock_term=1)
    assert summary(violations(facts)) == {"I1": 1, "I9": 1}


# Live migration --------------------------------------------------------------------------------------------------------------------------

MACHINE = PinOwner("VirtualMachineInstance", "default", "vm", "eth0")
SHARED = replace(BLOCK, pins=(Pin(2, MACHINE, Holder("n2", "uid-t"), Holder("n1", "uid-s")),))


def migration(block: Block, *given: tuple[NodeRef, str]) -> Facts:
    return Facts(blocks=(block,), allocations=[Allocation(slot(2), node, uid, uid) for node, uid in given])


def test_the_two_ends_of_one_migration_may_have_one_address() -> None:
    both = migration(SHARED, (ONE, "uid-s"), (TWO, "uid-t"))
    assert found(both) == []
    told = tuple(EndpointAddress(slot(2), "default", uid, uid) for uid in ("uid-s", "uid-t"))
    assert found(replace(both, endpoints=told)) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (((ONE, "uid-s"), (TWO, "uid-x")), {"I4", "I6"}),
        (((ONE, "uid-s"), (TWO, "uid-t"), (NodeRef("n3", "u"), "uid-x")), {"I2", "I4", "I6"}),
        (((ONE, "uid-s"), (TWO, "uid-s")), {"I4"}),
    ],
    ids=["a stranger", "a third", "one pod on two nodes"],
)
def test_nobody_else_may(given: tuple[tuple[NodeRef, str], ...], expected: set[str]) -> None:
    assert set(found(migration(SHARED, *given))) == expected


def test_without_a_migration_two_pods_of_one_machine_are_two() -> None:
    alone = replace(SHARED, pins=(replace(SHARED.pins[0], source=None),))
    assert "I4" in found(migration(alone, (ONE, "uid-s"), (TWO, "uid-t")))


def test_a_source_without_a_holder_is_no_migration() -> None:
    pin = Pin(2, MACHINE, None, Holder("n1", "s"))
    assert found(Facts(blocks=(replace(BLOCK, pins=(pin,)),))) == ["I6"]


def test_a_machine_whose_migration_failed_needs_no_lease_and_shares_with_nobody() -> None:
    back = replace(BLOCK, leases=(), pins=(Pin(2, MACHINE, Holder("n1", "uid-s"), Holder("n1", "uid-s")),))
    assert found(migration(back, (ONE, "uid-s"))) == []
    assert "I4" in found(migration(back, (ONE, "uid-s"), (TWO, "uid-t")))
