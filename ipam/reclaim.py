"""The leader's side of forced reclaim: one machine per node name (design.md section 4, point 6).

::

    Watching ──the heartbeat stood still for wait_s──> Remembered (the leases, with their epochs)
    Remembered ──the mark was written at the version that showed the staleness──> Marked
    Remembered ──refused: the node, or somebody, wrote──> Watching
    Marked ──wait_s more──> slots are taken, only from leases whose epoch is the remembered one, only while the mark stands
    Watching, Remembered, Marked ──the heartbeat moves, or the mark is answered or replaced──> Watching

The order carries the proof. A compare-and-swap on a block alone would be unsound: heartbeats do not touch blocks, and a leader may be paused between
deciding and writing. So the leader (a) remembers epochs, (b) only then marks, (c) only then waits as long as a node that has not seen the mark can
go on handing out, and (d) takes only what still has the remembered epoch. A node that comes back must see the mark first, and gives every lease a
new epoch before it hands out anything. Each of these weakenings gives a double address: epochs not compared; remembered after the mark; no wait.

A node that was replaced (its name is beaten by an agent under another Node UID) needs no mark: the successor's heartbeat is one, because an agent
that finds a foreign heartbeat in its mailbox is fenced, and the successor re-took everything that it knows of before it wrote that heartbeat.

All times are the leader's own monotonic clock and start at its own first observation; a new leader starts over, with a mark of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from ipam.blocks import Block, Lease
from ipam.lease import reclaim
from ipam.slots import ALL_SLOTS, Page, SlotId, ordinals

RATE_MARGIN = 1.1  # how much slower than the leader's a node's clock may run
GRACE_S = 30.0


class Policy(Enum):
    """What the leader may do about a node that is unreachable but still exists (a gone or out-of-service node is reclaimed in any case).

    `PROBE`: take what is not known to be used; its next holder probes before use. `CONFIRM`: only when an operator says so. `NEVER`.
    """

    PROBE = "Probe"
    CONFIRM = "Confirm"
    NEVER = "Never"


class Standing(Enum):
    """What the API says of the node behind the leases."""

    PRESENT = "present"
    REPLACED = "replaced"  # a Node object of that name with another UID than these leases have
    OUT_OF_SERVICE = (
        "out-of-service"  # an operator's word that the machine is off (taint node.kubernetes.io/out-of-service)
    )
    GONE = "gone"  # no Node object of that name


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat as far as it matters: whether it is the same one as before, and who wrote it."""

    sequence: int
    boot_id: str
    node_uid: str


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One IPNode as read. `mark`: id of the fence mark in `spec` ("" for none); `answered`: the last one that the agent has cleared."""

    uid: str
    resource_version: str
    beat: Beat | None = None
    mark: str = ""
    answered: str = ""

    @property
    def standing_mark(self) -> str:
        return self.mark if self.mark != self.answered else ""


@dataclass(frozen=True, slots=True)
class Rules:
    """`lease_s`: how long a node hands out after its last acknowledged heartbeat, the longest of the cluster."""

    lease_s: float = 300.0
    grace_s: float = GRACE_S
    policy: Policy = Policy.PROBE

    @property
    def wait_s(self) -> float:
        return self.lease_s * RATE_MARGIN + self.grace_s


Remembrance = Mapping[tuple[Page, str], Lease]
"""The leases of one node name as they were when its silence was noticed, by page and Node UID."""


@dataclass(frozen=True, slots=True)
class Watching:
    """`since`: when the mailbox was first seen in this state."""

    uid: str
    beat: Beat | None
    since: float


@dataclass(frozen=True, slots=True)
class Remembered:
    """The mark may be written now: at `version` of the mailbox (uid `uid`; both "" to create it)."""

    uid: str
    version: str
    beat: Beat | None
    leases: Remembrance


@dataclass(frozen=True, slots=True)
class Marked:
    """`mark` "" stands for a successor's heartbeat. `since`: when the mark was known to be written."""

    uid: str
    beat: Beat | None
    mark: str
    leases: Remembrance
    since: float


State = Watching | Remembered | Marked


def watch(mailbox: Mailbox | None, now: float) -> Watching:
    """The first observation of a node, by this leader."""
    return Watching(mailbox.uid if mailbox else "", mailbox.beat if mailbox else None, now)


def observe(
    state: State, mailbox: Mailbox | None, leases: Iterable[tuple[Page, Lease]], rules: Rules, now: float
) -> State:
    """The next state, given the mailbox and all leases of that node name, as the leader sees them now.

    `Remembered` asks the caller for the mark; nothing else here asks for a write.
    """
    if moved(state, mailbox):
        return watch(mailbox, now)
    if isinstance(state, Marked):
        return state if holds(state, mailbox) else watch(mailbox, now)
    if isinstance(state, Remembered):
        # The write was not tried, or its outcome was looked up and it was not applied.
        return Watching(state.uid, state.beat, now - rules.wait_s)
    if now - state.since < rules.wait_s:
        return state
    kept = {(page, lease.node.uid): lease for page, lease in leases}
    if not kept:
        return state
    return Remembered(state.uid, mailbox.resource_version if mailbox else "", state.beat, kept)


def succeeded(state: State, mailbox: Mailbox | None, leases: Iterable[tuple[Page, Lease]], now: float) -> State:
    """For a name whose heartbeat lives under another Node UID than these leases: the successor's heartbeat is the mark."""
    if mailbox is None or mailbox.beat is None:
        return watch(mailbox, now)
    uid = mailbox.beat.node_uid
    foreign = {(page, lease.node.uid): lease for page, lease in leases if lease.node.uid != uid}
    if isinstance(state, Marked) and state.uid == mailbox.uid and state.beat is not None and state.beat.node_uid == uid:
        return state
    return Marked(mailbox.uid, mailbox.beat, "", foreign, now) if foreign else watch(mailbox, now)


def marked(state: Remembered, mailbox: Mailbox, now: float) -> Marked:
    """Our mark is known to stand in `mailbox`. The waiting time starts again here."""
    return Marked(mailbox.uid, state.beat, mailbox.mark, state.leases, now)


def moved(state: State, mailbox: Mailbox | None) -> bool:
    """True if the node, or somebody in its name, has shown life since."""
    uid, beat = (mailbox.uid, mailbox.beat) if mailbox else ("", None)
    return uid != state.uid or beat != state.beat


def holds(state: Marked, mailbox: Mailbox | None) -> bool:
    """True if the mark stands in the mailbox *as just read*: asked again immediately before every slot is taken."""
    if mailbox is None or mailbox.uid != state.uid or (mailbox.beat is None and state.beat is not None):
        return False
    if not state.mark:
        return mailbox.beat is not None and state.beat is not None and mailbox.beat.node_uid == state.beat.node_uid
    return mailbox.standing_mark == state.mark and mailbox.beat == state.beat


def is_ripe(state: State, rules: Rules, now: float) -> bool:
    """True if slots may be taken at `now`."""
    return isinstance(state, Marked) and now - state.since >= rules.wait_s


def take(state: Marked, block: Block, slots: int, term: int) -> Block:
    """The block, as just read, without the given slots of every remembered lease that still has its epoch.

    A lease that was written since is left alone: its holder lives, or another leader was here. Raises LeaseRefused if `term` is too old.
    """
    for lease in block.leases:
        known = state.leases.get((block.page, lease.node.uid))
        if known is not None and known.node == lease.node and known.epoch == lease.epoch:
            block = reclaim(block, lease, slots, term)
    return block


def taken(state: Marked, before: Block, after: Block) -> Marked:
    """Our compare-and-swap from `before` to `after` was applied: what is left of a remembered lease carries an epoch that we gave it."""
    leases = dict(state.leases)
    for (page, uid), lease in state.leases.items():
        if page != after.page or before.lease_of(lease.node) == after.lease_of(lease.node):
            continue
        rest = after.lease_of(lease.node)
        if rest is None:
            del leases[page, uid]
        else:
            leases[page, uid] = rest
    return replace(state, leases=leases)


def written_since(state: Marked, leases: Iterable[tuple[Page, Lease]]) -> Remembrance:
    """The leases that are not as they were remembered, though their node is silent: a pin of it moved to another node, or a claim arrived late.

    `take` leaves such a lease alone for good, so the caller has to begin anew. `state` is the one before anything was taken, like the picture
    `leases`: what was taken since is remembered no more, and would look new. Epochs only grow: an older picture than ours says nothing.
    """
    known = state.leases
    found = {(page, lease.node.uid): lease for page, lease in leases}
    return {key: lease for key, lease in found.items() if key not in known or lease.epoch > known[key].epoch}


def begun_anew(
    before: Marked, after: Marked, mailbox: Mailbox, leases: Iterable[tuple[Page, Lease]]
) -> Marked | Remembered:
    """What can be taken was taken (`before` became `after`), and the mark still stands in `mailbox`. Leases that were written since are remembered as
    they are now, for another mark and another wait: an agent that answers must re-take them after that mark, which no epoch remembered after the
    first one could show.
    """
    written = written_since(before, leases)
    if not written:
        return after
    return Remembered(mailbox.uid, mailbox.resource_version, mailbox.beat, {**after.leases, **written})


# Which slots -------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Uses:
    """What is known of the pods of one node name, read after the wait.

    `holders`: address → UIDs of the pods that are recorded with it (SpiderEndpoints, podIPs). `living`: UIDs of the pods that the API still has,
    finished ones included. `unplaced`: living pods that may hold an address that no record tells.
    """

    holders: Mapping[SlotId, frozenset[str]]
    living: frozenset[str]
    unplaced: frozenset[str] = frozenset()


def takeable(block: Block, standing: Standing, policy: Policy, uses: Uses, *, confirmed: bool = False) -> int:
    """Mask of the block's slots that may be taken from a silent node: never one that a living pod is recorded with, unless the node is gone.

    A slot without any record counts as last reported free only if every living pod of the node is accounted for; the pods of a node that was
    replaced hold addresses of its successor's leases.
    """
    if standing in (Standing.GONE, Standing.OUT_OF_SERVICE):
        return ALL_SLOTS
    replaced = standing is Standing.REPLACED
    if not replaced and (policy is Policy.NEVER or (policy is Policy.CONFIRM and not confirmed)):
        return 0
    mask = 0
    for slot in block.page.slot_ids(block.leased):
        recorded = uses.holders.get(slot, frozenset())
        if recorded & uses.living:
            continue
        if recorded or replaced or not uses.unplaced:
            mask |= slot.bit
    return mask


def count_slots(leases: Iterable[Lease]) -> int:
    """How many addresses these leases hold."""
    return sum(1 for lease in leases for _ in ordinals(lease.slots))
