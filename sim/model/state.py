"""One state of the model: one block with one contested slot, the suspected node A, another node B, two leaders, A's mailbox.

All parts are values of the production modules (`Block`, `Fence`, `reclaim.Mailbox`, `reclaim.State`). Epochs, versions, beats, marks and uids,
of which only equality and order matter, are renumbered by rank, which makes the search finite.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ipam import reclaim
from ipam.blocks import Block, Lease, NodeRef
from ipam.fence import NO_MAILBOX, Fence
from ipam.slots import Page

PAGE = Page.parse("10.0.0.0/26")
SLOT = 1
A, B = NodeRef("a", "ua"), NodeRef("b", "ub")
NEVER = float("-inf")
FRESH = 0.0  # the model's only moment: an acknowledgement is of now, or it has lapsed


class Pending(NamedTuple):
    """A request that was decided and not yet applied: what it is, the block or mailbox version it rests on, the block to write."""

    what: str
    version: int
    block: Block | None = None
    sent_at: float = NEVER


class Agent(NamedTuple):
    """Node A. `holds`: its memory says that the slot is its own; `used`: a pod lives on it; `seen`: version of the mailbox as it knows it."""

    fence: Fence
    holds: bool = True
    used: bool = False
    starting: bool = False
    retaken: bool = False
    seen: int = 0
    pending: Pending | None = None


class Leading(NamedTuple):
    """One leader. `may_ripen`: whatever A was acknowledged before the mark has lapsed, so the leader's wait may end."""

    state: reclaim.State | None = None
    may_ripen: bool = False
    unused: bool = False  # read after the wait: nobody lives on the slot
    pending: Pending | None = None


class State(NamedTuple):
    block: Block
    version: int
    box: reclaim.Mailbox | None
    a: Agent
    b_holds: bool
    b_used: bool
    leaders: tuple[Leading, Leading]

    @property
    def is_double(self) -> bool:
        return self.a.used and self.b_used


def first() -> State:
    """A holds the slot and is acknowledged; nobody suspects it."""
    block = Block(PAGE, (Lease(A, SLOT, 1),), epoch=1)
    box = reclaim.Mailbox("1", "1", reclaim.Beat(1, "boot", A.uid))
    fence = Fence(1.0, FRESH, "1")
    return State(block, 1, box, Agent(fence, seen=1), False, False, (Leading(), Leading()))


def canonical(state: State) -> State:  # noqa: C901  # one case per kind of token
    """The same state with every token replaced by its rank, and the two leaders in a fixed order."""
    a, box, leaders = state.a, state.box, state.leaders
    if box is not None and box.mark and not box.standing_mark:
        box = reclaim.Mailbox(box.uid, box.resource_version, box.beat)  # an answered mark is as good as none
    pendings = [p for p in (a.pending, *(leader.pending for leader in leaders)) if p is not None]
    known = [leader.state for leader in leaders if leader.state is not None]
    kept = [s for s in known if not isinstance(s, reclaim.Watching)]
    blocks = [state.block, *(p.block for p in pendings if p.block is not None)]
    epochs = _ranks(
        [block.epoch for block in blocks]
        + [lease.epoch for block in blocks for lease in block.leases]
        + [lease.epoch for s in kept for lease in s.leases.values()]
    )
    versions = _ranks([state.version, *(p.version for p in pendings if p.block is not None)])
    boxes = _ranks(
        [a.seen] + ([int(box.resource_version)] if box else []) + [p.version for p in pendings if not p.block]
    )
    beats = _ranks([m.beat.sequence for m in (box, *known) if m is not None and m.beat is not None])
    marks = _marks(
        [box.mark, box.answered] if box else [],
        [a.fence.mark],
        [s.mark for s in known if isinstance(s, reclaim.Marked)],
    )
    uids = _ranks(
        [int(uid) for uid in (*([box.uid] if box else []), a.fence.mailbox_uid, *(s.uid for s in known)) if uid]
    )

    def block_of(block: Block) -> Block:
        # Terms are compared nowhere here, and a suspect slot is as good as any to B, whose probe may be wrong.
        return Block(PAGE, tuple(lease_of(lease) for lease in block.leases), epoch=epochs[block.epoch])

    def lease_of(lease: Lease) -> Lease:
        return Lease(lease.node, lease.slots, epochs[lease.epoch])

    def pending_of(p: Pending | None) -> Pending | None:
        if p is None:
            return None
        return (
            p._replace(version=versions[p.version], block=block_of(p.block))
            if p.block
            else p._replace(version=boxes[p.version])
        )

    def beat_of(beat: reclaim.Beat | None) -> reclaim.Beat | None:
        return reclaim.Beat(beats[beat.sequence], beat.boot_id, beat.node_uid) if beat else None

    def uid_of(uid: str) -> str:
        return str(uids[int(uid)]) if uid else ""

    def leader_of(leader: Leading) -> Leading:
        s = leader.state
        if s is None:
            return leader._replace(pending=pending_of(leader.pending))
        uid, beat = uid_of(s.uid), beat_of(s.beat)
        if isinstance(s, reclaim.Watching):
            s = reclaim.Watching(uid, beat, s.since)
        else:
            held = _Kept((key, lease_of(lease)) for key, lease in s.leases.items())
            if isinstance(s, reclaim.Remembered):
                s = reclaim.Remembered(uid, "", beat, held)  # the mark rests on a fresh read, not on this version
            else:
                s = reclaim.Marked(uid, beat, marks[s.mark], held, FRESH)
        return leader._replace(state=s, pending=pending_of(leader.pending))

    if box is not None:
        box = reclaim.Mailbox(
            uid_of(box.uid),
            str(boxes[int(box.resource_version)]),
            beat_of(box.beat),
            marks[box.mark],
            marks[box.answered],
        )
    fence = Fence(a.fence.lease_s, a.fence.acknowledged_at, uid_of(a.fence.mailbox_uid), marks[a.fence.mark])
    a = Agent(fence, a.holds, a.used, a.starting, a.retaken, boxes[a.seen], pending_of(a.pending))
    one, two = sorted((leader_of(leader) for leader in leaders), key=_order)
    return State(block_of(state.block), versions[state.version], box, a, state.b_holds, state.b_used, (one, two))


class _Kept(dict[tuple[Page, str], Lease]):
    """A leader's remembrance that can be hashed; never changed after it was made."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def _order(leader: Leading) -> tuple[object, ...]:
    """Leaders are alike: which of them is in which state makes no difference."""
    s, p = leader.state, leader.pending
    beat = s.beat.sequence if s is not None and s.beat is not None else 0
    kept = [] if s is None or isinstance(s, reclaim.Watching) else [held.epoch for held in s.leases.values()]
    mark = s.mark if isinstance(s, reclaim.Marked) else ""
    block = (p.version, p.block.epoch) if p is not None and p.block is not None else (0, 0)
    return (type(s).__name__, s.uid if s else "", beat, mark, kept, leader.may_ripen, leader.unused, block)


def remembrance(block: Block) -> _Kept:
    """What a leader remembers of A's leases."""
    return _Kept(((PAGE, lease.node.uid), lease) for lease in block.leases if lease.node == A)


def _ranks(values: Iterable[int]) -> dict[int, int]:
    """Ranks from 1; 0 (not known) and -1 (known to be absent) stay what they are."""
    found = set(values)
    return {value: value for value in found if value <= 0} | {
        value: rank for rank, value in enumerate(sorted(value for value in found if value > 0), 1)
    }


def _marks(*found: Iterable[str]) -> dict[str, str]:
    names = {mark for group in found for mark in group} - {"", NO_MAILBOX}
    ranked = {name: str(rank) for rank, name in enumerate(sorted(names, key=int), 1)}
    return {"": "", NO_MAILBOX: NO_MAILBOX, **ranked}
