"""What each of Nephila's accounts may do, verb by verb: RBAC rules, from which the chart's ClusterRoles are made.

The agent's rules name whole kinds, because RBAC knows nothing smaller; `crds.policies` narrows them to the agent's own node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crds.identities import IPAM_CLAIM, KUBEVIRT
from crds.nephila import GROUP as NEPHILA
from crds.policies import AGENT, LEADER, NAMESPACE
from crds.spiderpool import GROUP as SPIDERPOOL

READ = ("get", "list", "watch")
MULTI_NETWORK = IPAM_CLAIM.group


def _may(group: str, resources: Sequence[str], *verbs: str) -> dict[str, list[str]]:
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


_EVENTS = _may("events.k8s.io", ["events"], "create", "patch")

RULES: dict[str, list[dict[str, list[str]]]] = {
    AGENT: [
        _may("", ["pods", "nodes", "namespaces"], *READ),
        _may("apps", ["replicasets", "statefulsets"], "get"),
        _may("batch", ["jobs"], "get"),
        _may(KUBEVIRT, ["virtualmachineinstancemigrations"], "get"),
        _may(MULTI_NETWORK, ["ipamclaims"], "get"),
        _may(MULTI_NETWORK, ["ipamclaims/status"], "patch"),
        _may(SPIDERPOOL, ["spiderippools", "spiderreservedips"], *READ),
        _may(SPIDERPOOL, ["spidersubnets"], *READ),
        _may(SPIDERPOOL, ["spiderendpoints"], "get", "create", "patch", "delete"),
        _may(NEPHILA, ["ipblocks"], "get", "create", "patch", "delete"),
        _may(NEPHILA, ["ipnodes"], *READ, "create"),
        _may(NEPHILA, ["ipnodes/status"], "patch"),
        _EVENTS,
    ],
    LEADER: [
        _may("", ["pods", "nodes", "namespaces"], *READ),
        _may("apps", ["deployments", "replicasets", "statefulsets", "daemonsets"], *READ),
        _may("batch", ["jobs", "cronjobs"], *READ),
        _may(KUBEVIRT, ["virtualmachines", "virtualmachineinstances"], "get"),
        _may(MULTI_NETWORK, ["ipamclaims"], "get"),
        _may(SPIDERPOOL, ["spiderippools"], *READ, "create", "patch", "delete"),
        _may(SPIDERPOOL, ["spidersubnets", "spiderreservedips"], *READ, "patch"),
        _may(SPIDERPOOL, ["spiderippools/status", "spidersubnets/status"], "patch"),
        _may(SPIDERPOOL, ["spiderendpoints"], *READ, "delete"),
        _may(NEPHILA, ["ipblocks", "ipnodes"], *READ, "create", "patch", "delete"),
        _may(NEPHILA, ["leaderlocks"], *READ, "create", "patch"),
        _EVENTS,
    ],
}


WEBHOOK = f"{LEADER}-webhook"


def webhook_roles() -> list[dict[str, Any]]:
    """What the leader needs beyond its role where the webhook is on: one Secret, and the two configurations, each by name, none of them to create."""
    secret = {**_may("", ["secrets"], "get", "patch"), "resourceNames": ["nephila-webhook"]}
    configurations = _may(
        "admissionregistration.k8s.io",
        ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
        "get",
        "patch",
    )
    return [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": WEBHOOK, "namespace": NAMESPACE},
            "rules": [secret],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": WEBHOOK},
            "rules": [{**configurations, "resourceNames": ["nephila"]}],
        },
    ]


def cluster_role(name: str) -> dict[str, Any]:
    """The ClusterRole of an account."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": RULES[name],
    }
