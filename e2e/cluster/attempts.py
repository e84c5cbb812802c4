"""What a compromised or mistaken node might try, as data: each is one request with the token of node-a's agent (unless it says otherwise)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from typing import Any

from e2e.cluster.client import MERGE_PATCH
from e2e.cluster.standing import (
    BLOCK,
    BLOCKS,
    EMPTYING,
    ENDPOINTS,
    FRESH,
    LATER,
    LOCKS,
    NODES,
    POOLS,
    SOON,
    Body,
    block,
    endpoint,
    lock_spec,
    named,
    pin,
)


class Who(Enum):
    """Whose token the request carries."""

    AGENT_A = "agent of node-a"
    AGENT_B = "agent of node-b"
    UNBOUND = "agent's account, token bound to no pod"
    LEADER = "leader"


class By(Enum):
    """What refuses."""

    NOBODY = "allowed"
    POLICY = "policy"
    RBAC = "RBAC"
    BOTH = "RBAC; policy"
    """RBAC refuses, and the policy would if RBAC did not: both are tried."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request. `says` is a part of the refusal's text."""

    title: str
    method: str
    path: str
    body: Body | None = None
    by: By = By.POLICY
    says: str = ""
    who: Who = Who.AGENT_A
    content_type: str = "application/json"


def _change(title: str, change: Callable[[Body], object], **rest: Any) -> Attempt:
    """A patch of the block's spec, made from what stands there, with new epochs for the block and node-a's lease."""
    spec = deepcopy(block()["spec"])
    spec["epoch"] = 101
    spec["leases"][0]["epoch"] = 101
    change(spec)
    return Attempt(title, "PATCH", f"{BLOCKS}/{BLOCK}", {"spec": spec}, content_type=MERGE_PATCH, **rest)


def _leases(index: int, **changes: Any) -> Callable[[Body], object]:
    return lambda spec: spec["leases"][index].update(changes)


def _pins(*changes: tuple[int, Body | None]) -> Callable[[Body], object]:
    def change(spec: Body) -> None:
        new = dict(changes)
        kept = [entry for entry in spec["pins"] if entry["slot"] not in new]
        spec["pins"] = sorted([*kept, *(entry for entry in new.values() if entry)], key=lambda entry: entry["slot"])

    return change


def _both(*changes: Callable[[Body], object]) -> Callable[[Body], object]:
    return lambda spec: [change(spec) for change in changes]


def _fresh(**spec: Any) -> Body:
    leases = [{"node": "node-a", "nodeUID": "ua", "slots": "0-3", "epoch": 7}]
    return named("IPBlock", FRESH, spec={"page": "10.9.0.64/26", "epoch": 7, "term": 0, "leases": leases} | spec)


_OWN_LEASES = "only its own node's leases"
_PIN_RULE = "pin slots of its own lease"
_SUSPECT = "only those of its own lease"
_COOL = "slots of its own lease cool down"
_RBAC = "cannot"
_B_LEASE = {"node": "node-b", "nodeUID": "ub", "slots": "8-15,40", "epoch": 95}


def block_attempts() -> list[Attempt]:
    """Inside an IPBlock."""
    return [*_on_leases(), *_on_pins(), *_on_rest_and_suspicion(), *_on_whole_blocks()]


def _on_leases() -> list[Attempt]:
    b_longer = _leases(1, slots="8-16,40", epoch=101)
    b_shorter = _leases(1, slots="8-14,40", epoch=101)
    robbed = _both(b_shorter, _leases(0, slots="0-7,15"))
    gone = _both(lambda spec: spec["leases"].pop(1), _leases(0, slots="0-15,40"))
    third = _both(
        lambda spec: spec["leases"].append({"node": "node-c", "nodeUID": "", "slots": "50", "epoch": 101}),
    )
    return [
        _change("give node-b another slot", b_longer, says=_OWN_LEASES),
        _change("take a free slot out of node-b's lease", b_shorter, says=_OWN_LEASES),
        _change("move a slot of node-b's lease into its own", robbed, says=_OWN_LEASES),
        _change("remove node-b's lease and take all of it", gone, says=_OWN_LEASES),
        _change("give node-b's lease another epoch", _leases(1, epoch=101), says=_OWN_LEASES),
        _change("add a lease in node-c's name", third, says=_OWN_LEASES),
        _change("raise the term", lambda spec: spec.update(term=4), says="term is the leader's"),
    ]


def _on_pins() -> list[Attempt]:
    taken = pin(8, "busy-0", "node-a", "pod-b")
    take_leased = _both(_pins((8, taken)), _leases(0, slots="0-8"), _leases(1, slots="9-15,40", epoch=101))
    return [
        _change("lease a slot that is pinned to an identity", _leases(0, slots="0-7,20"), says="together with its pin"),
        _change("take the pin and slot of a pod that runs on node-b", take_leased, says=_OWN_LEASES),
        _change("vacate node-b's pin", _pins((8, pin(8, "busy-0"))), says=_PIN_RULE),
        _change("give a vacant pin another owner", _pins((20, pin(20, "other-0"))), says=_PIN_RULE),
        _change("pin a slot outside its lease", _pins((50, pin(50, "new-0", "node-a", "p"))), says=_PIN_RULE),
        _change("pin a slot of its lease for node-b", _pins((4, pin(4, "new-0", "node-b", "p"))), says=_PIN_RULE),
        _change(
            "make its own pod the source of node-b's pin",
            _pins((8, pin(8, "busy-0", "node-b", "pod-b", ("node-a", "pod-x")))),
            says=_PIN_RULE,
        ),
        _change(
            "drop node-b's pod from a pin while their machine migrates",
            _pins((1, pin(1, "here", "node-a", "pod-t"))),
            says=_PIN_RULE,
        ),
    ]


def _on_rest_and_suspicion() -> list[Attempt]:
    return [
        _change("clear a suspect slot of node-b", lambda spec: spec.update(suspect="2,30"), says=_SUSPECT),
        _change("clear a suspect slot that nobody leases", lambda spec: spec.update(suspect="2,10"), says=_SUSPECT),
        _change("make a slot suspect", lambda spec: spec.update(suspect="2,10,12,30"), says=_SUSPECT),
        _change("let node-b's slots cool down", _cools("9-10", SOON), says=_COOL),
        _change("let free slots cool down", _cools("50-60", SOON), says=_COOL),
        _change("lengthen the cooldown of free slots", lambda spec: spec["cooling"][1].update(until=LATER), says=_COOL),
    ]


def _on_whole_blocks() -> list[Attempt]:
    return [
        Attempt(
            "let garbage collection delete the block",
            "PATCH",
            f"{BLOCKS}/{BLOCK}",
            {
                "metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "node-x", "uid": "x"}]},
                "spec": {"epoch": 101},
            },
            says="owners or finalizers",
            content_type=MERGE_PATCH,
        ),
        Attempt("delete a block with node-b's lease", "DELETE", f"{BLOCKS}/{BLOCK}", says=_OWN_LEASES),
        Attempt(
            "create a block with node-b's lease",
            "POST",
            BLOCKS,
            _fresh(leases=[_B_LEASE | {"epoch": 7}]),
            says=_OWN_LEASES,
        ),
        Attempt("create a block with a term", "POST", BLOCKS, _fresh(term=9), says="term is the leader's"),
        Attempt("create a block with suspect slots", "POST", BLOCKS, _fresh(suspect="9"), says=_SUSPECT),
        Attempt(
            "claim slots with a token that names no node",
            "POST",
            BLOCKS,
            _fresh(),
            says="must name a node",
            who=Who.UNBOUND,
        ),
        Attempt("delete all blocks at once", "DELETE", BLOCKS, by=By.RBAC, says=_RBAC),
    ]


def _cools(slots: str, until: str) -> Callable[[Body], object]:
    return lambda spec: spec["cooling"].append({"slots": slots, "until": until})


def allowed_attempts() -> list[Attempt]:
    """The protocol's own steps, as single requests; the same as the production code makes them are in the tests."""
    return [*_allowed_on_blocks(), *_allowed_elsewhere()]


def _allowed_on_blocks() -> list[Attempt]:
    idle = pin(20, "idle-0", "node-a", "pod-new")
    leased = pin(40, "idle-1", "node-a", "pod-new")
    displaced = pin(8, "busy-0", "node-a", "pod-new")
    return [
        _change("claim free slots", _leases(0, slots="0-7,50-53"), by=By.NOBODY),
        _change("give back some, still cooling", _both(_leases(0, slots="0-5"), _cools("6-7", LATER)), by=By.NOBODY),
        _change("pin a slot of its lease", _pins((4, pin(4, "new-0", "node-a", "p"))), by=By.NOBODY),
        _change("vacate its own pin", _pins((0, pin(0, "own-0"))), by=By.NOBODY),
        _change("move a vacant pin here", _both(_pins((20, idle)), _leases(0, slots="0-7,20")), by=By.NOBODY),
        _change(
            "move a vacant pin here, out of node-b's lease",
            _both(_pins((40, leased)), _leases(0, slots="0-7,40"), _leases(1, slots="8-15", epoch=101)),
            by=By.NOBODY,
        ),
        _change(
            "share the address of a machine that migrates here",
            _both(
                _pins((8, pin(8, "busy-0", "node-a", "pod-new", ("node-b", "pod-b")))),
                _leases(0, slots="0-8"),
                _leases(1, slots="9-15,40", epoch=101),
            ),
            by=By.NOBODY,
        ),
        _change(
            "give up the seat of a machine that has migrated to node-b",
            _pins((9, pin(9, "there", "node-b", "pod-t"))),
            by=By.NOBODY,
        ),
        _change(
            "return a machine to node-b whose migration here failed",
            _both(_pins((1, pin(1, "here", "node-b", "pod-s", ("node-b", "pod-s")))), _leases(0, slots="0,2-7")),
            by=By.NOBODY,
        ),
        _change(
            "take over a pin whose pod was replaced by one here",
            _both(_pins((8, displaced)), _leases(0, slots="0-8"), _leases(1, slots="9-15,40", epoch=101)),
            by=By.NOBODY,
        ),
        _change("end node-b's pin, as if its pod were replaced", _pins((8, None)), by=By.NOBODY),
        _change("clear a suspect slot of its own", lambda spec: spec.update(suspect="10,30"), by=By.NOBODY),
        Attempt("delete a block that only it leases", "DELETE", f"{BLOCKS}/{EMPTYING}", by=By.NOBODY),
        Attempt("create a block with its own lease", "POST", BLOCKS, _fresh(), by=By.NOBODY),
    ]


def _allowed_elsewhere() -> list[Attempt]:
    return [
        _status("heartbeat", "node-a", {"version": "1"}, by=By.NOBODY),
        _status("clear the mark that stands", "node-a", {"clearedFence": "mark-1"}, by=By.NOBODY),
        Attempt(
            "record a pod's addresses", "POST", ENDPOINTS, endpoint("new", "node-a", "p", owned=True), by=By.NOBODY
        ),
        _endpoint("record an identity's new pod", "idle-0", "node-a", "pod-new", by=By.NOBODY),
        Attempt("delete its pod's record", "DELETE", f"{ENDPOINTS}/mine", by=By.NOBODY),
        Attempt(
            "renew the lock",
            "PATCH",
            f"{LOCKS}/nephila",
            {"spec": lock_spec("leader-1", 3) | {"renewCount": 2}},
            by=By.NOBODY,
            who=Who.LEADER,
            content_type=MERGE_PATCH,
        ),
        Attempt(
            "write a fence mark",
            "PATCH",
            f"{NODES}/node-b",
            {"spec": {"fence": {"id": "m", "term": 3, "since": SOON}}},
            by=By.NOBODY,
            who=Who.LEADER,
            content_type=MERGE_PATCH,
        ),
    ]


def _status(title: str, node: str, status: Mapping[str, Any], **rest: Any) -> Attempt:
    return Attempt(title, "PATCH", f"{NODES}/{node}/status", {"status": dict(status)}, content_type=MERGE_PATCH, **rest)


def _endpoint(title: str, name: str, node: str, uid: str, **rest: Any) -> Attempt:
    body = {"status": {"current": {"node": node, "uid": uid}}}
    return Attempt(title, "PATCH", f"{ENDPOINTS}/{name}", body, content_type=MERGE_PATCH, **rest)


def other_attempts() -> list[Attempt]:
    """Mailboxes, the lock, records of pods, and what RBAC keeps from both accounts."""
    return [*_on_mailboxes_and_lock(), *_on_records(), *_beyond_the_role()]


def _on_mailboxes_and_lock() -> list[Attempt]:
    fenced = named("IPNode", "node-a2", spec={"fence": {"id": "m", "term": 1, "since": SOON}})
    mailbox, lock = f"{NODES}/node-a", f"{LOCKS}/nephila"
    no_fence, usurp = {"spec": {"fence": None}}, {"spec": lock_spec("node-a", 4)}
    merge: dict[str, Any] = {"content_type": MERGE_PATCH}
    both: dict[str, Any] = {"by": By.BOTH, "says": _RBAC}
    return [
        _status("beat for node-b", "node-b", {"version": "x"}, says="IPNode of its own node"),
        _status(
            "clear a mark that does not stand", "node-a", {"clearedFence": "mark-0"}, says="fence mark that stands"
        ),
        Attempt(
            "create a mailbox for another node",
            "POST",
            NODES,
            named("IPNode", "node-c", spec={}),
            says="IPNode of its own node",
        ),
        Attempt("create a mailbox with a fence mark", "POST", NODES, fenced, says="IPNode of its own node"),
        Attempt("remove its own fence mark", "PATCH", mailbox, no_fence, **both, **merge),
        Attempt("delete its own mailbox", "DELETE", mailbox, **both),
        Attempt("delete node-b's mailbox", "DELETE", f"{NODES}/node-b", **both),
        Attempt("take the LeaderLock", "PATCH", lock, usurp, **both, **merge),
        Attempt("delete the LeaderLock", "DELETE", lock, **both),
    ]


def _on_records() -> list[Attempt]:
    return [
        Attempt(
            "record addresses of a pod on node-b",
            "POST",
            ENDPOINTS,
            endpoint("new", "node-b", "p", owned=True),
            says="names its own node",
        ),
        _endpoint("change the record of node-b's pod", "theirs", "node-b", "pod-b2", says="names its own node"),
        _endpoint("take the record of node-b's pod", "theirs", "node-a", "pod-a2", says="another node's"),
        _endpoint("take an identity's record without a new pod", "idle-0", "node-a", "pod-b", says="another node's"),
        _endpoint("hand its pod's record to node-b", "mine", "node-b", "pod-a", says="names its own node"),
        Attempt("delete the record of node-b's pod", "DELETE", f"{ENDPOINTS}/theirs", says="another node's"),
        Attempt(
            "record addresses with a token that names no node",
            "POST",
            ENDPOINTS,
            endpoint("new", "node-a", "p", owned=True),
            says="must name a node",
            who=Who.UNBOUND,
        ),
    ]


def _beyond_the_role() -> list[Attempt]:
    disable, pool = {"spec": {"disable": True}}, named("SpiderIPPool", "p", spec={"subnet": "10.0.0.0/24"})
    pool["apiVersion"] = "spiderpool.spidernet.io/v2beta1"
    accounts = "/api/v1/namespaces/nephila-system/serviceaccounts"
    request: Body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    merge: dict[str, Any] = {"content_type": MERGE_PATCH}
    rbac: dict[str, Any] = {"by": By.RBAC, "says": _RBAC}
    leader: dict[str, Any] = {"who": Who.LEADER, **rbac}
    return [
        Attempt("create a pool", "POST", POOLS, pool, **rbac),
        Attempt("disable a pool", "PATCH", f"{POOLS}/p", disable, **rbac, **merge),
        Attempt("read a Secret", "GET", "/api/v1/namespaces/default/secrets/s", **rbac),
        Attempt("delete a pod", "DELETE", "/api/v1/namespaces/default/pods/p", **rbac),
        Attempt(
            "change a Node", "PATCH", "/api/v1/nodes/node-b", {"metadata": {"labels": {"a": "b"}}}, **rbac, **merge
        ),
        Attempt("ask for the leader's token", "POST", f"{accounts}/nephila-leader/token", request, **rbac),
        Attempt("beat for a node", "PATCH", f"{NODES}/node-b/status", {"status": {"version": "x"}}, **leader, **merge),
        Attempt("read a Secret", "GET", "/api/v1/namespaces/default/secrets/s", **leader),
        Attempt("delete a pod", "DELETE", "/api/v1/namespaces/default/pods/p", **leader),
        Attempt(
            "change a policy",
            "DELETE",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/nephila-agent-ipblocks",
            **leader,
        ),
    ]
