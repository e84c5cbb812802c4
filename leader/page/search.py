"""Finds addresses by what people have in hand: an address or a part of it, a CIDR, a pod, a MAC, a node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from adapters.kube.store import Store, StoreError
from crds.core import POD
from crds.meta import UNSET
from ipam.addresses import Address, Family, Network
from ipam.errors import BadValue
from ipam.ranges import RangeSet, Span
from leader.page import facts
from leader.page.details import macs
from leader.page.pictures import Drawn, Pictures
from leader.sight import addresses_of

MAX_QUERY = 200
MAX_MATCHES = 50
MAX_RUNS = 2_000
MAX_PODS_READ = 5_000  # annotations of more pods are not fetched for a MAC
_PARTIAL = re.compile(r"(\d{1,3}\.){2,3}(\d{1,3})?|(\d{1,3}\.){2}\d{1,3}\.?")
_MAC = re.compile(r"[0-9a-f]{2}([:-][0-9a-f]{2}){2,5}[:-]?")

Match = dict[str, Any]


async def search(pictures: Pictures, store: Store, query: str) -> dict[str, Any]:
    """At most `MAX_MATCHES` matches, the most telling kind only; `more` says whether there are others, `note` what could not be looked at."""
    text = query.strip().lower()
    note = ""
    if not text or len(text) > MAX_QUERY:
        found: list[Match] = []
    elif (wanted := _addresses(text)) is not None:
        found = list(islice(_by_address(pictures, text, wanted), MAX_MATCHES + 1))
    elif _MAC.fullmatch(text):
        found, note = await _by_mac(pictures, store, text.replace("-", ":").rstrip(":"))
    else:
        found = list(islice(_by_node(pictures, text), MAX_MATCHES))
        found += islice(_by_pod(pictures, text), MAX_MATCHES + 1 - len(found))
    return {"query": query, "matches": found[:MAX_MATCHES], "more": len(found) > MAX_MATCHES, "note": note}


def _addresses(text: str) -> tuple[Family, Span] | None:
    """What addresses a text means; None if it is no address, CIDR or beginning of an IPv4 address."""
    try:
        if "/" in text:
            network = Network.parse(text)
            return network.family, (network.first, network.last)
        address = Address.parse(text)
        return address.family, (address.value, address.value)
    except BadValue:
        pass
    if not _PARTIAL.fullmatch(text):
        return None
    parts = [int(part) for part in text.split(".") if part]
    if any(part > 255 for part in parts) or len(parts) > 3:
        return None
    low = sum(part << 24 - 8 * index for index, part in enumerate(parts))
    return Family.V4, (low, low + (1 << 32 - 8 * len(parts)) - 1)


def _all(pictures: Pictures) -> Iterator[Drawn]:
    for pool in pictures.sight.book.catalog:
        if (drawn := pictures.drawn(pool.name)) is not None:
            yield drawn


def _match(kind: str, label: str, note: str, drawn: Drawn, chosen: RangeSet) -> Match | None:
    """`ranges`: [how far after `ordinal`, how many] of the chosen addresses of the grid."""
    listed = facts.runs(drawn.map.grid, chosen, MAX_RUNS)
    if not listed:
        return None
    first = listed[0][0]
    low = (chosen & drawn.map.grid).spans[0][0]
    return {
        "kind": kind,
        "label": label,
        "note": note,
        "pool": drawn.map.pool.name,
        "address": str(Address(chosen.family, low)),
        "ordinal": str(first),
        "ranges": [[facts.number(ordinal - first), facts.number(length)] for ordinal, length in listed],
    }


def _by_address(pictures: Pictures, text: str, wanted: tuple[Family, Span]) -> Iterator[Match]:
    family, span = wanted
    for drawn in _all(pictures):
        if drawn.map.grid.family is not family:
            continue
        chosen = RangeSet(family, (span,)) & drawn.map.grid
        note = ""
        if chosen.size == 1 and (state := drawn.map.state_of(chosen.spans[0][0])) is not None:
            key = drawn.pods.get(chosen.spans[0][0])
            note = state.name.lower() + (f", {key[0]}/{key[1]}" if key else "")
        elif chosen:
            note = f"{facts.number(chosen.size)} addresses of this pool"
        if found := _match("address", text, note, drawn, chosen):
            yield found


def _single(pictures: Pictures, kind: str, label: str, note: str, pool: str, address: Address) -> Match | None:
    drawn = pictures.drawn(pool)
    if drawn is None or drawn.map.grid.family is not address.family:
        return None
    chosen = RangeSet(address.family, ((address.value, address.value),))
    return _match(kind, label, f"{address}{note}", drawn, chosen)


def _by_pod(pictures: Pictures, text: str) -> Iterator[Match]:
    for endpoint in pictures.sight.endpoints:
        label = f"{endpoint.namespace}/{endpoint.name}"
        if text not in label or endpoint.status is UNSET:
            continue
        current = endpoint.status.current
        for item in current.ips:
            for pool, address in addresses_of(item):
                note = f" {item.interface} on {current.node}"
                if found := _single(pictures, "pod", label, note, pool, address):
                    yield found
    for pod in pictures.bare_pods():
        if text in (label := f"{pod.namespace}/{pod.name}"):
            for drawn in _all(pictures):
                for value, key in drawn.pods.items():
                    if key == (pod.namespace, pod.name):
                        address = Address(drawn.map.grid.family, value)
                        if found := _single(
                            pictures, "pod", label, f" on {pod.spec.node_name}", drawn.map.pool.name, address
                        ):
                            yield found


def _by_node(pictures: Pictures, text: str) -> Iterator[Match]:
    """Everything a node holds of a pool, in use or ready."""
    leased: dict[tuple[str, str], list[Span]] = {}
    for block in pictures.sight.ledger.blocks():
        for lease in block.leases:
            if text in lease.node.name:
                for pool, mask in pictures.sight.book.coverage.of_page(block.page):
                    if mask & lease.slots:
                        held = RangeSet.from_mask(block.page.family, block.page.base, mask & lease.slots)
                        leased.setdefault((lease.node.name, pool), []).extend(held.spans)
    for (node, pool), listed in sorted(leased.items()):
        drawn = pictures.drawn(pool)
        if drawn is None:
            continue
        chosen = RangeSet.of(drawn.map.grid.family, listed)
        used = (chosen & drawn.map.parts[facts.State.ALLOCATED]).size
        note = f"holds {chosen.size}, {used} of them in use"
        if found := _match("node", node, note, drawn, chosen):
            yield found


async def _by_mac(pictures: Pictures, store: Store, mac: str) -> tuple[list[Match], str]:
    """SpiderEndpoints, Multus' word on pods, and the strangers that nodes saw."""
    found = list(islice(_known_macs(pictures, mac), MAX_MATCHES + 1))
    if len(pictures.sight.pods) > MAX_PODS_READ:
        return found, f"annotations of more than {MAX_PODS_READ} pods are not searched"
    try:
        pods = (await store.list(POD)).items
    except StoreError as error:
        return found, f"annotations of pods could not be read: {error}"
    known = {match["address"] for match in found}
    for pod in pods:
        for given, text in macs(pod):
            if not given.startswith(mac) or text in known:
                continue
            told = {"kind": "mac", "label": given, "note": f"{text}, {pod.namespace}/{pod.name}"}
            wanted = _addresses(text)
            found += [match | told for match in _by_address(pictures, text, wanted)] if wanted else []
        if len(found) > MAX_MATCHES:
            break
    return found, ""


def _known_macs(pictures: Pictures, mac: str) -> Iterator[Match]:
    for endpoint in pictures.sight.endpoints:
        for item in endpoint.status.current.ips if endpoint.status is not UNSET else ():
            if item.mac and item.mac.lower().startswith(mac):
                for pool, address in addresses_of(item):
                    note = f", {endpoint.namespace}/{endpoint.name}"
                    if found := _single(pictures, "mac", item.mac.lower(), note, pool, address):
                        yield found
    for station in pictures.stations():
        if station.mac.lower().startswith(mac):
            note = f", not ours, seen by {station.node}"
            pools = [drawn.map.pool.name for drawn in _all(pictures)]
            for pool in pools if not station.pool else [station.pool]:
                if found := _single(pictures, "conflict", station.mac.lower(), note, pool, station.address):
                    yield found
