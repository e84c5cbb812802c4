"""The cluster as one picture, read once: what every view is a function of.

`Cluster` holds objects as they were read and derives, each at most once, what views ask for. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from crds import convert
from crds.blocks import block_from_wire
from crds.core import Namespace, Node, Pod
from crds.meta import UNSET
from crds.nephila import ConflictSeen, IPBlock, IPNode, LeaderLock
from crds.spiderpool import SpiderEndpoint, SpiderIPPool, SpiderReservedIP, SpiderSubnet
from ipam.addresses import Address, Family
from ipam.blocks import Block
from ipam.catalog import Catalog
from ipam.coverage import Coverage
from ipam.errors import BadValue
from ipam.overlaps import arbitrate, overlaps
from ipam.pools import Pool
from ipam.ranges import RangeSet
from ipam.slots import Page, SlotId

FINISHED = ("Succeeded", "Failed")
ENDPOINT_SOURCE, POD_SOURCE = "SpiderEndpoint", "pod.status.podIPs"


@dataclass(frozen=True, slots=True)
class Holding:
    """An address that a pod is recorded with. `alive`: a pod of that UID exists and has not finished. `source`: what records it."""

    slot: SlotId
    pool: str
    namespace: str
    name: str
    uid: str
    node: str
    interface: str
    alive: bool
    source: str

    @property
    def pod(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Conflict:
    """An address that another station was seen to use, and the node that saw it."""

    node: str
    seen: ConflictSeen


@dataclass(frozen=True)
class Cluster:
    """`wall`: Unix seconds of the reading. `undecodable`: objects that exist but could not be read at all."""

    wall: float
    stored_pools: tuple[SpiderIPPool, ...] = ()
    stored_reserved: tuple[SpiderReservedIP, ...] = ()
    stored_subnets: tuple[SpiderSubnet, ...] = ()
    stored_blocks: tuple[IPBlock, ...] = ()
    mailboxes: tuple[IPNode, ...] = ()
    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    endpoints: tuple[SpiderEndpoint, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    lock: LeaderLock | None = None
    undecodable: tuple[str, ...] = ()

    # Pools

    @cached_property
    def pools(self) -> convert.Readable[Pool]:
        return convert.readable(self.stored_pools, convert.pool)

    @cached_property
    def subnets(self) -> Mapping[str, Pool]:
        """The readable SpiderSubnets by name."""
        return {subnet.name: subnet for subnet in convert.readable(self.stored_subnets, convert.subnet).values}

    @cached_property
    def catalog(self) -> Catalog:
        return Catalog(self.pools.values)

    @cached_property
    def reserved_by_name(self) -> Mapping[str, RangeSet]:
        """The addresses that each readable SpiderReservedIP withholds."""
        found: dict[str, RangeSet] = {}
        for stored in self.stored_reserved:
            try:
                addresses = convert.reserved(stored)
            except BadValue:
                continue
            if addresses is not None:
                found[stored.name] = addresses
        return found

    @cached_property
    def reserved(self) -> Mapping[Family, RangeSet]:
        return convert.reserved_union(self.reserved_by_name.values())

    @cached_property
    def effective(self) -> Mapping[str, RangeSet]:
        """What each pool may hand out: usable, not reserved, not claimed by an older pool."""
        return arbitrate(self.catalog, self.reserved)

    @cached_property
    def coverage(self) -> Coverage:
        return Coverage(self.effective, {pool.name: pool.domain for pool in self.catalog})

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Every L2 domain that a pool or block names, the unnamed one first."""
        return tuple(sorted({"", *(pool.domain for pool in self.catalog), *(page.domain for page in self.blocks)}))

    @cached_property
    def overlapping(self) -> tuple[tuple[Pool, Pool, RangeSet], ...]:
        """(older, younger, shared addresses)."""
        return tuple(overlaps(self.catalog))

    # Blocks

    @cached_property
    def blocks(self) -> Mapping[Page, Block]:
        return {block.page: block for block in self._read_blocks if isinstance(block, Block)}

    @cached_property
    def block_errors(self) -> Mapping[str, BadValue]:
        """By name, why a block cannot be understood: nobody allocates from it."""
        found = zip(self.stored_blocks, self._read_blocks, strict=True)
        return {stored.name: error for stored, error in found if isinstance(error, BadValue)}

    @cached_property
    def _read_blocks(self) -> tuple[Block | BadValue, ...]:
        return tuple(_block(stored) for stored in self.stored_blocks)

    # Pods and nodes

    @cached_property
    def pod_of_uid(self) -> Mapping[str, Pod]:
        return {pod.uid: pod for pod in self.pods}

    @cached_property
    def pod_of_key(self) -> Mapping[tuple[str, str], Pod]:
        return {(pod.namespace, pod.name): pod for pod in self.pods}

    @cached_property
    def node_of_name(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def mailbox_of_name(self) -> Mapping[str, IPNode]:
        return {mailbox.name: mailbox for mailbox in self.mailboxes}

    def is_alive(self, uid: str) -> bool:
        pod = self.pod_of_uid.get(uid)
        return pod is not None and pod.status.phase not in FINISHED

    # Addresses in use

    @cached_property
    def holdings(self) -> tuple[Holding, ...]:
        """Every recorded use of an address, by SpiderEndpoints first; what only `status.podIPs` tells comes last."""
        told = tuple(self._told())
        known = {(holding.uid, holding.slot.value) for holding in told}
        return told + tuple(self._untold(known))

    @cached_property
    def holders(self) -> Mapping[SlotId, tuple[Holding, ...]]:
        found: dict[SlotId, tuple[Holding, ...]] = {}
        for holding in self.holdings:
            found[holding.slot] = (*found.get(holding.slot, ()), holding)
        return found

    @cached_property
    def holdings_of_uid(self) -> Mapping[str, tuple[Holding, ...]]:
        found: dict[str, tuple[Holding, ...]] = {}
        for holding in self.holdings:
            found[holding.uid] = (*found.get(holding.uid, ()), holding)
        return found

    def held_in(self, family: Family, domain: str) -> RangeSet:
        """The addresses of one family and L2 domain that are recorded with any pod."""
        return self._held.get((family, domain)) or RangeSet.empty(family)

    @cached_property
    def _held(self) -> Mapping[tuple[Family, str], RangeSet]:
        values: dict[tuple[Family, str], list[tuple[int, int]]] = {}
        for slot in self.holders:
            values.setdefault((slot.family, slot.domain), []).append((slot.value, slot.value))
        return {key: RangeSet.of(key[0], spans) for key, spans in values.items()}

    @cached_property
    def pins_of(self) -> Mapping[tuple[str, str], tuple[tuple[str, SlotId], ...]]:
        """(namespace, name) of an identity → (interface, address) of its pins."""
        found: dict[tuple[str, str], tuple[tuple[str, SlotId], ...]] = {}
        for page, block in sorted(self.blocks.items()):
            for pin in block.pins:
                key = (pin.owner.namespace, pin.owner.name)
                slot = SlotId(page.domain, page.family, page.base + pin.slot)
                found[key] = (*found.get(key, ()), (pin.owner.interface, slot))
        return found

    @cached_property
    def blocks_of_pool(self) -> Mapping[str, tuple[tuple[Block, int], ...]]:
        """The blocks with addresses that a pool may hand out, and the mask of its slots there."""
        found: dict[str, list[tuple[Block, int]]] = {}
        for page, block in self.blocks.items():
            for name, mask in self.coverage.of_page(page):
                if mask:
                    found.setdefault(name, []).append((block, mask))
        return {name: tuple(listed) for name, listed in found.items()}

    @cached_property
    def stock_nodes(self) -> Mapping[str, int]:
        """How many nodes report that they hold or want addresses of each pool."""
        found: dict[str, int] = {}
        for mailbox in self.mailboxes:
            for stock in mailbox.status.pools if mailbox.status is not UNSET else ():
                found[stock.name] = found.get(stock.name, 0) + 1
        return found

    @cached_property
    def conflicts(self) -> tuple[Conflict, ...]:
        return tuple(
            Conflict(mailbox.name, seen)
            for mailbox in self.mailboxes
            if mailbox.status is not UNSET
            for seen in mailbox.status.conflicts
        )

    def _told(self) -> Iterator[Holding]:
        for endpoint in self.endpoints:
            if endpoint.status is UNSET:
                continue
            current = endpoint.status.current
            alive = self.is_alive(current.uid)
            for item in current.ips:
                for text, pool in ((item.ipv4, item.ipv4_pool), (item.ipv6, item.ipv6_pool)):
                    address = parsed(text) if text else None
                    if address is None:
                        continue
                    name = pool or ""
                    domain = self._domain_of(name)
                    slot = SlotId(domain, address.family, address.value)
                    yield Holding(
                        slot,
                        name,
                        endpoint.namespace,
                        endpoint.name,
                        current.uid,
                        current.node,
                        item.interface,
                        alive,
                        ENDPOINT_SOURCE,
                    )

    def _untold(self, known: set[tuple[str, int]]) -> Iterator[Holding]:
        """Pods whose SpiderEndpoint does not exist (yet), as far as their first interface shows."""
        for pod in self.pods:
            if pod.spec.host_network or pod.status.phase in FINISHED:
                continue
            for item in pod.status.pod_ips or ():
                address = parsed(item.ip)
                if address is None or (pod.uid, address.value) in known:
                    continue
                for domain in self.domains:
                    slot = SlotId(domain, address.family, address.value)
                    if name := self.coverage.pool_of(slot):
                        yield Holding(
                            slot, name, pod.namespace, pod.name, pod.uid, pod.spec.node_name, "eth0", True, POD_SOURCE
                        )
                        break

    def _domain_of(self, pool: str) -> str:
        found = self.catalog.get(pool)
        return found.domain if found else ""


def parsed(text: str) -> Address | None:
    """An address, with or without prefix length; None if it is none."""
    try:
        return Address.parse(text.partition("/")[0])
    except BadValue:
        return None


def _block(stored: IPBlock) -> Block | BadValue:
    try:
        return block_from_wire(stored)
    except BadValue as error:
        return error
