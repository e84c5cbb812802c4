"""What stands in the cluster before each attempt of `attempts.py`: leases, pins, mailboxes and records of two nodes."""

from __future__ import annotations

from typing import Any

Body = dict[str, Any]

BLOCKS = "/apis/nephila.io/v1alpha1/ipblocks"
NODES = "/apis/nephila.io/v1alpha1/ipnodes"
LOCKS = "/apis/nephila.io/v1alpha1/leaderlocks"
ENDPOINTS = "/apis/spiderpool.spidernet.io/v2beta1/namespaces/default/spiderendpoints"
POOLS = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools"
BLOCK, FRESH, EMPTYING = "ip4-10-9-0-0", "ip4-10-9-0-64", "ip4-10-9-0-128"
SOON, LATER = "2026-01-01T00:00:00Z", "2036-01-01T00:00:00Z"


def pin(slot: int, name: str, node: str = "", uid: str = "", source: tuple[str, str] | None = None) -> Body:
    entry: Body = {
        "slot": slot,
        "owner": {"kind": "StatefulSet", "namespace": "default", "name": name, "interface": "eth0"},
    }
    entry |= {"source": {"node": source[0], "podUID": source[1]}} if source else {}
    return entry | {"holder": {"node": node, "podUID": uid}} if node else entry


def block() -> Body:
    """The block that most attempts start from: leases of both nodes, pins in every state, suspect and cooling slots."""
    return {
        "apiVersion": "nephila.io/v1alpha1",
        "kind": "IPBlock",
        "metadata": {"name": BLOCK},
        "spec": {
            "page": "10.9.0.0/26",
            "domain": "",
            "epoch": 100,
            "term": 3,
            "leases": [
                {"node": "node-a", "nodeUID": "ua", "slots": "0-7", "epoch": 90},
                {"node": "node-b", "nodeUID": "ub", "slots": "8-15,40", "epoch": 95},
            ],
            "pins": [
                pin(0, "own-0", "node-a", "pod-a"),
                pin(1, "here", "node-a", "pod-t", ("node-b", "pod-s")),
                pin(8, "busy-0", "node-b", "pod-b"),
                pin(9, "there", "node-b", "pod-t", ("node-a", "pod-s")),
                pin(20, "idle-0"),
                pin(40, "idle-1"),
            ],
            "suspect": "2,10,30",
            "cooling": [{"slots": "3", "until": SOON}, {"slots": "33-34", "until": SOON}],
        },
    }


def starting_objects() -> dict[str, Body]:
    """By collection path and name: what stands before each attempt."""
    emptying = block()
    emptying["metadata"] = {"name": EMPTYING}
    emptying["spec"] |= {"page": "10.9.0.128/26", "pins": [], "suspect": "", "cooling": []}
    emptying["spec"]["leases"] = emptying["spec"]["leases"][:1]
    fence = {"id": "mark-1", "term": 3, "since": SOON}
    return {
        f"{BLOCKS}/{BLOCK}": block(),
        f"{BLOCKS}/{EMPTYING}": emptying,
        f"{NODES}/node-a": named("IPNode", "node-a", spec={"fence": fence}),
        f"{NODES}/node-b": named("IPNode", "node-b", spec={}),
        f"{LOCKS}/nephila": named("LeaderLock", "nephila", spec=lock_spec("leader-1", 3)),
        f"{ENDPOINTS}/mine": endpoint("mine", "node-a", "pod-a", owned=True),
        f"{ENDPOINTS}/theirs": endpoint("theirs", "node-b", "pod-b", owned=True),
        f"{ENDPOINTS}/idle-0": endpoint("idle-0", "node-b", "pod-b", owned=False),
    }


def endpoint(name: str, node: str, uid: str, *, owned: bool) -> Body:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
    return {
        "apiVersion": "spiderpool.spidernet.io/v2beta1",
        "kind": "SpiderEndpoint",
        "metadata": {"name": name} | ({"ownerReferences": [owner]} if owned else {}),
        "status": {
            "current": {"uid": uid, "node": node, "ips": []},
            "ownerControllerType": "StatefulSet",
            "ownerControllerName": "x",
        },
    }


def named(kind: str, name: str, **rest: Any) -> Body:
    return {"apiVersion": "nephila.io/v1alpha1", "kind": kind, "metadata": {"name": name}, **rest}


def lock_spec(holder: str, term: int) -> Body:
    return {"holder": holder, "term": term, "renewCount": 1, "leaseDurationSeconds": 15}
