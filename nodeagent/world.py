"""What the agent knows of the cluster: local copies of pools, reserved addresses, namespaces, its node, its pods and its mailbox.

Nothing here decides anything. `Pools` is an immutable picture that is rebuilt when a pool or a reserved address changes, off the ADD path, so that
an ADD only looks things up.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.kube.picture import Picture
from adapters.kube.reflector import Reflector
from adapters.kube.store import Store
from crds import convert
from crds.core import NAMESPACE, NODE, POD, Node, Pod
from crds.meta import UNSET, Kind, KubeObject
from crds.nephila import IP_NODE
from crds.spiderpool import IP_POOL, RESERVED_IP, SpiderIPPool
from ipam.addresses import Family
from ipam.catalog import Catalog
from ipam.facts import PodFacts
from ipam.overlaps import arbitrate
from ipam.owners import TopOwner
from ipam.pools import Pool
from ipam.ranges import RangeSet
from ipam.slots import SlotId

log = structlog.get_logger(__name__)

K = TypeVar("K", bound=KubeObject)

FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Pools:
    """One consistent picture of all pools. `generation` grows with every rebuild; caches built on it compare it."""

    catalog: Catalog
    effective: Mapping[str, RangeSet]
    generation: int
    _starts: Mapping[tuple[str, Family], tuple[list[int], list[tuple[int, str]]]]

    @classmethod
    def build(cls, pools: Iterable[Pool], reserved: Mapping[Family, RangeSet], generation: int) -> Pools:
        catalog = Catalog(pools)
        effective = arbitrate(catalog, reserved)
        spans: dict[tuple[str, Family], list[tuple[int, int, str]]] = {}
        for name, addresses in effective.items():
            pool = catalog.get(name)
            assert pool is not None
            spans.setdefault((pool.domain, pool.family), []).extend(
                (first, last, name) for first, last in addresses.spans
            )
        starts = {
            key: ([first for first, _, _ in found], [(last, name) for _, last, name in found])
            for key, found in ((key, sorted(found)) for key, found in spans.items())
        }
        return cls(catalog, effective, generation, starts)

    def pool_of(self, slot: SlotId) -> str:
        """The pool that may give out this address now; "" for none. O(log n)."""
        starts, ends = self._starts.get((slot.domain, slot.family), ([], []))
        index = bisect_right(starts, slot.value) - 1
        if index < 0 or slot.value > ends[index][0]:
            return ""
        return ends[index][1]


class World(Picture):
    """Run `run()` as a task. Not ready before `synced()`."""

    def __init__(self, store: Store, clock: Clock, entropy: Entropy, node: str, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._stale = True
        self._node_name = node
        self.pod_changes: list[Callable[[Pod | None, Pod | None], None]] = []
        self._pools = Pools.build((), {}, 0)

        def reflector(kind: Kind[K], fields: str = "") -> Reflector[K]:
            return Reflector(store, kind, clock, entropy, fields=fields, on_failure=_report)

        self.pools_seen = reflector(IP_POOL)
        self.reserved_seen = reflector(RESERVED_IP)
        self.namespaces = reflector(NAMESPACE)
        self.nodes = reflector(NODE, f"metadata.name={node}")
        self.pods = reflector(POD, f"spec.nodeName={node}")
        self.mailbox = reflector(IP_NODE, f"metadata.name={node}")
        self.pools_seen.listen(self._pools_changed)
        self.reserved_seen.listen(self._pools_changed)
        self.namespaces.listen(self._facts_changed)
        self.nodes.listen(self._facts_changed)
        self.pods.listen(self._pod_changed)
        self._generation = 0

    @property
    def reflectors(self) -> tuple[Reflector[Any], ...]:
        return (self.pools_seen, self.reserved_seen, self.namespaces, self.nodes, self.pods, self.mailbox)

    @property
    def node(self) -> Node | None:
        return self.nodes.get(self._node_name)

    @property
    def facts_generation(self) -> int:
        """Grows whenever something that selection may depend on changes, other than the pod itself."""
        return self._generation

    @property
    def pools(self) -> Pools:
        """The picture of the pools as of now; rebuilt at most once per change."""
        if self._stale:
            self._stale = False
            pools = convert.readable(self.pools_seen, convert.pool)
            reserved = convert.readable(self.reserved_seen, convert.reserved)
            for name, error in {**pools.unreadable, **reserved.unreadable}.items():
                log.warning("object_refused", name=name, error=str(error))
            self._pools = Pools.build(pools.values, convert.reserved_union(reserved.values), self._pools.generation + 1)
        return self._pools

    @property
    def reserved(self) -> dict[Family, RangeSet]:
        """What SpiderReservedIPs withhold from every pool, both families present."""
        return convert.reserved_union(convert.readable(self.reserved_seen, convert.reserved).values)

    def supply(self, pool: str) -> tuple[int, int] | None:
        """(addresses that a pod could get, nodes that share them) as the leader last published; None if it has not."""
        stored = self.pools_seen.get(pool)
        if stored is None or stored.status is UNSET:
            return None
        free, nodes = stored.status.free_ip_count, stored.status.node_count
        return None if free is UNSET or nodes is UNSET else (free, nodes)

    def facts_of(self, pod: Pod, owner: TopOwner | None = None) -> PodFacts:
        return convert.pod_facts(pod, namespace=self.namespaces.get(pod.namespace), node=self.node, owner=owner)

    def live_pods(self) -> list[Pod]:
        """The pods bound to this node that need addresses: not finished, not on the host network."""
        return [pod for pod in self.pods if not pod.spec.host_network and pod.status.phase not in FINISHED]

    def _pools_changed(self, old: KubeObject | None, new: KubeObject | None) -> None:
        if (
            isinstance(old, SpiderIPPool)
            and isinstance(new, SpiderIPPool)
            and old.spec == new.spec
            and old.deleting == new.deleting
            and old.labels == new.labels
            and old.annotations == new.annotations
        ):
            return  # a status write: nothing that an ADD depends on
        self._stale = True
        self._facts_changed(old, new)

    def _facts_changed(self, old: KubeObject | None, new: KubeObject | None) -> None:
        if isinstance(old, Node) and isinstance(new, Node) and old.metadata.labels == new.metadata.labels:
            return  # heartbeats of the kubelet
        self._generation += 1
        self._on_change()

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        for tell in self.pod_changes:
            tell(old, new)
        self._on_change()


def _report(error: Exception) -> None:
    log.warning("watch_failed", error=str(error), kind=type(error).__name__)
