"""Which pools a pod's interface may use, and how many addresses of each pool this node's pods need.

A selection depends on the pod's own annotations and labels and on facts that rarely change, so it is remembered per pod, interface and network
until one of them changes; an ADD normally finds it ready.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from adapters.journal import PutMeta
from crds.core import Pod
from crds.meta import ObjectMeta
from ipam import annotations as notes
from ipam.addresses import Family
from ipam.affinity import refusal_by_node
from ipam.errors import NephilaError
from ipam.facts import Features, NicFacts, pod_refusal
from ipam.multus import NETWORKS, nad_of_interface, parse_networks
from ipam.owners import TopOwner
from ipam.pools import Pool
from ipam.selection import Selection, clean_gateway, needs_owner, select
from nodeagent.config import FeatureSettings
from nodeagent.request import IpamConf
from nodeagent.world import World

FIRST_INTERFACE = "eth0"
LEARNT = "ipamConf:"  # prefix of the journal's keys


@dataclass(slots=True)
class _Remembered:
    """What was found out about one interface of a pod, valid while the first three are what they were. None: not asked for yet."""

    resource_version: str
    generation: int
    conf: IpamConf
    selection: Selection | None = None
    needs_owner: bool | None = None
    clean_gateway: bool | None = None


class Needs:
    """`learnt` is the IPAM configuration last seen per interface: pods that have not been added yet are judged by it.

    `remember` makes it durable, so that a restarted agent leases ahead before the first ADD tells it again.
    """

    def __init__(
        self,
        world: World,
        settings: FeatureSettings,
        learnt: Mapping[str, IpamConf],
        remember: Callable[[str, IpamConf], None],
    ) -> None:
        self._world = world
        self._remember = remember
        self._cluster_network = settings.cluster_network
        self.features = Features(
            ipv4=settings.enable_ipv4,
            ipv6=settings.enable_ipv6,
            subnets=settings.enable_spider_subnet,
            auto_pools=settings.enable_auto_pool_for_application,
        )
        self._remembered: dict[tuple[str, str], _Remembered] = {}
        self._likely: tuple[int, frozenset[str]] = (-1, frozenset())
        self._ours: set[tuple[str, str]] = set()  # (pod UID, interface) that have or had an address of this agent
        # By (pod UID, interface): of which families its identity has an address.
        self._own: dict[tuple[str, str], frozenset[Family]] = {}
        self.learnt = dict(learnt)
        world.pod_changes.append(self._forget_gone)

    def _about(self, pod: Pod, interface: str, conf: IpamConf) -> _Remembered:
        known = self._remembered.get((pod.uid, interface))
        generation = self._world.facts_generation
        if (
            known is None
            or known.generation != generation
            or known.resource_version != pod.resource_version
            or known.conf != conf
        ):
            known = self._remembered[pod.uid, interface] = _Remembered(pod.resource_version, generation, conf)
        return known

    def admit(self, pod: Pod, interface: str, conf: IpamConf) -> bool:
        """Refuses a pod that will not run, or whose routes cannot be read. True if its selection depends on its top controller, which must then
        be resolved first. Raises NephilaError.
        """
        known = self._about(pod, interface, conf)
        if known.needs_owner is None:
            facts = self._world.facts_of(pod)
            if refusal := pod_refusal(facts):
                raise refusal
            if text := pod.annotations.get(notes.ROUTES):
                notes.parse_routes(text)  # refused before anything is held
            known.needs_owner = needs_owner(facts, self._world.pools.catalog, self.features)
        return known.needs_owner

    def selection(self, pod: Pod, interface: str, conf: IpamConf, owner: TopOwner | None = None) -> Selection:
        """Which pools, in which order. Raises what `ipam.selection.select` raises."""
        known = self._about(pod, interface, conf)
        if known.selection is None:
            known.selection = select(
                self._world.facts_of(pod, owner),
                self._nic(pod, interface, conf),
                self._world.pools.catalog,
                self.features,
            )
        return known.selection

    def clean_gateway(self, pod: Pod | None, interface: str, conf: IpamConf | None = None) -> bool:
        """Whether the interface gets no default route; `conf` None: the configuration last seen for it. Does not depend on pools."""
        conf = conf or self.learnt.get(interface, IpamConf())
        if pod is None:
            return conf.clean_gateway
        known = self._about(pod, interface, conf)
        if known.clean_gateway is None:
            try:
                known.clean_gateway = clean_gateway(
                    self._world.facts_of(pod), self._nic(pod, interface, conf), self.features
                )
            except NephilaError:  # its annotations were edited since its ADD
                known.clean_gateway = conf.clean_gateway
        return known.clean_gateway

    def learn(self, interface: str, conf: IpamConf) -> None:
        """What an ADD's network configuration says of this interface."""
        if self.learnt.get(interface) != conf:
            self._remember(interface, conf)
            self.learnt[interface] = conf

    def _forget_gone(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and new is None:
            for key in [key for key in self._remembered if key[0] == old.uid]:
                del self._remembered[key]
            for key in [key for key in self._own if key[0] == old.uid]:
                del self._own[key]

    def has_own(self, pod_uid: str, interface: str, families: frozenset[Family]) -> None:
        """The interface's identity has pinned addresses of these families: it will ask for those, and for no other while they are its own."""
        self._own[pod_uid, interface] = families

    def likely(self) -> frozenset[str]:
        """Pools that a pod of this node may ask for at any moment, though none is bound here that does: worth a warm stock beforehand.

        Those that a pod without annotations would get, and those that name this very node. Computed once per change of pools or labels.
        """
        generation = self._world.facts_generation
        if self._likely[0] != generation:
            self._likely = (generation, frozenset({*self._of_plain_pod(), *self._of_this_node()}))
        return self._likely[1]

    def _of_plain_pod(self) -> list[str]:
        plain = self._world.facts_of(Pod(metadata=ObjectMeta(namespace="default")))
        conf = self.learnt.get(FIRST_INTERFACE, IpamConf())
        nic = NicFacts(FIRST_INTERFACE, None, conf.default_ipv4_ippool, conf.default_ipv6_ippool)
        try:
            chosen = select(plain, nic, self._world.pools.catalog, self.features)
        except NephilaError:
            return []  # no default pools: nothing is likely
        return [names[0] for names in chosen.candidates.values() if names]

    def _of_this_node(self) -> list[str]:
        node = self._world.node
        if node is None:
            return []
        return [
            pool.name
            for pool in self._world.pools.catalog
            if pool.app is None
            and pool.pod_affinity is None
            and not (pool.disable or pool.deleting)
            and is_bound_to(pool, node.name, node.labels)
        ]

    def is_barred(self, pool: Pool) -> bool:
        """True if the pool's affinity keeps it from every pod of this node that has no address yet."""
        node = self._world.node
        return node is not None and refusal_by_node(pool, node.name, node.labels) is not None

    def bound(self, served: Iterable[tuple[str, str, str]]) -> Counter[str]:
        """Addresses of each pool that the live pods of this node use or are about to ask for.

        `served`: (pod UID, interface, pool) of every address given out. A pod that has none yet counts for the first pool of its list, unless its
        sandbox is up: what this agent was not asked for by then, another CNI set up. One that had an address here counts all along: its sandbox is
        being replaced. What its identity has already is nobody's to lease ahead, and may be long in coming: an address kept for it meanwhile would be
        missing elsewhere.
        """
        needed: Counter[str] = Counter()
        have: set[tuple[str, str]] = set()
        for uid, interface, pool in served:
            needed[pool] += 1
            have.add((uid, interface))
        live = self._world.live_pods()
        uids = {pod.uid for pod in live}
        self._ours = have | {key for key in self._ours if key[0] in uids}
        for pod in live:
            is_up = _has_sandbox(pod)
            for interface in self._interfaces(pod):
                key = (pod.uid, interface)
                if pod.deleting or key in have or (is_up and key not in self._ours):
                    continue
                for family, names in self._candidates(pod, interface).items():
                    if family not in self._own.get(key, ()):
                        needed[names[0]] += 1
        return needed

    def _interfaces(self, pod: Pod) -> list[str]:
        """Those that this agent will be asked for, as far as the pod and earlier ADDs say: on a node that was asked for others only, another CNI
        serves the first one.
        """
        first = [FIRST_INTERFACE] if FIRST_INTERFACE in self.learnt or not self.learnt else []
        try:
            networks = parse_networks(pod.annotations.get(NETWORKS, ""), pod.namespace)
        except NephilaError:
            return first
        return [*first, *(ref.interface for ref in networks)]

    def _candidates(self, pod: Pod, interface: str) -> dict[Family, tuple[str, ...]]:
        """Its ADD will ask for the same soon, and find the rest of what it needs to know of the pod here too."""
        conf = self.learnt.get(interface, IpamConf())
        try:
            self.admit(pod, interface, conf)
            self.clean_gateway(pod, interface, conf)
            found = self.selection(pod, interface, conf).candidates
            return {family: names for family, names in found.items() if names}
        except NephilaError:
            return {}  # its own ADD will say why

    def _nic(self, pod: Pod, interface: str, conf: IpamConf) -> NicFacts:
        nad = nad_of_interface(
            interface,
            pod.annotations,
            pod_namespace=pod.namespace,
            agent_namespace=self.features.agent_namespace,
            cluster_network=self._cluster_network,
        )
        return NicFacts(
            interface=interface,
            nad=nad,
            default_v4=conf.default_ipv4_ippool,
            default_v6=conf.default_ipv6_ippool,
            clean_gateway=conf.clean_gateway,
        )


def is_bound_to(pool: Pool, node: str, labels: Mapping[str, str]) -> bool:
    """True if the pool is restricted to some nodes, this one among them."""
    if pool.node_names:
        return node in pool.node_names
    return pool.node_affinity is not None and pool.node_affinity.matches(labels)


def _has_sandbox(pod: Pod) -> bool:
    """True if CNI has set up all of its interfaces once: the kubelet tells addresses and phase only then."""
    return pod.status.phase == "Running" or bool(pod.status.pod_ip or pod.status.pod_ips)


def learnt_from(meta: Mapping[str, str]) -> dict[str, IpamConf]:
    """The network configurations of earlier ADDs that the journal remembers, by interface."""
    return {
        key.removeprefix(LEARNT): msgspec.json.decode(text, type=IpamConf)
        for key, text in meta.items()
        if key.startswith(LEARNT)
    }


def remembered(interface: str, conf: IpamConf) -> PutMeta:
    """What `learnt_from` reads."""
    return PutMeta(LEARNT + interface, msgspec.json.encode(conf).decode())
