"""The leader's picture of the cluster: local copies of every kind it decides on, and the few indexes that make decisions cheap at 5,000 nodes.

Nothing here decides anything, and nothing here is fresh: what is changed is read again first (`leader.writing`, the controllers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.kube.picture import Picture
from adapters.kube.reflector import Reflector
from adapters.kube.store import Key, Store
from crds import convert
from crds.blocks import block_from_wire
from crds.core import NODE, STATEFUL_SET
from crds.meta import UNSET, Kind, KubeObject
from crds.nephila import IP_BLOCK, IP_NODE, IPBlock, IPNode
from crds.spiderpool import IP_POOL, RESERVED_IP, SpiderIPPool
from ipam.addresses import Address, Family
from ipam.blocks import Block, Lease
from ipam.catalog import Catalog
from ipam.coverage import Coverage
from ipam.errors import BadValue
from ipam.overlaps import arbitrate
from ipam.planner import Report, counting
from ipam.poolstatus import Use
from ipam.slots import Page, SlotId
from leader.ledger import Ledger
from leader.views import ENDPOINT_VIEW, POD_VIEW, AddressView, EndpointView, PodView

log = structlog.get_logger(__name__)

K = TypeVar("K", bound=KubeObject)


@dataclass(frozen=True, slots=True)
class PoolBook:
    """All pools as of one moment. `unreadable`: by name, why a pool or reserved address could not be understood."""

    catalog: Catalog
    coverage: Coverage
    unreadable: dict[str, BadValue]


class Sight(Picture):
    """Run `run()` as a task; complete after `synced()`. `pools_touched` collects names of pools whose numbers may have changed."""

    def __init__(self, store: Store, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock

        def reflector(kind: Kind[K]) -> Reflector[K]:
            return Reflector(store, kind, clock, entropy, on_failure=_report)

        self.pools = reflector(IP_POOL)
        self.reserved = reflector(RESERVED_IP)
        self.blocks = reflector(IP_BLOCK)
        self.mailboxes = reflector(IP_NODE)
        self.endpoints = reflector(ENDPOINT_VIEW)
        self.pods = reflector(POD_VIEW)
        self.nodes = reflector(NODE)
        self.sets = reflector(STATEFUL_SET)
        self.ledger = Ledger(Coverage({}, {}))
        self.reports: dict[str, tuple[Report, ...]] = {}
        self.needy: set[str] = set()  # nodes that lack addresses of some pool
        self.beaten_at: dict[str, float] = {}
        self.pools_touched: set[str] = set()
        self.kicks: list[Callable[[KubeObject], None]] = []
        self.pod_changes: list[Callable[[PodView | None, PodView | None], None]] = []
        self._book: PoolBook | None = None
        self._uids: dict[str, Key] = {}
        self._endpoints_on: dict[str, set[Key]] = {}
        self._endpoints_in: dict[str, set[Key]] = {}
        self.pools.listen(self._pools_changed)
        self.reserved.listen(self._pools_changed)
        self.blocks.listen(self._block_changed)
        self.mailboxes.listen(self._mailbox_changed)
        self.endpoints.listen(self._endpoint_changed)
        self.pods.listen(self._pod_changed)

    @property
    def reflectors(self) -> tuple[Reflector[Any], ...]:
        return (
            self.pools,
            self.reserved,
            self.blocks,
            self.mailboxes,
            self.endpoints,
            self.pods,
            self.nodes,
            self.sets,
        )

    # Pools -----------------------------------------------------------------------------------------------------------------------------

    @property
    def book(self) -> PoolBook:
        """Rebuilt at most once per change of a pool or a reserved address."""
        if self._book is None:
            pools = convert.readable(self.pools, convert.pool)
            reserved = convert.readable(self.reserved, convert.reserved)
            unreadable = {**pools.unreadable, **reserved.unreadable}
            for name, error in unreadable.items():
                log.warning("object_refused", name=name, error=str(error))
            catalog = Catalog(pools.values)
            effective = arbitrate(catalog, convert.reserved_union(reserved.values))
            coverage = Coverage(effective, {pool.name: pool.domain for pool in catalog})
            self._book = PoolBook(catalog, coverage, unreadable)
            self.ledger.cover(coverage)
        return self._book

    def unleased(self, pool: str) -> int:
        """Addresses of the pool that a node may claim at once."""
        _ = self.book
        return self.ledger.unleased(pool, self._clock.wall())

    def open_pages(self, pool: str) -> list[tuple[str, int]]:
        """Where addresses of the pool can be claimed at once."""
        known = self.book.catalog.get(pool)
        return self.ledger.open_pages(pool, known.domain, self._clock.wall()) if known else []

    def uses(self, pool: str) -> list[Use]:
        """Who has which address of the pool, as SpiderEndpoints tell."""
        found: list[Use] = []
        for key in self._endpoints_in.get(pool, ()):
            endpoint = self.endpoints.get(key[1], key[0])
            if endpoint is None or endpoint.status is UNSET:
                continue
            current = endpoint.status.current
            for item in current.ips:
                for name, address in addresses_of(item):
                    if name == pool:
                        found.append(Use(address, endpoint.namespace, endpoint.name, current.uid))
        return found

    # Nodes -----------------------------------------------------------------------------------------------------------------------------

    def all_reports(self) -> list[Report]:
        return [report for reports in self.reports.values() for report in reports]

    def current_reports(self, lag_s: float) -> list[Report]:
        """What all nodes said, with what was seen to move into and out of their leases since.

        A needy node is credited only with what it won within `lag_s`, so that a report which lags behind cannot hide its need for long; any
        other with everything, be it in use by now: then it will answer so.
        """
        moves = self.ledger.moves
        stale = {*moves.unreported(), *self.needy}
        found = [report for node, told in self.reports.items() if node not in stale for report in told]
        since = self._clock.now() - lag_s
        for node in stale:
            told = self.reports.get(node, ())
            if node in self.needy:
                found += [counting(report, moves.gained(node, report.pool, since)) for report in told]
                continue
            net = moves.net(node)
            found += [counting(report, net.pop(report.pool, 0)) for report in told]
            found += [Report(node, pool, free=count) for pool, count in net.items() if count > 0]
        return found

    def silent_nodes(self, after_s: float) -> frozenset[str]:
        """Nodes whose heartbeat was not seen to move for so long, by our own clock."""
        before = self._clock.now() - after_s
        return frozenset(node for node, at in self.beaten_at.items() if at < before)

    def leases_by_node(self) -> dict[str, list[tuple[Page, Lease]]]:
        found: dict[str, list[tuple[Page, Lease]]] = {}
        for block in self.ledger.blocks():
            for lease in block.leases:
                found.setdefault(lease.node.name, []).append((block.page, lease))
        return found

    # Pods ------------------------------------------------------------------------------------------------------------------------------

    def has_pod(self, uid: str) -> bool:
        return uid in self._uids

    def live_pods(self) -> frozenset[str]:
        return frozenset(self._uids)

    def endpoints_on(self, node: str) -> Iterable[EndpointView]:
        for key in tuple(self._endpoints_on.get(node, ())):
            if (endpoint := self.endpoints.get(key[1], key[0])) is not None:
                yield endpoint

    # Changes ---------------------------------------------------------------------------------------------------------------------------

    def _pools_changed(self, old: KubeObject | None, new: KubeObject | None) -> None:
        if isinstance(old, SpiderIPPool) and isinstance(new, SpiderIPPool):
            same = old.spec == new.spec and old.deleting == new.deleting and old.annotations == new.annotations
            same &= old.labels == new.labels
            if same and old.metadata.finalizers == new.metadata.finalizers:
                return  # a status write: our own
        self._book = None
        self.pools_touched.update(pool.name for pool in self.pools)
        self._kick(new or old)

    def _block_changed(self, old: IPBlock | None, new: IPBlock | None) -> None:
        stored = new or old
        assert stored is not None
        block: Block | None = None
        if new is not None:
            try:
                block = block_from_wire(new)
            except BadValue as error:
                log.error("block_unreadable", block=new.name, error=str(error))
        self.pools_touched.update(self.ledger.put(stored.name, block, self._clock.now()))
        self._kick(stored)

    def _mailbox_changed(self, old: IPNode | None, new: IPNode | None) -> None:
        stored = new or old
        assert stored is not None
        if new is None or new.status is UNSET:
            reports: tuple[Report, ...] = ()
        else:
            reports = tuple(
                Report(new.name, item.name, item.used, item.free, item.cooling, item.wanted, item.quarantined)
                for item in new.status.pools
            )
        before = self.reports.pop(stored.name, ())
        self.needy.discard(stored.name)
        if any(report.lacking for report in reports):
            self.needy.add(stored.name)
        if new is None:
            self.beaten_at.pop(stored.name, None)
        else:
            self.reports[stored.name] = reports
            if old is None or heartbeat_of(old) != heartbeat_of(new):
                self.beaten_at[stored.name] = self._clock.now()
        if old is None or new is None or heartbeat_of(old) != heartbeat_of(new):
            self.ledger.moves.reported(stored.name)
        if before != reports:
            self.pools_touched.update(report.pool for report in (*before, *reports))
        if old is None or new is None or old.status != new.status:
            self._kick(stored)  # else: a leader's own words, which are no news to one

    def _endpoint_changed(self, old: EndpointView | None, new: EndpointView | None) -> None:
        for endpoint, add in ((old, False), (new, True)):
            if endpoint is None or endpoint.status is UNSET:
                continue
            key = (endpoint.namespace, endpoint.name)
            current = endpoint.status.current
            _index(self._endpoints_on, current.node, key, add=add)
            for item in current.ips:
                for pool, _address in addresses_of(item):
                    _index(self._endpoints_in, pool, key, add=add)
                    self.pools_touched.add(pool)
        self._kick(new or old)

    def _pod_changed(self, old: PodView | None, new: PodView | None) -> None:
        for pod, add in ((old, False), (new, True)):
            if pod is None:
                continue
            key = (pod.namespace, pod.name)
            if add:
                self._uids[pod.uid] = key
            elif new is None or new.uid != pod.uid:
                self._uids.pop(pod.uid, None)
        for tell in self.pod_changes:
            tell(old, new)
        if new is None:
            self._kick(old)

    def _kick(self, changed: KubeObject | None) -> None:
        if changed is not None:
            for kick in self.kicks:
                kick(changed)


def addresses_of(item: AddressView) -> list[tuple[str, Address]]:
    """(pool, address) of one interface; what cannot be read is left out."""
    found: list[tuple[str, Address]] = []
    for text, pool in ((item.ipv4, item.ipv4_pool), (item.ipv6, item.ipv6_pool)):
        if text is UNSET or pool is UNSET:
            continue
        try:
            found.append((pool, Address.parse(text.partition("/")[0])))
        except BadValue as error:
            log.warning("endpoint_unreadable", error=str(error))
    return found


def slot_of(address: Address, domain: str) -> SlotId:
    return SlotId(domain, Family(address.family), address.value)


def heartbeat_of(mailbox: IPNode) -> tuple[int, str, str] | None:
    """What tells one heartbeat from another; None before the first."""
    if mailbox.status is UNSET or mailbox.status.heartbeat is UNSET:
        return None
    beat = mailbox.status.heartbeat
    return beat.sequence, beat.boot_id, beat.node_uid


def _index(index: dict[str, set[Key]], name: str, key: Key, *, add: bool) -> None:
    if add:
        index.setdefault(name, set()).add(key)
    elif (keys := index.get(name)) is not None:
        keys.discard(key)
        if not keys:
            del index[name]


def _report(error: Exception) -> None:
    log.warning("watch_failed", error=str(error), kind=type(error).__name__)
