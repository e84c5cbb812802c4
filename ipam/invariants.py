"""The consistency predicate: what must hold of a cluster's addresses, checked over plain facts.

Used by tests, the simulation, the leader at its start and `nephila fsck`. Give the facts you have: a check whose facts are absent is skipped, never
guessed. I3 and I5 are about the order of events, which a picture of one moment cannot show; they are checked where the events are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ipam.blocks import Block, NodeRef, PinOwner
from ipam.ranges import RangeSet
from ipam.slots import Page, SlotId

FREE, ALLOCATED, COOLING, LEAVING, QUARANTINED = "free", "allocated", "cooling", "leaving", "quarantined"


@dataclass(frozen=True, slots=True)
class Violation:
    """`invariant`: I1 … I9 of design.md section 3; `subject`: the address, block, pod or pool it is about."""

    invariant: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.subject}: {self.text}"


@dataclass(frozen=True, slots=True)
class Allocation:
    """An address that a node's agent has given to a sandbox."""

    slot: SlotId
    node: NodeRef
    pod_uid: str
    container: str


@dataclass(frozen=True, slots=True)
class HeldSlot:
    """A slot of a node's leases as its agent sees it. `until`: Unix seconds; `reason`: why it is held back."""

    slot: SlotId
    node: NodeRef
    state: str
    until: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """An address that a SpiderEndpoint names."""

    slot: SlotId
    namespace: str
    name: str
    pod_uid: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """An ADD that waits for an address of one of these pools."""

    node: str
    pools: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Facts:
    """A picture of one moment. None or empty: not known, so not checked.

    `heard`: the nodes whose agents told everything (`allocations`, `held`). `nodes`: all Node objects. `live_pods`: UIDs of the pods that exist.
    `living_owners`: identities that still exist. `recordable`: UIDs of the pods whose SpiderEndpoint may stand: those that exist, finished or
    not, and the last ones of identities that are wanted. `effective`: what each pool may hand out. `lock_term`: the highest term a leader ever had.
    `quiet`: nothing is under way, so that every slot must be accounted for.
    """

    blocks: Sequence[Block] = ()
    allocations: Sequence[Allocation] = ()
    held: Sequence[HeldSlot] = ()
    heard: frozenset[NodeRef] = frozenset()
    endpoints: Sequence[EndpointAddress] = ()
    nodes: frozenset[NodeRef] | None = None
    live_pods: frozenset[str] | None = None
    living_owners: frozenset[PinOwner] | None = None
    recordable: frozenset[str] | None = None
    effective: Mapping[str, tuple[str, RangeSet]] = field(default_factory=dict)  # pool → (L2 domain, addresses)
    waiting: Sequence[Waiting] = ()
    reachable: frozenset[str] = frozenset()
    lock_term: int | None = None
    wall: float | None = None
    quiet: bool = False
    patience_s: float = 8.0


def violations(facts: Facts) -> tuple[Violation, ...]:
    """Everything that is wrong, in a stable order; empty if nothing is."""
    blocks = {block.page: block for block in facts.blocks}
    found: list[Violation] = []
    for check in (_one_owner, _one_allocator, _no_double_use, _pins_hold, _nothing_leaks, _no_stranding, _terms):
        found += check(facts, blocks)
    return tuple(found)


def _one_owner(facts: Facts, blocks: Mapping[Page, Block]) -> Iterator[Violation]:
    """I1 and what one block may say about itself."""
    if len(blocks) != len(facts.blocks):
        pages = [block.page for block in facts.blocks]
        for page in sorted({page for page in pages if pages.count(page) > 1}):
            yield Violation("I1", page.name, "two blocks arbitrate one page")
    for page, block in sorted(blocks.items()):
        for text in block.problems():
            name, _, rest = text.partition(": ")
            known = name in ("I1", "I6")
            yield Violation(name if known else "I1", page.name, rest if known else text)


def _one_allocator(facts: Facts, blocks: Mapping[Page, Block]) -> Iterator[Violation]:
    """I2, as far as a picture shows it: who allocates a slot has it leased. A slot taken by force from a node that still runs is marked suspect; one
    whose machine migrates, or whose migration failed, is named by the pin."""
    for item in facts.allocations:
        block = blocks.get(item.slot.page)
        lease = block.lease_of(item.node) if block else None
        if lease is not None and lease.slots & item.slot.bit:
            continue
        if block is not None and (block.suspect & item.slot.bit or _is_migrating(block, item)):
            continue
        holder = next((other.node.name for other in block.leases if other.slots & item.slot.bit), "") if block else ""
        leased = f"it is leased to {holder}" if holder else "nobody has it leased"
        yield Violation("I2", str(item.slot), f"allocated by {item.node.name} to pod {item.pod_uid}, but {leased}")


def _is_migrating(block: Block, item: Allocation) -> bool:
    """The pod's seat in the pin stands for a lease: its machine moves away, or came back without one after a migration that failed."""
    pin = block.pin_at(item.slot.value - item.slot.page.base)
    if pin is None or pin.source is None:
        return False
    return (pin.source.node, pin.source.pod_uid) == (item.node.name, item.pod_uid)


def one_machine(block: Block | None, slot: SlotId, pods: Collection[str]) -> bool:
    """Whether the two pods that have an address are the source and the target of one live migration, as the slot's pin says: the same machine,
    which runs in one of them at a time."""
    pin = block.pin_at(slot.value - slot.page.base) if block else None
    return pin is not None and pin.is_shared and {seat.pod_uid for seat in pin.seats} == set(pods)


def _no_double_use(facts: Facts, blocks: Mapping[Page, Block]) -> Iterator[Violation]:
    """I4: two live sandboxes never have one address, unless they are the two ends of one live migration."""
    by_slot: dict[SlotId, set[tuple[str, str, str]]] = defaultdict(set)
    for item in facts.allocations:
        by_slot[item.slot].add((item.node.name, item.pod_uid, item.container))
    for slot, users in sorted(by_slot.items()):
        pods = [uid for _, uid, _ in users]
        if len(users) > 1 and not (len(users) == 2 and one_machine(blocks.get(slot.page), slot, pods)):
            text = ", ".join(f"{container} of pod {uid} on {node}" for node, uid, container in sorted(users))
            yield Violation("I4", str(slot), f"allocated twice: {text}")
    told: dict[SlotId, dict[str, str]] = defaultdict(dict)
    for endpoint in facts.endpoints:
        if facts.live_pods is None or endpoint.pod_uid in facts.live_pods:
            told[endpoint.slot][endpoint.pod_uid] = f"{endpoint.namespace}/{endpoint.name}"
    for slot, names in sorted(told.items()):
        if len(names) > 1 and not one_machine(blocks.get(slot.page), slot, names):
            yield Violation("I4", str(slot), f"SpiderEndpoints of {' and '.join(sorted(names.values()))} name it")


def _pins_hold(facts: Facts, blocks: Mapping[Page, Block]) -> Iterator[Violation]:
    """I6: a pinned slot is allocated to its identity's present pod or to nobody."""
    for item in facts.allocations:
        block = blocks.get(item.slot.page)
        pin = block.pin_at(item.slot.value - item.slot.page.base) if block else None
        if pin is None or pin.seats_pod(item.pod_uid):
            continue
        holder = f"held by pod {pin.holder.pod_uid}" if pin.holder else "held by no pod"
        who = f"{pin.owner.kind} {pin.owner.namespace}/{pin.owner.name}"
        yield Violation("I6", str(item.slot), f"pinned to {who} ({holder}), but allocated to pod {item.pod_uid}")


def _nothing_leaks(facts: Facts, blocks: Mapping[Page, Block]) -> Iterator[Violation]:
    """I7: when the world is quiet, every slot is free, leased and free, allocated to a live sandbox, pinned to a living identity, or held back
    with a reason and an end."""
    if not facts.quiet:
        return
    yield from _leaked_slots(facts, blocks)
    if facts.living_owners is not None:
        living = {replace(owner, uid="") for owner in facts.living_owners}
        for page, block in sorted(blocks.items()):
            for pin in block.pins:
                if replace(pin.owner, uid="") not in living:
                    who = f"{pin.owner.kind} {pin.owner.namespace}/{pin.owner.name}"
                    yield Violation("I7", f"{page.name}[{pin.slot}]", f"pinned to {who}, which does not exist any more")
    if facts.live_pods is not None:
        for item in facts.allocations:
            if item.pod_uid not in facts.live_pods:
                yield Violation(
                    "I7", str(item.slot), f"allocated on {item.node.name} to pod {item.pod_uid}, which is gone"
                )
    yield from _orphaned_endpoints(facts)


def _leaked_slots(facts: Facts, blocks: Mapping[Page, Block]) -> Iterator[Violation]:
    held = {(item.slot, item.node): item for item in facts.held}
    for page, block in sorted(blocks.items()):
        for lease in block.leases:
            if facts.nodes is not None and lease.node not in facts.nodes:
                yield Violation(
                    "I7", page.name, f"leased to {lease.node.name} ({lease.node.uid}), which does not exist"
                )
            if lease.node in facts.heard:
                for slot in page.slot_ids(lease.slots):
                    yield from _accounted(slot, lease.node, held.get((slot, lease.node)), facts.wall)


def _accounted(slot: SlotId, node: NodeRef, item: HeldSlot | None, wall: float | None) -> Iterator[Violation]:
    if item is None:
        yield Violation("I7", str(slot), f"leased to {node.name}, whose agent does not know it")
    elif item.state == LEAVING:
        yield Violation("I7", str(slot), f"still leaving {node.name}")
    elif item.state == QUARANTINED and not item.reason:
        yield Violation("I7", str(slot), f"quarantined on {node.name} without a reason")
    elif item.state == COOLING and (item.until is None or (wall is not None and item.until <= wall)):
        yield Violation("I7", str(slot), f"cooling on {node.name} without an end")


def _orphaned_endpoints(facts: Facts) -> Iterator[Violation]:
    """By what agents tell, once all have told; and by which pods and identities there are."""
    heard = {node.name for node in facts.heard}
    allocated = {(item.slot, item.pod_uid) for item in facts.allocations}
    complete = bool(heard) and facts.nodes is not None and {node.name for node in facts.nodes} <= heard
    for endpoint in facts.endpoints:
        who = f"SpiderEndpoint {endpoint.namespace}/{endpoint.name}"
        if complete and (endpoint.slot, endpoint.pod_uid) not in allocated:
            yield Violation("I7", str(endpoint.slot), f"{who} names it, but no agent has given it out")
        elif facts.recordable is not None and endpoint.pod_uid not in facts.recordable:
            yield Violation("I7", str(endpoint.slot), f"{who} names it for pod {endpoint.pod_uid}, which is gone")


def _no_stranding(facts: Facts, blocks: Mapping[Page, Block]) -> Iterator[Violation]:
    """I8: nobody waits beyond the bound while an address of its pools is free on a node that can be reached, or leased by nobody."""
    overdue = [item for item in facts.waiting if item.seconds > facts.patience_s]
    for pool in sorted({name for item in overdue for name in item.pools}):
        if free := _free_addresses(pool, facts, blocks):
            nodes = ", ".join(sorted({item.node for item in overdue if pool in item.pools}))
            yield Violation("I8", pool, f"{nodes} waits although {free} addresses are free")


def _free_addresses(pool: str, facts: Facts, blocks: Mapping[Page, Block]) -> int:
    if pool not in facts.effective:
        return 0
    domain, addresses = facts.effective[pool]
    free = addresses.size
    for page, block in blocks.items():
        if page.domain == domain and page.family is addresses.family:
            usable = addresses.mask(page.base)
            free -= ((block.leased | block.pinned | block.suspect) & usable).bit_count()
    for item in facts.held:
        if item.state == FREE and item.node.name in facts.reachable and item.slot.domain == domain:
            free += item.slot.family is addresses.family and item.slot.value in addresses
    return free


def _terms(facts: Facts, blocks: Mapping[Page, Block]) -> Iterator[Violation]:
    """I9, as far as a picture shows it: no block was written under a term that no leader has had."""
    if facts.lock_term is None:
        return
    for page, block in sorted(blocks.items()):
        if block.term > facts.lock_term:
            yield Violation("I9", page.name, f"term {block.term} is above the LeaderLock's {facts.lock_term}")


def summary(found: Iterable[Violation]) -> dict[str, int]:
    """How many of each invariant."""
    counts: dict[str, int] = {}
    for item in found:
        counts[item.invariant] = counts.get(item.invariant, 0) + 1
    return dict(sorted(counts.items()))
