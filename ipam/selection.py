"""Which pools an interface may take its addresses from, in which order, and why each other named pool may not serve it.

The first source that says anything wins entirely, in the order of `Source`; sources are never merged, not even by
family. Every name of that source then becomes a candidate or a refusal with a reason. Order of trying: rank of the
pool (see `pools`), then the listed order; what a pattern matches stands at its place, sorted by name. Every family
that the source asks for must have a candidate; a family that is switched off counts as not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from ipam import annotations as notes
from ipam.addresses import Family
from ipam.affinity import refusal_of
from ipam.application_pools import wanted_pools
from ipam.applications import AppOwner, WantedPool, label_value
from ipam.catalog import Catalog
from ipam.defaultroute import lacks_default_route, require_known
from ipam.errors import BadAnnotation, BadConfig, NoPoolMatches, NoPoolSelected, OwnerMissing, PoolNotFound, Refusal
from ipam.facts import Features, NicFacts, PodFacts, pod_refusal
from ipam.multus import NETWORKS, position
from ipam.pools import Pool

__all__ = [
    "Catalog",
    "Features",
    "NicFacts",
    "PodFacts",
    "Refusal",
    "Selection",
    "Source",
    "clean_gateway",
    "needs_owner",
    "pod_refusal",
    "select",
]


_NO_POOLS = Catalog(())


class Source(Enum):
    """Where pool names come from, in order of precedence; the value names it to users."""

    POD_SUBNETS = f"annotation {notes.SUBNETS} of the pod"
    POD_SUBNET = f"annotation {notes.SUBNET} of the pod"
    POD_IPPOOLS = f"annotation {notes.IPPOOLS} of the pod"
    POD_IPPOOL = f"annotation {notes.IPPOOL} of the pod"
    NAMESPACE = "default pools of the namespace"
    NETCONF = "default_ipv4_ippool and default_ipv6_ippool of the CNI configuration"
    CLUSTER = "pools with spec.default: true"


@dataclass(frozen=True, slots=True)
class Selection:
    """The answer for one interface.

    `candidates` holds, for every family asked for, pool names in order of trying. `wanted` is non-empty only for the
    two subnet sources: the application pools that the pod needs. Those in `missing` do not exist yet; their family is
    then not in `candidates`, and the caller waits for the leader to create them.
    """

    source: Source
    candidates: Mapping[Family, tuple[str, ...]]
    refused: tuple[Refusal, ...]
    clean_gateway: bool
    wanted: tuple[WantedPool, ...] = ()

    @property
    def missing(self) -> tuple[WantedPool, ...]:
        """The application pools that must be created before the request can be served."""
        return tuple(pool for pool in self.wanted if pool.family not in self.candidates)


@dataclass(frozen=True, slots=True)
class _Request:
    source: Source
    names: Mapping[Family, tuple[str, ...]]
    stated_clean: bool | None = None


def needs_owner(pod: PodFacts, catalog: Catalog, features: Features) -> bool:
    """Whether `select` can depend on `pod.owner`: resolve it first then, and spare the look-up otherwise."""
    by_subnet = features.subnets and (notes.SUBNETS in pod.annotations or notes.SUBNET in pod.annotations)
    return by_subnet or catalog.has_application_pools


def select(pod: PodFacts, nic: NicFacts, catalog: Catalog, features: Features) -> Selection:
    """The pools for one interface of one pod; a pure function of its arguments.

    Raises BadAnnotation, BadConfig (the netconf's lists), NoPoolSelected (no source says anything), PoolNotFound (a
    pool named literally does not exist), NoPoolMatches (a family asked for has no candidate; carries every refusal),
    OwnerMissing (application pools are asked for and `pod.owner` is not resolved).
    """
    require_known(pod.annotations, pod.namespace, nic.interface)
    if features.subnets:
        by_subnet = _from_subnets(pod, nic, catalog, features)
        if by_subnet is not None:
            return by_subnet
    for find in _SOURCES:
        request = find(pod, nic, catalog)
        if request is not None:
            return _choose(request, pod, nic, catalog, features)
    raise NoPoolSelected(
        hint=f"name pools in annotation {notes.IPPOOL}, in the namespace's annotations or in the CNI configuration, "
        "or mark a pool as default"
    )


def clean_gateway(pod: PodFacts, nic: NicFacts, features: Features) -> bool:
    """`Selection.clean_gateway`, whatever became of the pools since. Raises BadAnnotation."""
    by_subnet = features.subnets and _subnet_request(pod, nic)[0] is not None
    request = None if by_subnet else _from_ippools(pod, nic, _NO_POOLS)
    return lacks_default_route(pod, nic, stated=request.stated_clean if request else None)


def _from_ippools(pod: PodFacts, nic: NicFacts, catalog: Catalog) -> _Request | None:
    text = pod.annotations.get(notes.IPPOOLS)
    if text is None:
        return None
    requests = notes.parse_ippools(text)
    if requests[0].interface:
        item = next((request for request in requests if request.interface == nic.interface), None)
        if item is None:
            listed = ", ".join(request.interface for request in requests)
            raise BadAnnotation(
                notes.IPPOOLS,
                f"interface {nic.interface} is being set up, but is not among those listed ({listed})",
                f"add an item for {nic.interface}",
            )
    else:
        index = position(nic.interface, pod.annotations, pod.namespace)
        if index is None or index >= len(requests):
            raise BadAnnotation(
                notes.IPPOOLS,
                f"no item for interface {nic.interface}: items that name no interface stand for eth0 and then for the "
                f"networks of {NETWORKS}",
                "name the interface in every item",
            )
        item = requests[index]
    return _Request(Source.POD_IPPOOLS, item.names, item.clean_gateway)


def _from_ippool(pod: PodFacts, nic: NicFacts, catalog: Catalog) -> _Request | None:
    text = pod.annotations.get(notes.IPPOOL)
    if text is None:
        return None
    return _Request(Source.POD_IPPOOL, notes.parse_ippool(text).names)


def _from_namespace(pod: PodFacts, nic: NicFacts, catalog: Catalog) -> _Request | None:
    found = notes.parse_namespace_pools(pod.namespace_annotations)
    return _Request(Source.NAMESPACE, found) if found else None


def _from_netconf(pod: PodFacts, nic: NicFacts, catalog: Catalog) -> _Request | None:
    found: dict[Family, tuple[str, ...]] = {}
    for family, listed in ((Family.V4, nic.default_v4), (Family.V6, nic.default_v6)):
        literals = [name for name in listed if not notes.is_pattern(name)]
        if len(set(literals)) != len(literals) or "" in listed:
            key = f"ipam.default_ipv{int(family)}_ippool"
            raise BadConfig(f"{key}: names a pool twice, or an empty name", "name each pool once")
        if listed:
            found[family] = listed
    return _Request(Source.NETCONF, found) if found else None


def _from_cluster(pod: PodFacts, nic: NicFacts, catalog: Catalog) -> _Request | None:
    found = {family: ("*",) for family in Family if catalog.defaults(family)}
    return _Request(Source.CLUSTER, found) if found else None


_SOURCES: tuple[Callable[[PodFacts, NicFacts, Catalog], _Request | None], ...] = (
    _from_ippools,
    _from_ippool,
    _from_namespace,
    _from_netconf,
    _from_cluster,
)


def _choose(request: _Request, pod: PodFacts, nic: NicFacts, catalog: Catalog, features: Features) -> Selection:
    asked = {family: request.names[family] for family in features.families if family in request.names}
    if not asked:
        raise NoPoolSelected(
            f"no IPPool available from {request.source.value}: only a family that is switched off is named",
            "name pools of a family that is switched on, or switch the other one on",
        )
    candidates: dict[Family, tuple[str, ...]] = {}
    refused: list[Refusal] = []
    for family, listed in asked.items():
        named, unmatched = _expand(listed, family, request.source, catalog)
        refused += unmatched
        fit: list[Pool] = []
        for pool in named:
            refusal = refusal_of(pool, family, pod, nic, features)
            if refusal is None:
                fit.append(pool)
            else:
                refused.append(refusal)
        fit.sort(key=lambda pool: -pool.rank)  # stable: the listed order holds within a rank
        candidates[family] = tuple(pool.name for pool in fit)
    _require_candidates(candidates, refused, request.source, nic)
    clean = lacks_default_route(pod, nic, stated=request.stated_clean)
    return Selection(request.source, candidates, tuple(refused), clean)


def _expand(
    listed: Iterable[str], family: Family, source: Source, catalog: Catalog
) -> tuple[list[Pool], list[Refusal]]:
    """The pools that the names stand for, each once, and the patterns that match none."""
    if source is Source.CLUSTER:
        return list(catalog.defaults(family)), []
    found: dict[str, Pool] = {}
    unmatched: list[Refusal] = []
    for name in listed:
        if notes.is_pattern(name):
            matched = catalog.matching(family, name)
            if not matched:
                unmatched.append(Refusal(name, "the pattern matches no IPv{} pool", (int(family),)))
            for pool in matched:
                found.setdefault(pool.name, pool)
            continue
        literal = catalog.get(name)
        if literal is None:
            raise PoolNotFound(
                f"IPPool {name!r}, named by {source.value}, does not exist", "create it, or correct the name", name=name
            )
        found.setdefault(name, literal)
    return list(found.values()), unmatched


def _require_candidates(
    candidates: Mapping[Family, tuple[str, ...]], refused: Iterable[Refusal], source: Source, nic: NicFacts
) -> None:
    without = [f"IPv{int(family)}" for family, names in candidates.items() if not names]
    if without:
        raise NoPoolMatches(
            f"no available IPPool: no {' and no '.join(without)} pool for {nic.interface} from {source.value}",
            "the details say why each named pool was refused",
            refused=refused,
        )


def _from_subnets(pod: PodFacts, nic: NicFacts, catalog: Catalog, features: Features) -> Selection | None:
    """Sources 1 and 2. `subnet` speaks of one interface only: for any other the next source is asked."""
    source, request = _subnet_request(pod, nic)
    if source is None or request is None:
        return None
    key = notes.SUBNETS if source is Source.POD_SUBNETS else notes.SUBNET
    if not features.auto_pools:
        raise BadAnnotation(
            key, "application pools are switched off", "set enableAutoPoolForApplication, or name pools instead"
        )
    if pod.owner is None:
        raise OwnerMissing(f"the controller of pod {pod.namespace}/{pod.name} is not known", "the pod is retried")
    wanted = wanted_pools(key, request, pod.owner, pod.annotations, features)
    candidates: dict[Family, tuple[str, ...]] = {}
    refused: list[Refusal] = []
    for want in wanted:
        mine = catalog.of_application(AppOwner.of(want.owner), want.family, want.interface)
        fit: list[str] = []
        for pool in mine:
            refusal = refusal_of(pool, want.family, pod, nic, features)
            if refusal is None and pool.owner_subnet not in ("", label_value(want.subnet)):
                why = "it belongs to subnet {}, not to {}"
                refusal = Refusal(pool.name, why, (pool.owner_subnet, want.subnet))
            if refusal is None:
                fit.append(pool.name)
            else:
                refused.append(refusal)
        if fit:
            candidates[want.family] = tuple(fit)
    return Selection(source, candidates, tuple(refused), lacks_default_route(pod, nic, stated=None), wanted)


def _subnet_request(pod: PodFacts, nic: NicFacts) -> tuple[Source | None, notes.NicRequest | None]:
    text = pod.annotations.get(notes.SUBNETS)
    if text is not None:
        for request in notes.parse_subnets(text):
            if request.interface == nic.interface:
                return Source.POD_SUBNETS, request
        raise BadAnnotation(notes.SUBNETS, f"no item for interface {nic.interface}", "add one")
    text = pod.annotations.get(notes.SUBNET)
    if text is None:
        return None, None
    request = notes.parse_subnet(text)
    return (Source.POD_SUBNET, request) if request.interface == nic.interface else (None, None)
