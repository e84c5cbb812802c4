"""Why an interface of a pod gets an address, or none: the selection of the agents, with what it found at each step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cli.budget import Budget, budget
from cli.cluster import Cluster
from cli.explain.fixes import fix_for
from cli.explain.sources import SourceSaid, said
from cli.output import Record
from cli.views.nodes import state_of as node_state
from cli.views.pools import why_none_free
from cli.words import count, some
from crds.identities import MACHINE
from ipam import annotations as notes
from ipam.addresses import Family
from ipam.catalog import Catalog
from ipam.errors import NephilaError, NoPoolMatches, PoolNotFound
from ipam.facts import Features, NicFacts, PodFacts, pod_refusal
from ipam.multus import claim_of_interface
from ipam.pools import Pool
from ipam.routes import Route, result_routes
from ipam.selection import Selection, select
from ipam.slots import SlotId


class Candidate(Record):
    """A pool that may serve the interface, in order of trying. `why_none` is "" if it has free addresses."""

    pool: str
    family: int
    free: int
    total: int
    why_none: str
    gateway: str
    routes: tuple[str, ...]


class Refused(Record):
    pool: str
    reason: str
    fix: str


class Reasoning(Record):
    """`nodes`: where this holds. `cause` and `fix` are "" if `served`. `awaited`: application pools that the leader makes first."""

    interface: str
    nodes: tuple[str, ...]
    sources: tuple[SourceSaid, ...]
    candidates: tuple[Candidate, ...]
    refused: tuple[Refused, ...]
    awaited: tuple[str, ...]
    present: tuple[str, ...]
    notes: tuple[str, ...]
    served: bool
    cause: str
    fix: str


@dataclass(frozen=True, slots=True)
class _Failure:
    cause: str
    fix: str


class Reasoner:
    """One cluster and configuration; pools are counted once, however many nodes are asked about."""

    def __init__(self, cluster: Cluster, features: Features) -> None:
        self._cluster = cluster
        self._features = features
        self._budgets: dict[str, Budget] = {}

    def reason(self, pod: PodFacts, nic: NicFacts, *, netconf_known: bool = False) -> Reasoning:
        """Pure: what an ADD of this interface would find now."""
        catalog = self._cluster.catalog
        sources = said(pod, nic, catalog, self._features, netconf_known=netconf_known)
        present = self._present(pod, nic.interface)
        try:
            selection = select(pod, nic, catalog, self._features)
            pod_routes = notes.parse_routes(pod.annotations[notes.ROUTES]) if notes.ROUTES in pod.annotations else ()
        except NephilaError as error:
            return self._failed(pod, nic, sources, present, error)
        candidates = tuple(
            self._candidate(name, selection, pod_routes) for names in selection.candidates.values() for name in names
        )
        failure = pod_refused(pod) or self._node_failure(pod) or self._shortage(selection, candidates, pod, nic)
        return Reasoning(
            interface=nic.interface,
            nodes=(pod.node,) if pod.node else (),
            sources=sources,
            candidates=candidates,
            refused=tuple(
                Refused(pool=item.pool, reason=item.reason, fix=fix_for(item, pod)) for item in selection.refused
            ),
            awaited=tuple(
                f"IPv{int(want.family)} pool of {want.owner.kind} {want.owner.namespace}/{want.owner.name} "
                f"from SpiderSubnet {want.subnet}"
                for want in selection.missing
            ),
            present=present,
            notes=(*self._family_notes(pod, nic, selection), *_route_notes(selection, pod_routes, catalog)),
            served=failure is None or bool(present),
            cause=failure.cause if failure and not present else "",
            fix=failure.fix if failure and not present else "",
        )

    def _failed(
        self,
        pod: PodFacts,
        nic: NicFacts,
        sources: tuple[SourceSaid, ...],
        present: tuple[str, ...],
        error: NephilaError,
    ) -> Reasoning:
        refused: tuple[Refused, ...] = ()
        cause, fix = error.message, error.hint
        if isinstance(error, NoPoolMatches):
            refused = tuple(
                Refused(pool=item.pool, reason=item.reason, fix=fix_for(item, pod)) for item in error.refused
            )
            cause = f"{cause}: {some([f'{item.pool}: {item.reason}' for item in refused], 3)}" if refused else cause
            fix = refused[0].fix or fix if len(refused) == 1 else "any one of the fixes above"
        if isinstance(error, PoolNotFound) and (broken := self._cluster.pools.unreadable.get(error.name)):
            cause, fix = f"SpiderIPPool {error.name} cannot be understood: {broken}", "correct the pool"
        return Reasoning(
            interface=nic.interface,
            nodes=(pod.node,) if pod.node else (),
            sources=sources,
            candidates=(),
            refused=refused,
            awaited=(),
            present=present,
            notes=(),
            served=bool(present),
            cause="" if present else cause,
            fix="" if present else fix,
        )

    def _present(self, pod: PodFacts, interface: str) -> tuple[str, ...]:
        return tuple(
            f"{holding.slot.address} from {holding.pool or 'an unknown pool'}"
            for holding in self._cluster.holdings_of_uid.get(pod.uid, ())
            if pod.uid and holding.interface == interface
        )

    def _candidate(self, name: str, selection: Selection, pod_routes: tuple[Route, ...]) -> Candidate:
        pool = self._cluster.catalog.get(name)
        assert pool is not None
        found = self._budget(pool)
        routes = result_routes(
            pool.subnet,
            gateway=pool.gateway,
            clean_gateway=selection.clean_gateway,
            pool_routes=pool.routes,
            pod_routes=pod_routes,
        )
        return Candidate(
            pool=name,
            family=int(pool.family),
            free=found.free.size,
            total=pool.total_count,
            why_none="" if found.free else why_none_free(self._cluster, pool, found),
            gateway=str(pool.gateway or ""),
            routes=tuple(map(str, routes)),
        )

    def _budget(self, pool: Pool) -> Budget:
        found = self._budgets.get(pool.name)
        if found is None:
            found = self._budgets[pool.name] = budget(self._cluster, pool)
        return found

    def _node_failure(self, pod: PodFacts) -> _Failure | None:
        if not pod.node:
            return None
        state = node_state(self._cluster, pod.node)
        if state == "Ready":
            return None
        return _Failure(
            f"the agent of node {pod.node} hands out no new address: {state}", "see `nephila nodes` and the agent's log"
        )

    def _shortage(
        self, selection: Selection, candidates: tuple[Candidate, ...], pod: PodFacts, nic: NicFacts
    ) -> _Failure | None:
        """The first family that cannot be served; all families come together or not at all."""
        for want in selection.missing:
            if failure := self._unmakeable(want.subnet, want.family):
                return failure
        for family in selection.candidates:
            mine = [item for item in candidates if item.family == family]
            if any(item.free for item in mine) or self._pinned(pod, nic.interface, family):
                continue
            details = "; ".join(f"{item.pool}: {item.why_none}" for item in mine)
            return _Failure(
                f"no free IPv{int(family)} address: {details}",
                self._fix_shortage(mine[0].pool),
            )
        return None

    def _fix_shortage(self, name: str) -> str:
        pool = self._cluster.catalog.get(name)
        assert pool is not None
        found = self._budget(pool)
        if found.used:
            return f"enlarge spec.ips of SpiderIPPool {name}, name a second pool, or free addresses (`nephila pools`)"
        if found.lost:
            return f"give SpiderIPPool {name} addresses that no older pool claims"
        if found.reserved:
            return f"remove addresses from the SpiderReservedIP, or enlarge spec.ips of SpiderIPPool {name}"
        return f"put usable addresses into spec.ips of SpiderIPPool {name}"

    def _unmakeable(self, name: str, family: Family) -> _Failure | None:
        subnet = self._cluster.subnets.get(name)
        if subnet is None:
            return _Failure(f"SpiderSubnet {name!r} does not exist", "create it, or correct the annotation")
        if subnet.family is not family:
            return _Failure(
                f"SpiderSubnet {name!r} is of IPv{int(subnet.family)}, but named for IPv{int(family)}",
                "name it in the list of its own family",
            )
        left = subnet.usable - self._cluster.reserved[family]
        for pool in self._cluster.catalog:
            if pool.family is family and pool.domain == subnet.domain:
                left -= pool.ips
        if left:
            return None
        return _Failure(
            f"SpiderSubnet {name!r} has no address left: its {count(subnet.total_count, 'address', 'addresses')} "
            "belong to pools or are reserved",
            "enlarge the subnet's spec.ips, or delete pools that are not needed",
        )

    def _pinned(self, pod: PodFacts, interface: str, family: Family) -> SlotId | None:
        """The address that waits for this very identity: the claim that the interface names, the machine that the pod runs, or the pod's name."""
        machine = pod.owner.name if pod.owner is not None and pod.owner.kind == MACHINE else ""
        name = claim_of_interface(interface, pod.annotations, pod.namespace) or machine or pod.name
        pins = self._cluster.pins_of.get((pod.namespace, name), ())
        return next((slot for name, slot in pins if name == interface and slot.family is family), None)

    def _family_notes(self, pod: PodFacts, nic: NicFacts, selection: Selection) -> tuple[str, ...]:
        found = [
            f"{slot} is pinned to this pod"
            for family in Family
            if (slot := self._pinned(pod, nic.interface, family)) is not None
        ]
        try:
            both = select(pod, nic, self._cluster.catalog, replace(self._features, ipv4=True, ipv6=True))
            asked = {*both.candidates, *(want.family for want in both.wanted)}
        except NephilaError:
            return tuple(found)
        off = [family for family in asked if family not in self._features.families]
        found += [f"IPv{int(family)} is switched off: its pools are not asked" for family in off]
        return tuple(found)


def pod_refused(pod: PodFacts) -> _Failure | None:
    """A pod that will not run (again) gets nothing."""
    refusal = pod_refusal(pod)
    return _Failure(refusal.message, refusal.hint) if refusal else None


def _route_notes(selection: Selection, pod_routes: tuple[Route, ...], catalog: Catalog) -> tuple[str, ...]:
    """Routes of the pod whose gateway is in no candidate's subnet belong to another interface."""
    pools = [pool for names in selection.candidates.values() for name in names if (pool := catalog.get(name))]
    return tuple(
        f"route {route} is not for this interface: its gw is in no candidate's subnet"
        for route in pod_routes
        if not any(route.gw in pool.subnet for pool in pools)
    )
