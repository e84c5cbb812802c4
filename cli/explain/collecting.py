"""Brings together what the reasoner needs: the pod, its owner, its networks and the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from adapters.kube.store import Store, StoreError
from cli.cluster import Cluster
from cli.explain.networks import IpamDefaults, interfaces, ipam_defaults
from cli.explain.podfile import PlannedPod
from cli.explain.reasoner import Reasoner, Reasoning
from cli.explain.settings import Settings
from cli.failures import CliError, Exit
from cli.reading import find_owner
from cli.views.explain import Explanation
from crds import convert
from crds.core import NETWORK_ATTACHMENT, Pod
from ipam.errors import BadConfig, NephilaError
from ipam.facts import NicFacts, PodFacts
from ipam.multus import nad_of_interface
from ipam.owners import TopOwner


@dataclass(frozen=True, slots=True)
class Asked:
    """`interface` "": all; `netconf`: text of a CNI configuration file, "" if none was given; `node`: only this one, for pods without a node."""

    interface: str = ""
    netconf: str = ""
    node: str = ""


async def explain_pod(
    store: Store, cluster: Cluster, settings: Settings, namespace: str, name: str, asked: Asked
) -> Explanation:
    """Of a pod that exists. Raises CliError."""
    pod = cluster.pod_of_key.get((namespace, name))
    if pod is None:
        raise CliError(
            f"pod {namespace}/{name} does not exist", "see kubectl get pods -A; --dry-run -f FILE", code=Exit.BAD_ANSWER
        )
    return await _explain(store, cluster, settings, pod, await find_owner(store, pod), asked)


async def explain_planned(
    store: Store, cluster: Cluster, settings: Settings, planned: PlannedPod, asked: Asked
) -> Explanation:
    """Of a pod that a manifest would make. Raises CliError."""
    return await _explain(store, cluster, settings, planned.pod, planned.owner, asked)


async def _explain(
    store: Store, cluster: Cluster, settings: Settings, pod: Pod, owner: TopOwner | None, asked: Asked
) -> Explanation:
    features = settings.features
    words = ", ".join(
        f"{name} {'on' if value else 'off'}"
        for name, value in (
            ("IPv4", features.ipv4),
            ("IPv6", features.ipv6),
            ("SpiderSubnet", features.subnets),
            ("application pools", features.auto_pools),
        )
    )
    node = pod.spec.node_name or asked.node
    if node and node not in cluster.node_of_name:
        raise CliError(f"node {node!r} does not exist", "see kubectl get nodes", code=Exit.BAD_ANSWER)
    found: list[Reasoning] = []
    if not pod.spec.host_network:
        reasoner = Reasoner(cluster, features)
        listed = (asked.interface,) if asked.interface else interfaces(pod.annotations, pod.namespace)
        facts = _facts(cluster, pod, owner)
        for interface in listed:
            nic, known, broken = await _nic(store, settings, pod, interface, asked)
            found += [
                _spoilt(item, broken) if broken else item
                for item in _on_nodes(reasoner, cluster, facts, nic, node, netconf_known=known)
            ]
    return Explanation(
        pod=f"{pod.namespace}/{pod.name}",
        node=node,
        features=f"{words}; from {settings.origin}" + ("; the pod uses its host's network" if not found else ""),
        interfaces=tuple(found),
        served=all(
            any(item.served for item in found if item.interface == name) for name in {f.interface for f in found}
        ),
    )


def _facts(cluster: Cluster, pod: Pod, owner: TopOwner | None) -> PodFacts:
    space = next((item for item in cluster.namespaces if item.name == pod.namespace), None)
    return convert.pod_facts(pod, space, cluster.node_of_name.get(pod.spec.node_name), owner)


def _on_nodes(
    reasoner: Reasoner, cluster: Cluster, facts: PodFacts, nic: NicFacts, node: str, *, netconf_known: bool
) -> Sequence[Reasoning]:
    """One answer for a pod with a node; else one for each group of nodes that see it alike, the largest group first."""
    groups: dict[Reasoning, list[str]] = {}
    for name in [node] if node else sorted(cluster.node_of_name) or [""]:
        stored = cluster.node_of_name.get(name)
        here = replace(facts, node=name, node_labels=stored.labels if stored else {})
        item = reasoner.reason(here, nic, netconf_known=netconf_known)
        groups.setdefault(_nameless(item, name), []).append(name)
    ordered = sorted(groups.items(), key=lambda entry: (not entry[0].served, -len(entry[1])))
    return [_with_nodes(item, tuple(filter(None, names))) for item, names in ordered]


def _nameless(item: Reasoning, node: str) -> Reasoning:
    """Equal for nodes that see the pod alike: the node's name in texts would keep them apart."""
    if not node:
        return item
    blank = "{node}"
    return msgspec.structs.replace(
        item,
        nodes=(),
        refused=tuple(
            msgspec.structs.replace(
                refused,
                reason=refused.reason.replace(f"node {node}", f"node {blank}"),
                fix=refused.fix.replace(f"{node}", blank) if "node" in refused.reason else refused.fix,
            )
            for refused in item.refused
        ),
        cause=item.cause.replace(f"node {node}", f"node {blank}"),
        fix=item.fix.replace(f"node {node}", f"node {blank}").replace(f"add {node} to", f"add {blank} to"),
    )


def _with_nodes(item: Reasoning, names: tuple[str, ...]) -> Reasoning:
    shown = names[0] if len(names) == 1 else "of these"
    return msgspec.structs.replace(
        item,
        nodes=names,
        refused=tuple(
            msgspec.structs.replace(
                refused, reason=refused.reason.replace("{node}", shown), fix=refused.fix.replace("{node}", shown)
            )
            for refused in item.refused
        ),
        cause=item.cause.replace("{node}", shown),
        fix=item.fix.replace("{node}", shown),
    )


async def _nic(
    store: Store, settings: Settings, pod: Pod, interface: str, asked: Asked
) -> tuple[NicFacts, bool, NephilaError | None]:
    """The interface, whether its CNI configuration is known, and what is wrong with that configuration."""
    try:
        nad = nad_of_interface(
            interface,
            pod.annotations,
            pod_namespace=pod.namespace,
            agent_namespace=settings.features.agent_namespace,
            cluster_network=settings.cluster_network,
        )
        given = ipam_defaults(asked.netconf, "--netconf") if asked.netconf else None
        found = given or (await _of_nad(store, nad) if nad else None)
    except NephilaError as error:
        return NicFacts(interface=interface), False, error
    chosen = found or IpamDefaults()
    nic = NicFacts(interface, nad, chosen.v4, chosen.v6, chosen.clean_gateway)
    return nic, found is not None, None


async def _of_nad(store: Store, nad: str) -> IpamDefaults | None:
    """What the network definition says; None if it cannot be asked. Raises BadConfig."""
    namespace, _, name = nad.partition("/")
    try:
        stored = await store.get(NETWORK_ATTACHMENT, name, namespace)
    except StoreError:
        return None
    if stored is None:
        raise BadConfig(f"NetworkAttachmentDefinition {nad} does not exist", "create it, or correct the annotation")
    return ipam_defaults(stored.spec.config, f"NetworkAttachmentDefinition {nad}") if stored.spec.config else None


def _spoilt(item: Reasoning, error: NephilaError) -> Reasoning:
    """The network's configuration is wrong before any pool is asked for."""
    if item.present:
        return item
    return msgspec.structs.replace(item, served=False, cause=error.message, fix=error.hint, candidates=())
