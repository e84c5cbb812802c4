"""Forced reclaim, explored to the end: one slot, its node, two leaders that may stop anywhere, a lapse at any moment. No address is used twice.

The transitions are the production functions of `ipam.reclaim` and `ipam.lease`; only the world around them (who runs next, what is lost) is made
up here. The same exploration finds a double address in each weakened protocol: that is what shows that it looks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto

import pytest

from ipam import lease, reclaim
from ipam.addresses import Family
from ipam.blocks import Block, Lease, NodeRef
from ipam.reclaim import Beat, Mailbox, Marked
from ipam.slots import Page

PAGE = Page(Family.V4, 0x0A060040)
A, B = NodeRef("a", "uid-a"), NodeRef("b", "uid-b")
MAX_EPOCH, MAX_MARKS = 4, 2
BEAT = Beat(1, "boot", "uid-a")


class Weak(Enum):
    NOTHING = auto()
    EPOCHS_NOT_COMPARED = auto()
    REMEMBERED_AFTER_THE_MARK = auto()
    NO_WAIT = auto()
    RESUMED_ON_A_READ = auto()


class Phase(Enum):
    WATCHING = auto()
    REMEMBERED = auto()
    MARKED = auto()
    CHECKED = auto()


@dataclass(frozen=True)
class Leader:
    """`current`: the mailbox has not been written since it saw the staleness. `mark` 0: none."""

    term: int
    phase: Phase = Phase.WATCHING
    current: bool = False
    mark: int = 0
    known: Lease | None = None


@dataclass(frozen=True)
class World:
    """`lapsed`: the node's last acknowledgement is too old. `fenced`: the mark that it answers. `acked`: acknowledged since the last mark."""

    block: Block
    mark: int = 0
    answered: int = 0
    marks: int = 0
    current: bool = True  # the node has seen the mailbox's latest version
    lapsed: bool = False
    acked: bool = True
    fenced: int = 0
    retaken: bool = False
    holds: bool = True  # in the node's memory
    handed: bool = False  # by the node, to a pod
    used_by_b: bool = False
    leaders: tuple[Leader, Leader] = (Leader(1), Leader(2))


class Double(Exception):
    pass


def wrote_mailbox(world: World, *, by_node: bool) -> World:
    leaders = tuple(replace(one, current=False) for one in world.leaders)
    return replace(world, leaders=(leaders[0], leaders[1]), current=by_node)


def standing(world: World) -> int:
    return world.mark if world.mark != world.answered else 0


def node_steps(world: World, weak: Weak) -> Iterator[World]:
    if not world.lapsed:
        yield replace(world, lapsed=True)
    # A restart forgets what was seen; the node is not open before it was acknowledged again.
    yield replace(world, lapsed=True, fenced=0, retaken=False, current=False)
    if world.holds and not world.handed and not world.lapsed and not world.fenced:
        if world.used_by_b:
            raise Double
        yield replace(world, handed=True)
    if not world.current:
        mark = standing(world)
        yield replace(world, current=True, fenced=mark or world.fenced, retaken=world.retaken and mark == world.fenced)
    elif not world.fenced:
        yield replace(wrote_mailbox(world, by_node=True), lapsed=False, acked=True)
    elif not world.retaken:
        mine = world.block.lease_of(A)
        if weak is Weak.RESUMED_ON_A_READ or mine is None:
            yield replace(world, retaken=True, holds=mine is not None)
        elif world.block.epoch < MAX_EPOCH:
            yield replace(world, block=lease.retake(world.block, A, A, mine.epoch), retaken=True, holds=True)
    else:
        cleared = replace(world, answered=world.fenced, fenced=0, retaken=False, lapsed=False, acked=True)
        yield wrote_mailbox(cleared, by_node=True)


def b_steps(world: World) -> Iterator[World]:
    """Another node claims the slot once it is free, and probes: it uses the address only if nobody answers."""
    if world.block.free & 1 and not world.handed and world.block.epoch < MAX_EPOCH:
        yield replace(world, block=lease.claim(world.block, B, 1), used_by_b=True)


def leader_steps(world: World, index: int, weak: Weak) -> Iterator[World]:
    one = world.leaders[index]

    def moved(new: Leader, base: World = world) -> World:
        leaders = (new, base.leaders[1]) if index == 0 else (base.leaders[0], new)
        return replace(base, leaders=leaders)

    if one.phase is Phase.WATCHING:
        yield moved(replace(one, phase=Phase.REMEMBERED, current=True, known=world.block.lease_of(A)))
    elif one.phase is Phase.REMEMBERED:
        if not one.current:
            yield moved(replace(one, phase=Phase.WATCHING))
        elif world.marks < MAX_MARKS:
            mark = world.marks + 1
            written = replace(wrote_mailbox(world, by_node=False), mark=mark, marks=mark, acked=False)
            yield moved(replace(one, phase=Phase.MARKED, mark=mark, current=False), written)
    elif one.phase is Phase.MARKED:
        # The wait: an acknowledgement from before the mark has lapsed by now; a later one has seen the mark.
        if world.lapsed or world.acked or weak is Weak.NO_WAIT:
            stands = reclaim.holds(marked(one), mailbox(world))
            known = world.block.lease_of(A) if weak is Weak.REMEMBERED_AFTER_THE_MARK else one.known
            yield moved(replace(one, phase=Phase.CHECKED if stands else Phase.WATCHING, known=known))
    else:
        now = world.block.lease_of(A)
        known = now if weak is Weak.EPOCHS_NOT_COMPARED else one.known
        try:
            taken = reclaim.take(marked(replace(one, known=known)), world.block, 1, one.term)
        except lease.LeaseRefused:
            taken = world.block
        if taken.epoch <= MAX_EPOCH:
            yield moved(replace(one, phase=Phase.MARKED), replace(world, block=taken))


def marked(one: Leader) -> Marked:
    leases = {(PAGE, A.uid): one.known} if one.known else {}
    return Marked("mailbox", BEAT, str(one.mark), leases, 0.0)


def mailbox(world: World) -> Mailbox:
    return Mailbox("mailbox", "", BEAT, str(world.mark or ""), str(world.answered or ""))


def explore(weak: Weak) -> int:
    """All states that can be reached; raises Double if an address can be used twice."""
    start = World(lease.claim(lease.new_block(PAGE, 0), A, 1))
    seen, todo = {start}, deque([start])
    while todo:
        world = todo.popleft()
        for after in (
            *node_steps(world, weak),
            *b_steps(world),
            *leader_steps(world, 0, weak),
            *leader_steps(world, 1, weak),
        ):
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return len(seen)


def test_no_address_is_used_twice_in_any_order_of_events() -> None:
    states = explore(Weak.NOTHING)
    assert states > 10_000


@pytest.mark.parametrize("weak", [one for one in Weak if one is not Weak.NOTHING])
def test_every_weakening_gives_a_double(weak: Weak) -> None:
    with pytest.raises(Double):
        explore(weak)
