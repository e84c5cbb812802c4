"""The kinds of group `nephila.io`: who may allocate which addresses (IPBlock), a node's mailbox (IPNode), who leads.

Writes of these kinds are merge patches with `metadata.resourceVersion`. The rules below are the API server's share of
the protocol: they refuse what no correct program writes, so that a stale leader (I9), a mixed-up agent or a hand edit
cannot break what the blocks promise.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from crds.meta import UNSET, Kind, KubeObject, UnsetType, WireStruct, constant
from crds.rules import ADDRESS_LENGTH, ADDRESS_RULES, CIDR_LENGTH, IMMUTABLE, map_list, rule, say

GROUP = "nephila.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

_SLOT = "([0-9]|[1-5][0-9]|6[0-3])"
_SPAN = f"{_SLOT}(-{_SLOT})?"
_DOMAIN = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
# At most 32 separate items of "n-m," fit 64 slots; alternating single slots are shorter.
_SLOTS_LENGTH = 191
_SLOTS_MAX = 64

NodeName = Annotated[str, say("Name of the node.", minLength=1, maxLength=253)]
UID = Annotated[str, say(maxLength=64)]
_ORDINALS = f"[{', '.join(map(str, range(_SLOTS_MAX)))}]"
# "0-7,12" as x = [0, 7, 12], which ascends strictly if each number less its index does not descend. The guard leaves
# other texts to the pattern.
_ASCENDING = rule(
    "!self.matches('^[0-9]+([-,][0-9]+)*$') || [self.replace('-', ',').split(',', 64).map(s, int(s))]"
    f".all(x, {_ORDINALS}.filter(i, i < x.size()).map(i, x[i] - i).isSorted())",
    "slots must be ascending and disjoint, such as 0-7,12",
)
Slots = Annotated[
    str,
    say(
        "Ordinals within the page, ascending and disjoint: 0-7,12.",
        rules=[_ASCENDING],
        pattern=f"^{_SPAN}(,{_SPAN})*$",
        minLength=1,
        maxLength=_SLOTS_LENGTH,
    ),
]
MaybeSlots = Annotated[
    str,
    say(
        "Ordinals within the page (0-7,12), or empty.",
        rules=[_ASCENDING],
        pattern=f"^({_SPAN}(,{_SPAN})*)?$",
        maxLength=_SLOTS_LENGTH,
    ),
]
Epoch = Annotated[int, say("The block's epoch at the last write that touched this lease.", minimum=0)]
Term = Annotated[int, say("Fencing number of the leader.", minimum=0)]
Count = Annotated[int, say(minimum=0)]
Reason = Annotated[str, say("Why, for people.", maxLength=1024)]


class LeaseEntry(WireStruct):
    """The slots of this block that one node may allocate."""

    node: NodeName
    node_uid: Annotated[UID, say("UID of the Node object: a node re-created under its name is another holder.")]
    slots: Slots
    epoch: Epoch


class PinOwner(WireStruct):
    """The identity a slot is reserved for."""

    kind: Annotated[str, say("StatefulSet, VirtualMachineInstance, IPAMClaim…", minLength=1, maxLength=63)]
    namespace: Annotated[str, say("Namespace of the identity.", maxLength=63)]
    name: Annotated[str, say("Name of the identity, e.g. of the pod.", minLength=1, maxLength=253)]
    interface: Annotated[str, say("Interface of the pod.", minLength=1, maxLength=63)]
    uid: Annotated[UID, say("UID of the identity's controller, if known.")] = ""


class PinHolder(WireStruct):
    """Where the identity runs now; absent after CNI DEL."""

    node: NodeName
    pod_uid: Annotated[UID, say("UID of the pod.")]


class PinEntry(WireStruct):
    """A slot reserved for one identity, wherever it runs."""

    slot: Annotated[int, say("Ordinal within the page.", minimum=0, maximum=63)]
    owner: PinOwner
    holder: PinHolder | UnsetType = UNSET
    source: (
        Annotated[
            PinHolder,
            say("During a live migration: the pod that the machine comes from. After a failed one: the holder."),
        ]
        | UnsetType
    ) = UNSET


class CoolingEntry(WireStruct):
    """Slots that must rest until a moment."""

    slots: Slots
    until: Annotated[datetime, say("When they may be used again.")]


class IPBlockSpec(WireStruct):
    """Leases, pins and marks of one page."""

    page: Annotated[
        str,
        say(
            "The page: 64 aligned addresses, a /26 or a /122.",
            rules=[
                rule(
                    "isCIDR(self) && cidr(self) == cidr(self).masked() && "
                    "cidr(self).prefixLength() == (cidr(self).ip().family() == 4 ? 26 : 122)",
                    "must be a /26 or a /122 in network form",
                ),
                rule(IMMUTABLE, "page is not changeable"),
            ],
            maxLength=CIDR_LENGTH,
        ),
    ]
    domain: Annotated[
        str,
        say(
            "The L2 domain; empty for the only one.",
            rules=[rule(IMMUTABLE, "domain is not changeable")],
            pattern=rf"^({_DOMAIN}(\.{_DOMAIN})*)?$",
            maxLength=200,
            default="",
        ),
    ] = ""
    epoch: Annotated[int, say("Grows at every change of spec, and starts at a random number.", minimum=0)]
    term: Annotated[int, say("Fencing number of the last leader that wrote this block.", minimum=0)]
    leases: Annotated[
        tuple[LeaseEntry, ...], say("Who may allocate which slots.", maxItems=_SLOTS_MAX, **map_list("node", "nodeUID"))
    ] = ()
    pins: Annotated[
        tuple[PinEntry, ...], say("Slots reserved for identities.", maxItems=_SLOTS_MAX, **map_list("slot"))
    ] = ()
    suspect: Annotated[MaybeSlots, say("Slots taken by force: never handed out without a full probe.")] = ""
    cooling: Annotated[tuple[CoolingEntry, ...], say("Slots that rest after their last use.", maxItems=_SLOTS_MAX)] = ()


# I1 in CEL. "0-7,12" becomes x = [0, -7, 12]: a negative number ends the range that the number before it begins. Slot n
# is in the set if it is a member either way, or if the first number beyond it ends a range.
_SLOT_NUMBERS = "l.slots.replace('-', ',-').split(',', 64).map(s, int(s))"
_HOLDS_SLOT = "n in x || -n in x || [x.filter(e, e > n || -e > n)].exists(f, f.size() > 0 && f[0] < 0)"
_ONE_OWNER = (
    "!has(self.leases) || !self.leases.all(l, l.slots.matches('^[0-9]+([-,][0-9]+)*$')) || "
    f"[self.leases.map(l, {_SLOT_NUMBERS})].all(leased, "
    f"{_ORDINALS}.all(n, leased.filter(x, {_HOLDS_SLOT}).size() < 2))"
)

_BLOCK_RULES = (
    rule("self == oldSelf || self.epoch > oldSelf.epoch", "epoch must grow at every change", ".epoch"),
    rule("self.term >= oldSelf.term", "term must not decrease: a later leader has written this block", ".term"),
    rule(_ONE_OWNER, "a slot must be in one lease only", ".leases"),
    rule(
        "!has(self.leases) || self.leases.all(l, l.epoch <= self.epoch)",
        "the epoch of a lease must not be above the block's",
        ".leases",
    ),
    rule(
        "!has(self.leases) || self.leases.all(l, l.epoch > oldSelf.epoch || "
        "(has(oldSelf.leases) && oldSelf.leases.exists(o, o == l)))",
        "a lease that is new or changed must carry a new epoch",
        ".leases",
    ),
)


class IPBlock(KubeObject):
    """One page of 64 aligned addresses of one L2 domain: the arbiter of who may allocate them."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("IPBlock")
    spec: Annotated[IPBlockSpec, say(rules=_BLOCK_RULES)]


_SUFFIX = "(self.spec.domain == '' ? '' : '.' + self.spec.domain)"
_NUMBERS = f"self.metadata.name.substring(4, self.metadata.name.size() - {_SUFFIX}.size())"


def _named_after_page(family: int, mark: str, example: str, *more: str) -> dict[str, str]:
    """Read the numbers of the name back as an address; CEL cannot write one in the form that names have."""
    text = f"{_NUMBERS}.replace('-', '{mark}')"
    checks = [
        f"self.metadata.name.startsWith('ip{family}-')",
        f"self.metadata.name.endsWith({_SUFFIX})",
        f"!{_NUMBERS}.contains('.')",
        *more,
        f"isIP({text})",
        f"ip({text}) == cidr(self.spec.page).ip()",
    ]
    return rule(
        f"!isCIDR(self.spec.page) || cidr(self.spec.page).ip().family() != {family} || ({' && '.join(checks)})",
        f"the name must be that of the page and the domain: {example} or {example}.<domain>",
    )


# An address has one slot in one object (I1) only if its page has one name, so the eight groups of an IPv6 name have no
# leading zeros.
BLOCK_NAME_RULES = (
    _named_after_page(4, ".", "ip4-10-6-0-64"),
    _named_after_page(
        6,
        ":",
        "ip6-fd00-0-0-0-0-0-0-40",
        f"{_NUMBERS}.split('-', 9).size() == 8",
        f"{_NUMBERS}.split('-', 9).all(g, g == '0' || !g.startsWith('0'))",
    ),
)


class Recall(WireStruct):
    """The leader's request that this node give back free slots."""

    id: Annotated[str, say("Names this request.", minLength=1, maxLength=64)]
    pool: Annotated[str, say("Pool the slots are wanted for.", maxLength=253)]
    count: Annotated[int, say("How many are needed; the node gives back all that it can spare.", minimum=1)]
    reason: Reason = ""


class Offer(WireStruct):
    """The leader's word that this node, which lacks addresses of a pool, can claim some from these pages now."""

    id: Annotated[str, say("Names this offer.", minLength=1, maxLength=64)]
    pool: Annotated[str, say("The pool.", minLength=1, maxLength=253)]
    pages: Annotated[
        tuple[Annotated[str, say(maxLength=CIDR_LENGTH)], ...], say("Pages with unleased addresses.", maxItems=16)
    ]


class FenceMark(WireStruct):
    """The leader's mark that this node must hand out nothing until it has re-taken every lease."""

    id: Annotated[str, say("Names this mark.", minLength=1, maxLength=64)]
    term: Term
    reason: Reason = ""
    since: Annotated[datetime, say("When it was written.")]


class IPNodeSpec(WireStruct):
    """Written by the leader only."""

    recalls: Annotated[tuple[Recall, ...], say("Open requests.", maxItems=64, **map_list("id"))] = ()
    offers: Annotated[tuple[Offer, ...], say("Where to claim.", maxItems=64, **map_list("pool"))] = ()
    fence: FenceMark | UnsetType = UNSET


class Heartbeat(WireStruct):
    """Sign of life, written by compare-and-swap so that the agent notices a fence mark at once."""

    sequence: Annotated[int, say("Grows with every heartbeat.", minimum=0)]
    boot_id: Annotated[str, say("The kernel's boot id.", maxLength=64)]
    node_uid: Annotated[UID, say("UID of the Node object.")]
    renew_time: Annotated[datetime, say("For people; no decision compares it.")]


class RecallAnswer(WireStruct):
    """What became of a request."""

    id: Annotated[str, say("The request.", maxLength=64)]
    returned: Annotated[int, say("How many slots were given back.", minimum=0)] = 0
    answer: Annotated[str, say("In words.", maxLength=1024)] = ""


class PoolStock(WireStruct):
    """What this node holds of one pool."""

    name: Annotated[str, say("The pool.", maxLength=253)]
    used: Annotated[int, say("Allocated to pods.", minimum=0)] = 0
    free: Annotated[int, say("Free, proven or to be probed first; neither resting nor quarantined.", minimum=0)] = 0
    cooling: Annotated[int, say("Resting after their last use.", minimum=0)] = 0
    wanted: Annotated[
        int, say("Free addresses that waiting pods, and pods bound here that have none yet, need.", minimum=0)
    ] = 0
    quarantined: Annotated[int, say("In use by someone else.", minimum=0)] = 0
    unverified: Annotated[
        bool, say("No interface of this node is on the pool's segment: handed out without proof.")
    ] = False


class ConflictSeen(WireStruct):
    """An address of ours that another station was seen to use."""

    ip: Annotated[str, say("The address.", rules=ADDRESS_RULES, maxLength=ADDRESS_LENGTH)]
    mac: Annotated[str, say("The other station's MAC address.", maxLength=59)]
    pool: Annotated[str, say("The pool.", maxLength=253)] = ""
    seen: Annotated[datetime, say("When it was last seen.")]
    how: Annotated[str, say("What showed it: a probe, or a frame heard.", maxLength=253)] = ""


AUDIT_MAX = CONFLICTS_MAX = 256


class AuditEntry(WireStruct):
    """An address that no pod may be given, as it was found on the wire."""

    ip: Annotated[str, say("The address.", rules=ADDRESS_RULES, maxLength=ADDRESS_LENGTH)]
    state: Annotated[str, say("Whether anybody answered for it.", enum=["silent", "in-use"])]
    mac: Annotated[str, say("MAC address of the station that uses it.", maxLength=59)] = ""
    checked: Annotated[datetime, say("When it was last tested.")]


class ProbeState(WireStruct):
    """How the agent watches the wire."""

    mode: Annotated[str, say("What hears frames.", enum=["ebpf", "packet", "off"])]
    reason: Reason = ""


GATEWAYS_MAX = 256


class GatewayState(WireStruct):
    """Whether a pool's gateway answered, as it was asked ahead of time."""

    ip: Annotated[str, say("The gateway.", rules=ADDRESS_RULES, maxLength=ADDRESS_LENGTH)]
    interface: Annotated[str, say("The interface that it is behind.", maxLength=63)] = ""
    state: Annotated[str, say("unknown: it could not be asked.", enum=["answers", "silent", "unknown"])]
    mac: Annotated[str, say("MAC address that answered last.", maxLength=59)] = ""
    checked: Annotated[datetime, say("When that was found.")]


MAX_PROXIES = 16


class SegmentState(WireStruct):
    """One parent interface and how its segment is watched."""

    interface: Annotated[str, say("The interface.", minLength=1, maxLength=63)]
    domain: Annotated[str, say("L2 domain behind it.", maxLength=200)] = ""
    mode: Annotated[str, say("What hears frames.", enum=["ebpf", "packet", "off"])]
    reason: Reason = ""
    proxies: Annotated[
        tuple[Annotated[str, say(maxLength=59)], ...],
        say(
            "MAC addresses that answer for every address (proxy ARP): their answers prove nothing.",
            maxItems=MAX_PROXIES,
        ),
    ] = ()


class IPNodeStatus(WireStruct):
    """Written by the node's agent only."""

    heartbeat: Heartbeat | UnsetType = UNSET
    cleared_fence: Annotated[str, say("id of the last fence mark that was fully answered.", maxLength=64)] = ""
    recalls: Annotated[tuple[RecallAnswer, ...], say("Answers.", maxItems=64, **map_list("id"))] = ()
    pools: Annotated[tuple[PoolStock, ...], say("Stock by pool.", maxItems=1024, **map_list("name"))] = ()
    conflicts: Annotated[tuple[ConflictSeen, ...], say("Latest conflicts.", maxItems=CONFLICTS_MAX)] = ()
    audit: Annotated[
        tuple[AuditEntry, ...], say("Reserved and excluded addresses, those in use first.", maxItems=AUDIT_MAX)
    ] = ()
    probe: ProbeState | UnsetType = UNSET
    segments: Annotated[
        tuple[SegmentState, ...], say("Every parent interface.", maxItems=64, **map_list("interface"))
    ] = ()
    gateways: Annotated[
        tuple[GatewayState, ...], say("Gateways of the pools, where the agent asks for them.", maxItems=GATEWAYS_MAX)
    ] = ()
    version: Annotated[str, say("Version of the agent.", maxLength=64)] = ""
    parent: Annotated[str, say("Parent interfaces that are watched, with commas.", maxLength=1024)] = ""


_NODE_RULES = (
    rule(
        "!has(self.fence) || !has(oldSelf.fence) || self.fence.term >= oldSelf.fence.term",
        "the term of a fence mark must not decrease: a later leader has written it",
        ".fence",
    ),
)


class IPNode(KubeObject):
    """The mailbox between the leader (spec) and the agent of one node (status)."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("IPNode")
    spec: Annotated[IPNodeSpec, say(rules=_NODE_RULES, default={})] = IPNodeSpec()
    status: IPNodeStatus | UnsetType = UNSET


class LeaderLockSpec(WireStruct):
    """Who leads, and since how many renewals."""

    holder: Annotated[str, say("Identity of the leader; empty when it stepped down.", maxLength=253)]
    term: Annotated[int, say("Fencing number: one more at each change of holder.", minimum=0)]
    renew_count: Annotated[int, say("Grows at each renewal.", minimum=0)]
    lease_duration_seconds: Annotated[
        int, say("How long others wait without seeing a renewal.", minimum=1, maximum=3600)
    ]


_LOCK_RULES = (
    rule("self.term >= oldSelf.term", "term must not decrease", ".term"),
    rule(
        "self.holder == oldSelf.holder ? self.term == oldSelf.term : self.term == oldSelf.term + 1",
        "term must grow by one when the holder changes, and only then",
        ".term",
    ),
    rule(
        "self == oldSelf || self.holder != oldSelf.holder || self.renewCount > oldSelf.renewCount",
        "renewCount must grow at each renewal",
        ".renewCount",
    ),
)


class LeaderLock(KubeObject):
    """Who leads, by compare-and-swap; `term` is the leader's fencing number."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("LeaderLock")
    spec: Annotated[LeaderLockSpec, say(rules=_LOCK_RULES)]


IP_BLOCK = Kind(GROUP, VERSION, "IPBlock", "ipblocks", "ipblock", False, IPBlock, ("ipb",), ("nephila",))
IP_NODE = Kind(GROUP, VERSION, "IPNode", "ipnodes", "ipnode", False, IPNode, ("ipn",), ("nephila",), has_status=True)
LEADER_LOCK = Kind(GROUP, VERSION, "LeaderLock", "leaderlocks", "leaderlock", False, LeaderLock, ("ll",), ("nephila",))
