"""Every step that some part may take in a state, by the production functions of ipam.lease, ipam.fence and ipam.reclaim.

A read, a decision and the write that follows are different steps, so that a pause may fall between any two; a write may be lost, or applied
without its answer. Time is the freedom of `lapse` (A's last acknowledgement is older than the lease time), which may happen at any moment, and one
bound: a leader's wait ends only when all that A was acknowledged before the mark has lapsed. That is what `wait_s` is made for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ipam import lease, reclaim
from ipam.fence import Fence, acknowledged, cleared, observed
from sim.model.state import (
    FRESH,
    NEVER,
    NOT_RETAKEN,
    PAGE,
    RETAKEN,
    RETAKEN_LATE,
    SLOT,
    A,
    Agent,
    B,
    Leading,
    Pending,
    State,
    remembrance,
)

RULES = reclaim.Rules(lease_s=1.0, grace_s=0.0)
LATER = RULES.wait_s
Step = tuple[str, State]


@dataclass(frozen=True)
class Variant:
    """The protocol, or a weakening of it that must be found out."""

    compare_epochs: bool = True
    remember_before_mark: bool = True
    wait: bool = True
    resume_by_write: bool = True
    missing_mailbox_fences: bool = True
    mark: bool = True
    retake_in_time: bool = True
    keep_uid_when_acknowledged: bool = True


def steps(state: State, variant: Variant) -> Iterator[Step]:
    yield from _agent(state, variant)
    yield from _agent_requests(state, variant)
    yield from _other_node(state)
    for number in (0, 1):
        yield from _leader(state, number, variant)
    if state.box is not None:
        yield "somebody deletes A's mailbox", state._replace(box=None)


# Node A ------------------------------------------------------------------------------------------------------------------------------------


def _with(state: State, **changes: object) -> State:
    return state._replace(a=state.a._replace(**changes))  # type: ignore[arg-type]


def _agent(state: State, variant: Variant) -> Iterator[Step]:
    a = state.a
    if a.used:
        yield "A's pod ends", _with(state, used=False)
    elif a.holds and not a.starting and a.fence.is_open(FRESH):
        yield "A gives the slot to a pod", _with(state, used=True)
    if _has_fresh(a):
        yield "A's lease time passes", _lapse(state)
    if not a.starting:
        # The journal keeps the lease, and what was acknowledged by which mailbox; the mark and what was known of the mailbox are gone.
        fence = replace(a.fence, mark="", mailbox_uid=a.kept_uid)
        yield "A's agent restarts", _with(state, fence=fence, starting=True, retaken=NOT_RETAKEN, pending=None, seen=0)
    if a.pending is None:
        yield from _agent_decisions(state, variant)


def _has_fresh(a: Agent) -> bool:
    """True if A has begun something less than the lease time ago that may let it hand out."""
    return (
        a.fence.acknowledged_at == FRESH
        or a.retaken == RETAKEN
        or (a.pending is not None and a.pending.sent_at == FRESH)
    )


def _lapse(state: State) -> State:
    """All that A has begun so far is older than the lease time; a re-taking does not open any more (Mailbox._answer_mark)."""
    a = state.a
    pending = a.pending._replace(sent_at=NEVER) if a.pending else None
    leaders = tuple(
        leader._replace(may_ripen=True) if isinstance(leader.state, reclaim.Marked) else leader
        for leader in state.leaders
    )
    fence = replace(a.fence, acknowledged_at=NEVER)
    retaken = RETAKEN_LATE if a.retaken else NOT_RETAKEN
    return _with(state, fence=fence, retaken=retaken, pending=pending)._replace(leaders=leaders)  # type: ignore[arg-type]


def _agent_decisions(state: State, variant: Variant) -> Iterator[Step]:
    """What A decides next; one request is under way at a time."""
    a = state.a
    if a.starting and a.seen == 0:
        # At a start the blocks are read before the mailbox (nodeagent.joining).
        yield "A reads block and mailbox", _read_box(_read_block(state), variant)
        return
    if a.fence.mark and not a.retaken:
        current = state.block.lease_of(A)
        if current is None or not variant.resume_by_write:
            yield "A reads what it may keep", _with(_read_block(state), retaken=RETAKEN)
        else:
            written = lease.retake(state.block, A, A, current.epoch)
            yield (
                "A decides to re-take its lease",
                _with(state, pending=Pending("retake", state.version, written, FRESH)),
            )
        return
    yield "A sends a heartbeat", _with(state, pending=Pending("beat", a.seen, sent_at=FRESH))
    if not a.fence.mark and a.holds and not a.used and not a.starting:
        given = lease.give_back(state.block, A, SLOT)
        if given is not state.block:
            yield "A gives the slot back", _with(state, holds=False, pending=Pending("give back", state.version, given))


def _read_block(state: State) -> State:
    current = state.block.lease_of(A)
    return _with(state, holds=current is not None)


def _read_box(state: State, variant: Variant) -> State:
    a, box = state.a, state.box
    if box is None and not variant.missing_mailbox_fences:
        return _with(state, seen=-1, retaken=NOT_RETAKEN)
    uid = box.uid if box else None
    fence = observed(a.fence, uid, box.standing_mark if box else "")
    if not variant.missing_mailbox_fences and box is not None and not box.standing_mark:
        fence = replace(a.fence, mailbox_uid=box.uid)
    retaken = a.retaken if fence.mark == a.fence.mark else NOT_RETAKEN
    return _with(state, fence=fence, retaken=retaken, seen=int(box.resource_version) if box else -1)


def _agent_requests(state: State, variant: Variant) -> Iterator[Step]:
    """What becomes of A's request: applied and answered, applied and unanswered, or lost."""
    pending = state.a.pending
    if pending is None:
        return
    idle = _with(state, pending=None)
    yield f"A's {pending.what} is lost", _read_box(idle, variant) if pending.block is None else _read_block(idle)
    if pending.block is not None:
        if pending.version != state.version:
            yield f"A's {pending.what} is refused", _read_block(idle)
            return
        applied = idle._replace(block=pending.block, version=state.version + 1)
        begun = RETAKEN if pending.sent_at == FRESH else RETAKEN_LATE
        retaken = begun if pending.what == "retake" else NOT_RETAKEN
        yield f"A's {pending.what} is applied", _with(_read_block(applied), retaken=retaken)
        yield f"A's {pending.what} is applied, unanswered", _read_block(applied)
    else:
        yield from _beat(idle, pending, variant)


def _beat(state: State, pending: Pending, variant: Variant) -> Iterator[Step]:
    """A heartbeat is a compare-and-swap; with a mark re-taken for, it carries the mark's end."""
    a, box = state.a, state.box
    if box is None and pending.version == -1:
        new = reclaim.Mailbox(str(_next_uid(state)), str(_next_box(state)))
        created = state._replace(box=new)
        if variant.missing_mailbox_fences:
            fence = _cleared(a, a.fence, new.uid, pending.sent_at, variant)
        else:
            fence = acknowledged(replace(a.fence, mailbox_uid=new.uid), pending.sent_at)
        yield "A creates its mailbox", _acknowledged(created, fence, variant)
        yield "A's mailbox is created, unanswered", created
        return
    if box is None or pending.version != int(box.resource_version):
        yield "A's heartbeat is refused", _read_box(state, variant)
        return
    number = max([box.beat.sequence if box.beat else 0, *_beats(state)]) + 1
    answers = a.fence.mark if a.fence.mark == box.standing_mark and a.fence.mark else box.answered
    written = replace(
        box, resource_version=str(_next_box(state)), beat=reclaim.Beat(number, "boot", A.uid), answered=answers
    )
    applied = state._replace(box=written)
    read = observed(a.fence, box.uid, "")
    fence = (
        _cleared(a, read, box.uid, pending.sent_at, variant) if a.fence.mark else acknowledged(read, pending.sent_at)
    )
    yield "A's heartbeat is acknowledged", _acknowledged(applied, fence, variant)
    yield "A's heartbeat is applied, unanswered", _with(applied, seen=int(box.resource_version))


def _cleared(a: Agent, read: Fence, uid: str, sent_at: float, variant: Variant) -> Fence:
    """The mark ends if the leases were re-taken less than the lease time ago; else they are re-taken once more."""
    in_time = a.retaken == RETAKEN or (a.retaken and not variant.retake_in_time)
    return cleared(read, a.fence.mark, uid, sent_at) if in_time else read


def _acknowledged(state: State, fence: Fence, variant: Variant) -> State:
    """An acknowledgement after a mark was seen by A only with its leases re-taken: it opens no way for that mark's leader.

    The journal gets it, and by which mailbox, unless a mark still stands (Mailbox._persist); an agent that starts goes on trying until none does.
    """
    seen = int(state.box.resource_version) if state.box else -1
    kept = state.a.kept_uid if fence.mark and variant.keep_uid_when_acknowledged else state.box.uid if state.box else ""
    starting = state.a.starting and bool(fence.mark)
    return _with(state, fence=fence, seen=seen, starting=starting, retaken=NOT_RETAKEN, kept_uid=kept)


# Node B: claims what is free, by compare-and-swap on what stands there -----------------------------------------------------------------------


def _other_node(state: State) -> Iterator[Step]:
    if not state.b_holds:
        if state.block.free & SLOT:
            claimed = lease.claim(state.block, B, SLOT)
            yield "B claims the slot", state._replace(block=claimed, version=state.version + 1, b_holds=True)
    elif not state.b_used:
        yield "B gives the slot to a pod", state._replace(b_used=True)
        given = lease.give_back(state.block, B, SLOT)
        yield "B gives the slot back", state._replace(block=given, version=state.version + 1, b_holds=False)
    else:
        yield "B's pod ends", state._replace(b_used=False)


# Leaders -----------------------------------------------------------------------------------------------------------------------------------


def _leader(state: State, number: int, variant: Variant) -> Iterator[Step]:
    me = state.leaders[number]

    def put(leader: Leading, base: State = state) -> State:
        pair = list(base.leaders)
        pair[number] = leader
        return base._replace(leaders=(pair[0], pair[1]))

    if me.state is not None:
        yield "a leader restarts", put(Leading())
    if me.pending is not None:
        yield from _taking(state, me, put)
        return
    match me.state:
        case None:
            yield "a leader begins to watch", put(Leading(_watch(state)))
        case reclaim.Watching():
            if reclaim.moved(me.state, state.box):
                yield "a leader sees life", put(Leading(_watch(state)))
            else:
                kept = [(PAGE, held) for held in state.block.leases if held.node == A]
                found = reclaim.observe(me.state, state.box, kept, RULES, LATER)
                if isinstance(found, reclaim.Remembered):
                    found = replace(found, leases=remembrance(state.block))
                    yield "a leader remembers the leases", put(Leading(found))
        case reclaim.Remembered():
            yield from _marking(state, me, variant, put)
        case reclaim.Marked():
            yield from _deciding(state, me, me.state, variant, put)


def _watch(state: State) -> reclaim.Watching:
    return reclaim.watch(state.box, FRESH)


def _marking(state: State, me: Leading, variant: Variant, put: Callable[..., State]) -> Iterator[Step]:
    """The fresh read that still shows the silence, and the compare-and-swap on its version, as one step: a write in between refuses it."""
    known = me.state
    assert isinstance(known, reclaim.Remembered)
    if reclaim.moved(known, state.box):
        yield "a leader calls the mark off", put(Leading(_watch(state)))
        return
    if not variant.mark:
        yield (
            "a leader believes that A is dead",
            put(Leading(reclaim.Marked(known.uid, known.beat, "", known.leases, FRESH), True)),
        )
        return
    name, version = str(_next_mark(state)), str(_next_box(state))
    box = (
        replace(state.box, mark=name, resource_version=version)
        if state.box
        else reclaim.Mailbox(str(_next_uid(state)), version, mark=name)
    )
    after = state._replace(box=box)
    ours = reclaim.marked(known, box, FRESH)
    lapsed = not variant.wait or not _has_fresh(state.a)
    yield "a leader marks A", put(Leading(ours, may_ripen=lapsed), after)
    yield "a leader's mark is applied, unanswered", put(Leading(_watch(after)), after)


def _deciding(
    state: State, me: Leading, known: reclaim.Marked, variant: Variant, put: Callable[..., State]
) -> Iterator[Step]:
    if variant.mark and not reclaim.holds(known, state.box):
        yield "a leader calls the reclaim off", put(Leading(_watch(state)))
        return
    if not variant.remember_before_mark and not me.may_ripen and known.leases != remembrance(state.block):
        yield (
            "a leader remembers after the mark",
            put(me._replace(state=replace(known, leases=remembrance(state.block)))),
        )
    if not me.may_ripen:
        return
    if not me.unused:
        if not state.a.used:
            yield "a leader sees that nobody uses the slot", put(me._replace(unused=True))
        return
    remembered = known
    if not variant.compare_epochs:
        remembered = replace(known, leases=remembrance(state.block))
    taken = reclaim.take(remembered, state.block, SLOT, 0)
    if taken is not state.block:
        yield "a leader decides to take the slot", put(me._replace(pending=Pending("take", state.version, taken)))


def _taking(state: State, me: Leading, put: Callable[..., State]) -> Iterator[Step]:
    assert me.pending is not None and me.pending.block is not None
    if me.pending.version != state.version:
        yield "a leader's take is refused", put(me._replace(pending=None))
        return
    taken = state._replace(block=me.pending.block, version=state.version + 1)
    yield "a leader takes the slot", put(Leading(_watch(state)), taken)


# New tokens --------------------------------------------------------------------------------------------------------------------------------


def _beats(state: State) -> list[int]:
    return [leader.state.beat.sequence for leader in state.leaders if leader.state is not None and leader.state.beat]


def _next_box(state: State) -> int:
    pendings = [p.version for p in (state.a.pending,) if p is not None and p.block is None]
    return max([0, state.a.seen, *pendings, *([int(state.box.resource_version)] if state.box else [])]) + 1


def _next_uid(state: State) -> int:
    known = [leader.state.uid for leader in state.leaders if leader.state is not None]
    uids = [*known, state.a.fence.mailbox_uid, state.a.kept_uid, state.box.uid if state.box else ""]
    return max((int(uid) for uid in uids if uid), default=0) + 1


def _next_mark(state: State) -> int:
    marks = [state.a.fence.mark, *([state.box.mark, state.box.answered] if state.box else [])]
    marks += [leader.state.mark for leader in state.leaders if isinstance(leader.state, reclaim.Marked)]
    return max((int(mark) for mark in marks if mark.isdecimal()), default=0) + 1
