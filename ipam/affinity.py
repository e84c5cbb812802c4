"""Whether one pool may serve one interface of one pod: the filters, in their order, each with a reason in words."""

from __future__ import annotations

from collections.abc import Mapping

from ipam.addresses import Family
from ipam.applications import AppOwner
from ipam.errors import Refusal
from ipam.facts import Features, NicFacts, PodFacts
from ipam.multus import DEFAULT_NETWORK, FIRST_INTERFACE, NETWORKS, qualified
from ipam.pools import Pool


def refusal_of(pool: Pool, family: Family, pod: PodFacts, nic: NicFacts, features: Features) -> Refusal | None:
    """The first reason why the pool may not be used, or None if it may.

    An application pool that belongs to the pod's application skips the Multus and master tests. A pool without
    `multusName` needs no knowledge of the interface's network (Spiderpool refuses every pool on `eth0` as long as no
    default network is configured); one with `multusName` does.
    """
    if pool.deleting or pool.disable or pool.family is not family:
        return _by_state(pool, family)
    by_node = refusal_by_node(pool, pod.node, pod.node_labels)
    return by_node or _by_namespace(pool, pod) or _by_pod(pool, pod, nic, features)


def refusal_by_node(pool: Pool, node: str, labels: Mapping[str, str]) -> Refusal | None:
    """Why no pod of this node may use the pool, whichever it is."""
    if pool.node_names:
        if node not in pool.node_names:
            return Refusal(pool.name, "nodeName does not list node {}", (node,))
    elif pool.node_affinity is not None and not pool.node_affinity.matches(labels):
        why = "nodeAffinity ({}) does not match the labels of node {}"
        return Refusal(pool.name, why, (pool.node_affinity, node))
    return None


def _by_state(pool: Pool, family: Family) -> Refusal:
    if pool.deleting:
        return Refusal(pool.name, "it is being deleted")
    if pool.disable:
        return Refusal(pool.name, "it is disabled")
    return Refusal(pool.name, "it is of IPv{}, but named for IPv{}", (int(pool.family), int(family)))


def _by_namespace(pool: Pool, pod: PodFacts) -> Refusal | None:
    if pool.namespace_names:
        if pod.namespace not in pool.namespace_names:
            return Refusal(pool.name, "namespaceName does not list {}", (pod.namespace,))
    elif pool.namespace_affinity is not None and not pool.namespace_affinity.matches(pod.namespace_labels):
        why = "namespaceAffinity ({}) does not match the labels of namespace {}"
        return Refusal(pool.name, why, (pool.namespace_affinity, pod.namespace))
    return None


def _by_pod(pool: Pool, pod: PodFacts, nic: NicFacts, features: Features) -> Refusal | None:
    if pool.app is not None:
        return _by_application(pool, pool.app, pod)
    if pool.pod_affinity is not None and not pool.pod_affinity.matches(pod.labels):
        return Refusal(pool.name, "podAffinity ({}) does not match the pod's labels", (pool.pod_affinity,))
    if pool.multus_names:
        return _by_multus(pool, nic, features)
    if nic.master_addresses is None or any(address in pool.subnet for address in nic.master_addresses):
        return None
    return Refusal(pool.name, "no address of the master of {} is inside subnet {}", (nic.interface, pool.subnet))


def _by_application(pool: Pool, app: AppOwner, pod: PodFacts) -> Refusal | None:
    if pod.owner is None or pod.owner.is_bare_pod:
        return Refusal(pool.name, "it belongs to {}, and the pod has no controller", (app,))
    mine = AppOwner.of(pod.owner)
    return None if mine == app else Refusal(pool.name, "it belongs to {}, and the pod to {}", (app, mine))


def _by_multus(pool: Pool, nic: NicFacts, features: Features) -> Refusal | None:
    if nic.nad is None:
        where = (
            f"annotation {DEFAULT_NETWORK} or MULTUS_CLUSTER_NETWORK" if nic.interface == FIRST_INTERFACE else NETWORKS
        )
        why = "it has a multusName, and the network of {} is not known from {}"
        return Refusal(pool.name, why, (nic.interface, where))
    if any(qualified(name, features.agent_namespace) == nic.nad for name in pool.multus_names):
        return None
    return Refusal(pool.name, "multusName does not list {}, the network of {}", (nic.nad, nic.interface))
