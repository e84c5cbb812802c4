"""The pools' maps, kept while nothing changes: drawn from the leader's sight when somebody looks, and told to those who wait for changes.

A map of a pool with 65,536 addresses costs some hundred milliseconds of the loop that leads; hence it is drawn at most once per `GAP_S`, and
at most a twentieth of the time is spent on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adapters.clock import Clock
from crds.meta import UNSET
from crds.nephila import IPBlock, IPNode, IPNodeStatus
from ipam.addresses import Address, Family
from ipam.blocks import Block
from ipam.budget import Seen, divide
from ipam.errors import BadValue
from ipam.overlaps import overlaps
from ipam.ranges import RangeSet, Span
from ipam.slots import Page, SlotId
from leader.page import facts
from leader.sight import PoolBook, Sight
from leader.views import EndpointView, PodView

GAP_S = 0.5
MAX_SHARE = 0.05
FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Station:
    """Another station that was seen to use an address, and the node that saw it."""

    node: str
    address: Address
    mac: str
    pool: str
    seen: datetime
    how: str


@dataclass(slots=True)
class Drawn:
    """`pods`: value of each address that is recorded with a pod → (namespace, name). `ends`: when (Unix seconds) the next cooldown ends."""

    map: facts.Map
    pods: dict[int, tuple[str, str]]
    summary: dict[str, Any]
    ends: float
    cost_s: float
    at: float


class Pictures:
    """Over one `Sight`, from its first to its last moment. Not thread-safe: one event loop."""

    def __init__(self, sight: Sight, clock: Clock) -> None:
        self.sight = sight
        self._clock = clock
        self._drawn: dict[str, Drawn] = {}
        self._stale: set[str] = set()
        self._news: set[str] = set()
        self._book: PoolBook | None = None
        self._older: dict[str, list[str]] = {}
        self._by_pool: dict[str, list[tuple[Block, int]]] | None = None
        self._stations: list[Station] | None = None
        self._reported: dict[str, facts.Reported] | None = None
        self._bare: dict[tuple[str, str], PodView] = {}  # pods that have addresses, and no SpiderEndpoint
        sight.endpoints.listen(self._endpoint_changed)
        sight.pods.listen(self._pod_changed)
        sight.blocks.listen(self._block_changed)
        sight.mailboxes.listen(self._mailbox_changed)

    # Looking ---------------------------------------------------------------------------------------------------------------------------

    async def summaries(self) -> list[dict[str, Any]]:
        """Every pool by name; those that cannot be read too."""
        book = self._read_book()
        rows = []
        for name in [pool.name for pool in book.catalog]:
            drawn = self.drawn(name)
            if drawn is not None:
                rows.append(drawn.summary)
            await asyncio.sleep(0)  # whoever leads comes first
        stored = {pool.name for pool in self.sight.pools}
        rows += [facts.unreadable(name, str(error)) for name, error in book.unreadable.items() if name in stored]
        return sorted(rows, key=lambda row: str(row["name"]))

    def drawn(self, name: str) -> Drawn | None:
        """The map of a pool, not older than it must be; None if there is no such readable pool."""
        book = self._read_book()
        if book.catalog.get(name) is None:
            self._drawn.pop(name, None)
            return None
        found = self._drawn.get(name)
        if found is None or (self._is_stale(name, found) and self._is_due(found)):
            self._stale.discard(name)
            found = self._drawn[name] = self._draw(book, name)
        return found

    async def settle(self) -> set[str]:
        """Draw anew what has changed, as far as it is time for it; returns the names of these pools and of those that came or went."""
        self._read_book()
        self._news.update(name for name, found in self._drawn.items() if self._is_stale(name, found))
        told = set()
        for name in tuple(self._news):
            before = self._drawn.get(name)
            if before is not None and self._is_stale(name, before) and not self._is_due(before):
                continue
            self._news.discard(name)
            self.drawn(name)
            told.add(name)
            await asyncio.sleep(0)
        return told

    def stations(self) -> list[Station]:
        """What all nodes report of strangers on our addresses."""
        if self._stations is not None:
            return self._stations
        found = self._stations = []
        for mailbox in self.sight.mailboxes:
            for item in mailbox.status.conflicts if mailbox.status is not UNSET else ():
                try:
                    address = Address.parse(item.ip)
                except BadValue:
                    continue
                found.append(Station(mailbox.name, address, item.mac, item.pool, item.seen, item.how))
        return found

    def bare_pods(self) -> Iterable[PodView]:
        """Pods whose addresses are known from their status only."""
        return tuple(self._bare.values())

    # Drawing ---------------------------------------------------------------------------------------------------------------------------

    def _read_book(self) -> PoolBook:
        book = self.sight.book
        if book is not self._book:
            names = {pool.name for pool in book.catalog} | set(book.unreadable)
            self._news |= names | set(self._drawn)
            self._stale |= names
            self._book, self._by_pool = book, None
            self._older = {}
            for older, younger, _ in overlaps(book.catalog):
                self._older.setdefault(younger.name, []).append(older.name)
        return book

    def _is_stale(self, name: str, found: Drawn) -> bool:
        return name in self._stale or found.ends <= self._clock.wall()

    def _is_due(self, found: Drawn) -> bool:
        return self._clock.now() - found.at >= max(GAP_S, found.cost_s / MAX_SHARE)

    def _draw(self, book: PoolBook, name: str) -> Drawn:
        began, wall = self._clock.now(), self._clock.wall()
        pool = book.catalog.get(name)
        assert pool is not None
        pods = self._pods_in(book, name)
        held = RangeSet.of(pool.family, [(value, value) for value in pods])
        disputed: list[Span] = [
            (station.address.value, station.address.value)
            for station in self.stations()
            if station.address.family is pool.family and station.pool in ("", name)
        ]
        blocks = self._blocks_in(book, name)
        effective = book.coverage.effective[name]
        empty = RangeSet.empty(pool.family)
        budget = divide(pool, effective, Seen(empty, held, RangeSet.of(pool.family, disputed), blocks, wall))
        picture = facts.divided(pool, budget, held)
        row = facts.summary(picture, self._reported_of(name), ", ".join(self._older.get(name, ())[:5]))
        ends = min(
            (entry.until for block, _ in blocks for entry in block.cooling if entry.until > wall), default=float("inf")
        )
        now = self._clock.now()
        return Drawn(picture, pods, row, ends, now - began, now)

    def _pods_in(self, book: PoolBook, name: str) -> dict[int, tuple[str, str]]:
        found: dict[int, tuple[str, str]] = {}
        for pod in self._bare.values():
            for address in _pod_addresses(pod):
                if name in self._pools_of(book, address):
                    found[address.value] = (pod.namespace, pod.name)
        for use in self.sight.uses(name):
            found[use.address.value] = (use.namespace, use.pod)
        return found

    def _blocks_in(self, book: PoolBook, name: str) -> list[tuple[Block, int]]:
        if self._by_pool is None:
            self._by_pool = {}
            for block in self.sight.ledger.blocks():
                for pool, mask in book.coverage.of_page(block.page):
                    self._by_pool.setdefault(pool, []).append((block, mask))
        return self._by_pool.get(name, [])

    def _reported_of(self, name: str) -> facts.Reported:
        if self._reported is None:
            self._reported = {}
            for report in self.sight.all_reports():
                so_far = self._reported.get(report.pool, facts.Reported())
                self._reported[report.pool] = so_far.plus(report.cooling, report.lacking)
        return self._reported.get(name, facts.Reported())

    def _pools_of(self, book: PoolBook, address: Address) -> set[str]:
        domains = {pool.domain for pool in book.catalog}
        found = {book.coverage.pool_of(SlotId(domain, Family(address.family), address.value)) for domain in domains}
        return found - {""}

    # Changes ---------------------------------------------------------------------------------------------------------------------------

    def _touch(self, names: Iterable[str]) -> None:
        for name in names:
            self._stale.add(name)
            self._news.add(name)

    def _endpoint_changed(self, old: EndpointView | None, new: EndpointView | None) -> None:
        for endpoint in (old, new):
            if endpoint is not None and endpoint.status is not UNSET:
                for item in endpoint.status.current.ips:
                    self._touch(name for name in (item.ipv4_pool, item.ipv6_pool) if name is not UNSET)
        present = new or old
        assert present is not None
        key = (present.namespace, present.name)
        if new is not None:
            self._bare.pop(key, None)
        elif (pod := self.sight.pods.get(key[1], key[0])) is not None:
            self._note_bare(pod)

    def _pod_changed(self, old: PodView | None, new: PodView | None) -> None:
        if old is not None and self._bare.pop((old.namespace, old.name), None) is not None:
            self._touch_pod(old)
        if new is not None and self.sight.endpoints.get(new.name, new.namespace) is None:
            self._note_bare(new)

    def _note_bare(self, pod: PodView) -> None:
        if pod.status.pod_ips and not pod.spec.host_network and pod.status.phase not in FINISHED:
            self._bare[pod.namespace, pod.name] = pod
            self._touch_pod(pod)

    def _touch_pod(self, pod: PodView) -> None:
        if self._book is not None:
            for address in _pod_addresses(pod):
                self._touch(self._pools_of(self._book, address))

    def _block_changed(self, old: IPBlock | None, new: IPBlock | None) -> None:
        self._by_pool = None
        for block in (old, new):
            if block is not None and self._book is not None:
                try:
                    page = Page.parse(block.spec.page, block.spec.domain)
                except BadValue:
                    continue
                self._touch(name for name, mask in self._book.coverage.of_page(page) if mask)

    def _mailbox_changed(self, old: IPNode | None, new: IPNode | None) -> None:
        """A heartbeat alone changes nothing that is shown."""
        before, after = _shown(old), _shown(new)
        if before != after:
            self._stations = self._reported = None
            self._touch(item.name for item in (*before.pools, *after.pools))
            self._touch(item.pool for item in (*before.conflicts, *after.conflicts) if item.pool)


def _shown(mailbox: IPNode | None) -> IPNodeStatus:
    if mailbox is None or mailbox.status is UNSET:
        return IPNodeStatus()
    return IPNodeStatus(pools=mailbox.status.pools, conflicts=mailbox.status.conflicts)


def _pod_addresses(pod: PodView) -> list[Address]:
    found = []
    for item in pod.status.pod_ips or ():
        try:
            found.append(Address.parse(item.ip))
        except BadValue:
            continue
    return found
