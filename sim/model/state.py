"""One state of the model: one block with one contested slot, the suspected node A, another node B, two leaders, A's mailbox.

All parts are values of the production modules (`Block`, `Fence`, `reclaim.Mailbox`, `reclaim.State`). Tokens that only their equality or order matters
of (epochs, versions, beats, marks, uids) are renumbered by rank, which makes the search finite.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
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
    epoch: int = 0
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
    block = Block(PAGE, (Lease(A, SLOT, 0),), epoch=0)
    box = reclaim.Mailbox("1", "1", reclaim.Beat(1, "boot", A.uid))
    fence = Fence(1.0, FRESH, "1")
    return State(block, 1, box, Agent(fence, seen=1), False, False, (Leading(), Leading()))


def canonical(state: State) -> State:
    """The same state with every token replaced by its rank, and the two leaders in a fixed order."""
    a, box, leaders = state.a, state.box, state.leaders
    pendings = [p for p in (a.pending, *(leader.pending for leader in leaders)) if p is not None]
    known = [leader.state for leader in leaders if leader.state is not None]
    kept = [s for s in known if not isinstance(s, reclaim.Watching)]
    blocks = [state.block, *(p.block for p in pendings if p.block is not None)]
    epochs = _ranks(
        [block.epoch for block in blocks]
        + [lease.epoch for block in blocks for lease in block.leases]
        + [a.epoch]
        + [lease.epoch for s in kept for lease in s.leases.values()]
    )
    versions = _ranks([state.version, *(p.version for p in pendings if p.block is not None)])
    boxes = _ranks([a.seen] + ([int(box.resource_version)] if box else []) + [p.version for p in pendings if not p.block])
    beats = _ranks([m.beat.sequence for m in (box, *known) if m is not None and m.beat is not None])
    marks = _marks(
        [box.mark, box.answered] if box else [],
        [a.fence.mark],
        [s.mark for s in known if isinstance(s, reclaim.Marked)],
    )
    uids = _ranks([int(uid) for uid in (*([box.uid] if box else []), a.fence.mailbox_uid, *(s.uid for s in known)) if uid])

    def block_of(block: Block) -> Block:
        leases = tuple(replace(lease, epoch=epochs[lease.epoch]) for lease in block.leases)
        return replace(block, leases=leases, epoch=epochs[block.epoch], term=0)

    def pending_of(p: Pending | None) -> Pending | None:
        if p is None:
            return None
        return p._replace(version=versions[p.version], block=block_of(p.block)) if p.block else p._replace(version=boxes[p.version])

    def beat_of(beat: reclaim.Beat | None) -> reclaim.Beat | None:
        return replace(beat, sequence=beats[beat.sequence]) if beat else None

    def uid_of(uid: str) -> str:
        return str(uids[int(uid)]) if uid else ""

    def leader_of(leader: Leading) -> Leading:
        s = leader.state
        if s is None:
            return leader._replace(pending=pending_of(leader.pending))
        s = replace(s, uid=uid_of(s.uid), beat=beat_of(s.beat))
        if not isinstance(s, reclaim.Watching):
            s = replace(s, leases=_Kept((k, replace(v, epoch=epochs[v.epoch])) for k, v in s.leases.items()))
        if isinstance(s, reclaim.Marked):
            s = replace(s, mark=marks[s.mark])
        return leader._replace(state=s, pending=pending_of(leader.pending))

    if box is not None:
        box = reclaim.Mailbox(
            uid_of(box.uid), str(boxes[int(box.resource_version)]), beat_of(box.beat), marks[box.mark], marks[box.answered]
        )
    fence = replace(a.fence, mark=marks[a.fence.mark], mailbox_uid=uid_of(a.fence.mailbox_uid))
    a = a._replace(fence=fence, epoch=epochs[a.epoch], seen=boxes[a.seen], pending=pending_of(a.pending))
    one, two = sorted((leader_of(leader) for leader in leaders), key=repr)
    return State(block_of(state.block), versions[state.version], box, a, state.b_holds, state.b_used, (one, two))


class _Kept(dict[tuple[Page, str], Lease]):
    """A leader's remembrance that can be hashed; never changed after it was made."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def remembrance(block: Block) -> _Kept:
    """What a leader remembers of A's leases."""
    return _Kept(((PAGE, lease.node.uid), lease) for lease in block.leases if lease.node == A)


def _ranks(values: Iterable[int]) -> dict[int, int]:
    return {value: rank for rank, value in enumerate(sorted(set(values)), 1)}


def _marks(*found: Iterable[str]) -> dict[str, str]:
    names = {mark for group in found for mark in group} - {"", NO_MAILBOX}
    ranked = {name: str(rank) for rank, name in enumerate(sorted(names, key=int), 1)}
    return {"": "", NO_MAILBOX: NO_MAILBOX, **ranked}
