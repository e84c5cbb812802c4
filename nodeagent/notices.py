"""Every Event that an agent may record. `Teller` refuses a reason that is not listed here."""

from __future__ import annotations

from adapters.notices import Notice, by_reason

WARNING, NORMAL = "Warning", "Normal"
_POD = ("Pod",)
_ADDRESS = ("SpiderIPPool", "Node", "Pod")

AGENT_NOTICES = by_reason(
    (
        Notice(
            "PoolExhausted",
            WARNING,
            _POD,
            "Every address of every pool that the pod may use is in use or held back.",
            "`nephila pools` shows who holds what; enlarge a pool or add one",
        ),
        Notice(
            "DeadlineExceeded",
            WARNING,
            _POD,
            "The pod waited for an address that another node was asked to give back, longer than `lease.waitS`; the kubelet tries again.",
            "nothing if it ends; else `nephila explain pod NAME`",
        ),
        Notice(
            "AddressAwaited",
            NORMAL,
            _POD,
            "The pod got its address after waiting a second or more: this node had none, and one was claimed or recalled.",
            "nothing to do; often seen: the pool is nearly full",
        ),
        Notice(
            "PinnedElsewhere",
            WARNING,
            _POD,
            "The pod's fixed address is still held by the former pod of its identity.",
            "`nephila trace pod NAME`; a node that is off for good: taint it `node.kubernetes.io/out-of-service`",
        ),
        Notice(
            "NoPoolSelected",
            WARNING,
            _POD,
            "No rule of any source names a pool for the pod.",
            "annotate the pod or its namespace, or make a pool the default",
        ),
        Notice(
            "NoPoolMatches",
            WARNING,
            _POD,
            "Every pool that was named refused the pod; the note says why, pool by pool.",
            "`nephila explain pod NAME`",
        ),
        Notice("PoolNotFound", WARNING, _POD, "A pool that is named literally does not exist.", "correct the name"),
        Notice(
            "BadAnnotation", WARNING, _POD, "An annotation of the pod or its namespace cannot be used.", "correct it"
        ),
        Notice(
            "AddressInUse",
            WARNING,
            _ADDRESS,
            "A free address answers from a MAC that is not ours: it is quarantined and tested again.",
            "`nephila conflicts`; find the machine by its MAC, or put the address into excludeIPs",
        ),
        Notice(
            "AddressConflict",
            WARNING,
            _ADDRESS,
            "Another machine claims the address of a running pod. The pod keeps it and defends it.",
            "`nephila conflicts`; find the machine by its MAC",
        ),
        Notice(
            "PinnedAddressInUse",
            WARNING,
            ("SpiderIPPool", "Node"),
            "A machine uses the fixed address of a pod that is about to start. The address stays the pod's, which waits and tries again.",
            "`nephila conflicts`; find the machine by its MAC",
        ),
        Notice("AddressFreeAgain", NORMAL, _ADDRESS, "A quarantined address has fallen silent and is usable again."),
        Notice(
            "GatewayUnreachable",
            WARNING,
            _POD,
            "The gateway of the pod's pool does not answer, and `probe.gateway` is `require`; the kubelet tries again.",
            "check the gateway, and `spec.gateway` of the pool",
        ),
        Notice(
            "GatewaySilent",
            WARNING,
            ("SpiderIPPool", "Node"),
            "A pool's gateway does not answer on the node's segment. Told where `probe.gateway` is `report` or `require`.",
            "`status.gateways` of the IPNode; check the gateway, its VLAN, and `spec.gateway` of the pool",
        ),
        Notice("GatewayAnswers", NORMAL, ("SpiderIPPool", "Node"), "A gateway that was silent answers again."),
        Notice(
            "LeakReleased",
            NORMAL,
            ("Node",),
            "An allocation that nobody would ever have deleted was freed: sandbox and pod were proven gone.",
            "nothing to do; if often seen, the runtime loses DELs",
        ),
        Notice(
            "NodeFenced",
            WARNING,
            ("Node",),
            "The agent found a fence mark (or lost its mailbox): it hands out nothing until every lease is written anew.",
            "`nephila nodes`; usually ends by itself within seconds",
        ),
        Notice("NodeUnfenced", NORMAL, ("Node",), "Every lease was re-taken, and addresses are handed out again."),
        Notice(
            "LeaseLapsed",
            WARNING,
            ("Node",),
            "The API server was out of reach for longer than `lease.leaseS`; meanwhile the node handed out no new address.",
            "check the node's way to the API server",
        ),
        Notice(
            "SegmentUnusable",
            WARNING,
            ("Node",),
            "The parent interface cannot be opened: no address can be verified, so none is handed out.",
            "`parent` in the agent's configuration; `ip link` on the node",
        ),
    )
)
