"""Whether one pool may serve one interface of one pod: the filters, in their order, each with a reason in words."""

from __future__ import annotations

from ipam.addresses import Family
from ipam.applications import AppOwner
from ipam.facts import Features, NicFacts, PodFacts
from ipam.multus import DEFAULT_NETWORK, FIRST_INTERFACE, NETWORKS, qualified
from ipam.pools import Pool


def refusal_reason(pool: Pool, family: Family, pod: PodFacts, nic: NicFacts, features: Features) -> str | None:
    """The first reason why the pool may not be used, or None if it may.

    An application pool that belongs to the pod's application skips the Multus and master tests. A pool without
    `multusName` needs no knowledge of the interface's network (Spiderpool refuses every pool on `eth0` as long as no
    default network is configured); one with `multusName` does.
    """
    state = _state_reason(pool, family)
    if state is not None:
        return state
    placed = _node_reason(pool, pod) or _namespace_reason(pool, pod)
    if placed is not None:
        return placed
    if pool.app is not None:
        return _application_reason(pool.app, pod)
    if pool.pod_affinity is not None and not pool.pod_affinity.matches(pod.labels):
        return f"podAffinity ({pool.pod_affinity}) does not match the pod's labels"
    if pool.multus_names:
        return _multus_reason(pool, nic, features)
    return _master_reason(pool, nic)


def _state_reason(pool: Pool, family: Family) -> str | None:
    if pool.deleting:
        return "it is being deleted"
    if pool.disable:
        return "it is disabled"
    if pool.family is not family:
        return f"it is of IPv{int(pool.family)}, but named for IPv{int(family)}"
    return None


def _node_reason(pool: Pool, pod: PodFacts) -> str | None:
    if pool.node_names:
        return None if pod.node in pool.node_names else f"nodeName does not list node {pod.node}"
    if pool.node_affinity is not None and not pool.node_affinity.matches(pod.node_labels):
        return f"nodeAffinity ({pool.node_affinity}) does not match the labels of node {pod.node}"
    return None


def _namespace_reason(pool: Pool, pod: PodFacts) -> str | None:
    if pool.namespace_names:
        return None if pod.namespace in pool.namespace_names else f"namespaceName does not list {pod.namespace}"
    if pool.namespace_affinity is not None and not pool.namespace_affinity.matches(pod.namespace_labels):
        return f"namespaceAffinity ({pool.namespace_affinity}) does not match the labels of namespace {pod.namespace}"
    return None


def _application_reason(app: AppOwner, pod: PodFacts) -> str | None:
    if pod.owner is None or pod.owner.is_bare_pod:
        return f"it belongs to {app}, and the pod has no controller"
    mine = AppOwner.of(pod.owner)
    return None if mine == app else f"it belongs to {app}, and the pod to {mine}"


def _multus_reason(pool: Pool, nic: NicFacts, features: Features) -> str | None:
    if nic.nad is None:
        where = (
            f"annotation {DEFAULT_NETWORK} or MULTUS_CLUSTER_NETWORK" if nic.interface == FIRST_INTERFACE else NETWORKS
        )
        return f"it has a multusName, and the network of {nic.interface} is not known from {where}"
    if any(qualified(name, features.agent_namespace) == nic.nad for name in pool.multus_names):
        return None
    return f"multusName does not list {nic.nad}, the network of {nic.interface}"


def _master_reason(pool: Pool, nic: NicFacts) -> str | None:
    if nic.master_addresses is None or any(address in pool.subnet for address in nic.master_addresses):
        return None
    return f"no address of the master of {nic.interface} is inside subnet {pool.subnet}"
