"""The kinds of group `nephila.io`: who may allocate which addresses (IPBlock), a node's mailbox (IPNode), who leads."""

from __future__ import annotations

from datetime import datetime

from crds.meta import UNSET, Kind, KubeObject, UnsetType, WireStruct, constant

GROUP = "nephila.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class LeaseEntry(WireStruct):
    """The slots of this block that one node may allocate."""

    node: str
    node_uid: str
    slots: str
    epoch: int


class PinOwner(WireStruct):
    """The identity a slot is reserved for."""

    kind: str
    namespace: str
    name: str
    interface: str
    uid: str = ""


class PinHolder(WireStruct):
    """Where the identity runs now; absent after CNI DEL."""

    node: str
    pod_uid: str


class PinEntry(WireStruct):
    """A slot reserved for one identity, wherever it runs."""

    slot: int
    owner: PinOwner
    holder: PinHolder | UnsetType = UNSET


class CoolingEntry(WireStruct):
    """Slots given back by a node that must rest until a moment."""

    slots: str
    until: datetime


class IPBlockSpec(WireStruct):
    page: str
    domain: str = ""
    epoch: int
    term: int
    leases: tuple[LeaseEntry, ...] = ()
    pins: tuple[PinEntry, ...] = ()
    suspect: str = ""
    cooling: tuple[CoolingEntry, ...] = ()


class IPBlock(KubeObject):
    """One page of 64 aligned addresses of one L2 domain: the arbiter of who may allocate them."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("IPBlock")
    spec: IPBlockSpec


class Recall(WireStruct):
    """The leader's request that this node give back free slots."""

    id: str
    pool: str
    count: int
    reason: str = ""


class FenceMark(WireStruct):
    """The leader's mark that this node must hand out nothing until it has re-taken every lease."""

    id: str
    term: int
    reason: str = ""
    since: datetime


class IPNodeSpec(WireStruct):
    recalls: tuple[Recall, ...] = ()
    fence: FenceMark | UnsetType = UNSET


class Heartbeat(WireStruct):
    sequence: int
    boot_id: str
    node_uid: str
    renew_time: datetime


class RecallAnswer(WireStruct):
    id: str
    returned: int = 0
    answer: str = ""


class PoolStock(WireStruct):
    name: str
    used: int = 0
    free: int = 0
    cooling: int = 0
    wanted: int = 0
    quarantined: int = 0


class ConflictSeen(WireStruct):
    ip: str
    mac: str
    pool: str = ""
    seen: datetime
    how: str = ""


class ProbeState(WireStruct):
    mode: str
    reason: str = ""


class IPNodeStatus(WireStruct):
    heartbeat: Heartbeat | UnsetType = UNSET
    cleared_fence: str = ""
    recalls: tuple[RecallAnswer, ...] = ()
    pools: tuple[PoolStock, ...] = ()
    conflicts: tuple[ConflictSeen, ...] = ()
    probe: ProbeState | UnsetType = UNSET
    version: str = ""
    parent: str = ""


class IPNode(KubeObject):
    """The mailbox between the leader (spec) and the agent of one node (status)."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("IPNode")
    spec: IPNodeSpec = IPNodeSpec()
    status: IPNodeStatus | UnsetType = UNSET


class LeaderLockSpec(WireStruct):
    holder: str = ""
    term: int = 0
    renew_count: int = 0
    lease_duration_seconds: int = 15


class LeaderLock(KubeObject):
    """Who leads, by compare-and-swap; `term` is the leader's fencing number."""

    api_version: str = constant(API_VERSION)
    kind: str = constant("LeaderLock")
    spec: LeaderLockSpec


IP_BLOCK = Kind(GROUP, VERSION, "IPBlock", "ipblocks", "ipblock", False, IPBlock, ("ipb",), ("nephila",))
IP_NODE = Kind(GROUP, VERSION, "IPNode", "ipnodes", "ipnode", False, IPNode, ("ipn",), ("nephila",), has_status=True)
LEADER_LOCK = Kind(GROUP, VERSION, "LeaderLock", "leaderlocks", "leaderlock", False, LeaderLock, ("ll",), ("nephila",))
