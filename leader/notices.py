"""Every Event that the leader may record; a test compares them with the reasons in its code."""

from __future__ import annotations

from adapters.notices import Notice, by_reason

WARNING = "Warning"

LEADER_NOTICES = by_reason(
    (
        Notice(
            "PoolExhausted",
            WARNING,
            ("SpiderIPPool",),
            "No address of the pool is left; the note says which nodes hold how many.",
            "`nephila pools -o wide`; enlarge the pool or add one",
        ),
        Notice(
            "PoolOverlaps",
            WARNING,
            ("SpiderIPPool",),
            "Two pools of one L2 domain claim the same addresses: the older one gets them.",
            "remove the addresses from one of them",
        ),
        Notice(
            "PoolUnreadable",
            WARNING,
            ("SpiderIPPool",),
            "The pool's text cannot be understood; it is not used.",
            "correct what the note names",
        ),
        Notice(
            "NodeFenced",
            WARNING,
            ("IPNode",),
            "The node's agent was silent for the lease time and more; its unused addresses are taken back after a wait.",
            "`nephila nodes`; is the node or only its agent down?",
        ),
        Notice(
            "InvariantViolated",
            WARNING,
            ("LeaderLock",),
            "What the API shows breaks a promise of the protocol, perhaps after a hand edit or a restored backup.",
            "`nephila fsck`",
        ),
        Notice(
            "SubnetRefused",
            WARNING,
            ("SpiderSubnet",),
            "The Subnet's text cannot be understood; no pool is made from it.",
            "correct what the note names",
        ),
        Notice(
            "SubnetNotFound",
            WARNING,
            ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicaSet"),
            "The application asks for a Subnet that does not exist.",
            "correct the annotation, or create the Subnet",
        ),
        Notice(
            "InsufficientAddresses",
            WARNING,
            ("SpiderSubnet", "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicaSet"),
            "The Subnet has fewer free addresses than the application's pool needs.",
            "enlarge the Subnet, or scale down",
        ),
    )
)
