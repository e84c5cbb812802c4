"""One state of the model: one block with one contested slot, the suspected node A, another node B, two leaders, A's mailbox.

All parts are values of the production modules (`Block`, `Fence`, `reclaim.Mailbox`, `reclaim.State`). Of epochs, versions, beats, marks and uids
only equality matters, and none comes again: `canonical` keeps of each whether it is what stands now. That makes the search finite, and short.
"""

from __future__ import annotations

from typing import NamedTuple

from ipam import reclaim
from ipam.blocks import Block, Lease, NodeRef
from ipam.fence import NO_MAILBOX, Fence
from ipam.slots import Page

PAGE = Page.parse("10.0.0.0/26")
SLOT = 1
A, B = NodeRef("a", "ua"), NodeRef("b", "ub")
NEVER = float("-inf")
NOT_RETAKEN, RETAKEN, RETAKEN_LATE = range(3)  # late: begun longer ago than the lease time
NOW, STALE = "1", "0"  # a token that is what stands now, and one that is not and never will be again
ABSENT, STALE_VERSION = -1, -2
FRESH = 0.0  # the model's only moment: an acknowledgement is of now, or it has lapsed


class Pending(NamedTuple):
    """A request that was decided and not yet applied: what it is, the block or mailbox version it rests on, the block to write."""

    what: str
    version: int
    block: Block | None = None
    sent_at: float = NEVER


class Agent(NamedTuple):
    """Node A. `holds`: its memory says that the slot is its own; `used`: a pod lives on it; `seen`: version of the mailbox as it knows it.

    `retaken`: whether the leases were re-taken for the mark that stands, and when. `kept_uid`: the mailbox's uid in the journal.
    """

    fence: Fence
    holds: bool = True
    used: bool = False
    starting: bool = False
    retaken: int = NOT_RETAKEN
    seen: int = 0
    kept_uid: str = ""
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
    return State(block, 1, box, Agent(fence, seen=1, kept_uid="1"), False, False, (Leading(), Leading()))


def canonical(state: State) -> State:
    """The same state with every token replaced by what can still matter of it.

    Tokens (versions, epochs, beats, marks, uids) never come again, so one that differs from what stands now differs for ever: what rests on it is
    *stale*, whichever it was. Three exceptions are kept as they are, because they can become true again: not known, known to be absent, and the
    request to create a mailbox. Memory that no step will look at is dropped. The two leaders are put into a fixed order.
    """
    a, box = state.a, _box(state.box)
    current = state.box
    leaders = sorted((_leader(leader, state) for leader in state.leaders), key=_order)
    uid = current.uid if current else ""
    mark = current.standing_mark if current else ""
    version = int(current.resource_version) if current else 0
    fence = Fence(a.fence.lease_s, a.fence.acknowledged_at, _token(a.fence.mailbox_uid, uid), _mark(a.fence.mark, mark))
    agent = Agent(
        fence,
        a.holds,
        a.used,
        a.starting,
        a.retaken,
        _seen(a.seen, version),
        _token(a.kept_uid, uid),
        _pending(a.pending, state.version, version),
    )
    return State(_block(state.block, 1), 1, box, agent, state.b_holds, state.b_used, (leaders[0], leaders[1]))


def _token(mine: str, now: str) -> str:
    return mine and (NOW if mine == now else STALE)


def _mark(mine: str, now: str) -> str:
    return mine if mine == NO_MAILBOX else _token(mine, now)


def _seen(mine: int, now: int) -> int:
    return mine if mine in (0, ABSENT) else 1 if mine == now else STALE_VERSION


def _box(box: reclaim.Mailbox | None) -> reclaim.Mailbox | None:
    """An answered mark is as good as none."""
    if box is None:
        return None
    return reclaim.Mailbox(NOW, NOW, _beat(box.beat), NOW if box.standing_mark else "")


def _beat(beat: reclaim.Beat | None) -> reclaim.Beat | None:
    return reclaim.Beat(1, beat.boot_id, beat.node_uid) if beat else None


def _block(block: Block, epoch: int) -> Block:
    """Terms are compared nowhere here, and a suspect slot is as good as any to B, whose probe may be wrong."""
    return Block(PAGE, tuple(Lease(lease.node, lease.slots, epoch) for lease in block.leases), epoch=epoch)


def _pending(p: Pending | None, block_version: int, box_version: int) -> Pending | None:
    """A request that rests on an old version will be refused, or lost; either way what stands is read."""
    if p is None:
        return None
    if p.block is not None:
        valid = p.version == block_version
        return Pending(p.what, 1, _block(p.block, 2), p.sent_at) if valid else Pending("request", 0, NOTHING)
    if p.version == ABSENT or p.version == box_version:
        return Pending(p.what, _seen(p.version, box_version), None, p.sent_at)
    return Pending(p.what, STALE_VERSION)


def _leader(leader: Leading, state: State) -> Leading:
    s, box, pending = leader.state, state.box, _pending(leader.pending, state.version, 0)
    if s is None:
        return Leading()
    if isinstance(s, reclaim.Marked):
        if s.mark and not reclaim.holds(s, box):
            # It calls the reclaim off, unless a decided request is under way; in either case it then begins anew.
            return Leading(reclaim.Marked(STALE, None, STALE, _Kept(), FRESH), pending=pending) if pending else _MOVED
        kept = reclaim.Marked(
            _token(s.uid, box.uid if box else ""), _beat(s.beat), s.mark and NOW, _held(s, state), FRESH
        )
        return Leading(kept, leader.may_ripen, leader.unused, pending)
    if s.uid and reclaim.moved(s, box):
        return _MOVED
    uid, beat = s.uid and NOW, _beat(s.beat)
    if isinstance(s, reclaim.Watching):
        return Leading(reclaim.Watching(uid, beat, FRESH))
    return Leading(
        reclaim.Remembered(uid, "", beat, _held(s, state))
    )  # the mark rests on a fresh read, not on this version


def _held(s: reclaim.Remembered | reclaim.Marked, state: State) -> _Kept:
    """What is remembered of A's lease, if that lease still has the remembered epoch."""
    current = state.block.lease_of(A)
    return _Kept(
        (key, Lease(lease.node, lease.slots, 1))
        for key, lease in s.leases.items()
        if current is not None and lease.epoch == current.epoch
    )


class _Kept(dict[tuple[Page, str], Lease]):
    """A leader's remembrance that can be hashed; never changed after it was made."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def _order(leader: Leading) -> tuple[object, ...]:
    """Leaders are alike: which of them is in which state makes no difference."""
    s, p = leader.state, leader.pending
    beat = s is not None and s.beat is not None
    kept = 0 if s is None or isinstance(s, reclaim.Watching) else len(s.leases)
    mark = s.mark if isinstance(s, reclaim.Marked) else ""
    pending = 0 if p is None else 1 + p.version
    return (type(s).__name__, s.uid if s else "", beat, mark, kept, leader.may_ripen, leader.unused, pending)


def remembrance(block: Block) -> _Kept:
    """What a leader remembers of A's leases."""
    return _Kept(((PAGE, lease.node.uid), lease) for lease in block.leases if lease.node == A)


NOTHING = Block(PAGE)
_MOVED = Leading(reclaim.Watching(STALE, None, FRESH))  # it has yet to notice that A has shown life since
