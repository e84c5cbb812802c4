"""`nephila fsck`: the consistency predicate over what the API shows of a live cluster. Pure.

What only agents know (their journals) is not in the API; a pod's SpiderEndpoint or `podIPs` stands for its allocation. Objects are read one kind
after the other, so a cluster at work can look inconsistent for a moment: the caller reads twice and keeps what both pictures show (`lasting`).

Not checked: I3 and I5, which are about the order of events, and I8 (no stranding). What nodes want and have free is in their `IPNode.status`, but as
old as a heartbeat, 30 s, and without saying how long an ADD waits or which free addresses it may use: a healthy cluster would look stranded.
"""

from __future__ import annotations

from collections.abc import Sequence

from cli.cluster import FINISHED, Cluster, Holding
from cli.output import Record
from cli.words import count
from crds.convert import ordinals
from crds.core import StatefulSet
from crds.identities import CLAIM, MACHINE
from crds.meta import UNSET
from ipam.blocks import NodeRef, PinOwner
from ipam.invariants import Allocation, EndpointAddress, Facts, Violation, violations
from ipam.owners import is_wanted_ordinal


class Finding(Record):
    """`invariant`: I1 … I9 (docs/architecture.md), or `read` for an object that cannot be understood."""

    invariant: str
    subject: str
    text: str


class Report(Record):
    """What was looked at, and what is wrong with it."""

    blocks: int
    pods: int
    endpoints: int
    nodes: int
    violations: tuple[Finding, ...]


def report(cluster: Cluster, found: Sequence[Finding]) -> Report:
    return Report(
        blocks=len(cluster.stored_blocks),
        pods=len(cluster.pods),
        endpoints=len(cluster.endpoints),
        nodes=len(cluster.nodes),
        violations=tuple(found),
    )


def check(cluster: Cluster, sets: Sequence[StatefulSet] | None = None) -> tuple[Finding, ...]:
    """Everything that is wrong. `sets` given: nothing is under way, so leaks (I7) are looked for too."""
    found = [Finding(invariant="read", subject=name, text="the object does not decode") for name in cluster.undecodable]
    for name, error in cluster.block_errors.items():
        word, _, rest = error.problem.partition(": ")
        known = word in ("I1", "I6")
        text = rest if known else error.problem
        found.append(Finding(invariant=word if known else "read", subject=name, text=text))
    for name, error in cluster.pools.unreadable.items():
        found.append(Finding(invariant="read", subject=f"SpiderIPPool {name}", text=str(error)))
    found += map(_finding, violations(facts_of(cluster, sets)))
    return tuple(found)


def lasting(first: Sequence[Finding], second: Sequence[Finding]) -> tuple[Finding, ...]:
    """What two pictures, some seconds apart, both show."""
    before = set(first)
    return tuple(item for item in second if item in before)


def facts_of(cluster: Cluster, sets: Sequence[StatefulSet] | None) -> Facts:
    """What the API knows, as the predicate asks for it."""
    nodes = {node.name: NodeRef(node.name, node.uid) for node in cluster.nodes}
    return Facts(
        blocks=tuple(cluster.blocks.values()),
        allocations=tuple(
            Allocation(holding.slot, nodes.get(holding.node, NodeRef(holding.node, "")), holding.uid, holding.interface)
            for holding in cluster.holdings
            if holding.alive and holding.pool and not is_adopted(cluster, holding)
        ),
        endpoints=tuple(
            EndpointAddress(holding.slot, holding.namespace, holding.name, holding.uid) for holding in cluster.holdings
        ),
        nodes=frozenset(nodes.values()),
        live_pods=frozenset(pod.uid for pod in cluster.pods if pod.status.phase not in FINISHED),
        living_owners=None if sets is None else _living(cluster, sets),
        recordable=None if sets is None else _recordable(cluster, sets),
        effective={pool.name: (pool.domain, cluster.effective[pool.name]) for pool in cluster.catalog},
        lock_term=cluster.lock.spec.term if cluster.lock else None,
        wall=cluster.wall,
        quiet=sets is not None,
    )


def is_adopted(cluster: Cluster, holding: Holding) -> bool:
    """Whether the address was taken over from another IPAM: pinned to this very pod, and in nobody's lease, since no agent gave it out."""
    block = cluster.blocks.get(holding.slot.page)
    pin = block.pin_at(holding.slot.value - holding.slot.page.base) if block else None
    if block is None or pin is None or pin.holder is None:
        return False
    return pin.holder.pod_uid == holding.uid and not block.leased & holding.slot.bit


def _living(cluster: Cluster, sets: Sequence[StatefulSet]) -> frozenset[PinOwner]:
    """The pinned identities that still exist: pods, and ordinals that their StatefulSet wants. Of machines and claims nothing is known here; the
    leader ends their pins."""
    wanted = {(item.namespace, item.name): ordinals(item) for item in sets}
    living = set()
    for block in cluster.blocks.values():
        for pin in block.pins:
            owner = pin.owner
            present = owner.kind in (MACHINE, CLAIM) or (owner.namespace, owner.name) in cluster.pod_of_key
            for (namespace, name), (start, replicas) in wanted.items():
                present = present or (
                    namespace == owner.namespace
                    and is_wanted_ordinal(owner.name, set_name=name, start=start, replicas=replicas)
                )
            if present:
                living.add(owner)
    return frozenset(living)


def _recordable(cluster: Cluster, sets: Sequence[StatefulSet]) -> frozenset[str]:
    """Whose SpiderEndpoints may stand, as the leader judges it before it removes one. Of machines nothing is known here: theirs may."""
    wanted = {(item.namespace, item.name): ordinals(item) for item in sets if not item.deleting}
    found = set(cluster.pod_of_uid)
    for endpoint in cluster.endpoints:
        if endpoint.status is UNSET:
            continue
        kind, owner = endpoint.status.owner_controller_type, endpoint.status.owner_controller_name
        kept = kind == MACHINE and owner == endpoint.name
        if kind == "StatefulSet" and (size := wanted.get((endpoint.namespace, owner))) is not None:
            kept = is_wanted_ordinal(endpoint.name, set_name=owner, start=size[0], replicas=size[1])
        if kept:
            found.add(endpoint.status.current.uid)
    return frozenset(found)


def _finding(violation: Violation) -> Finding:
    return Finding(invariant=violation.invariant, subject=violation.subject, text=violation.text)


def report_text(found: Report) -> str:
    """For people."""
    looked = (
        f"{count(found.blocks, 'block')}, {count(found.endpoints, 'SpiderEndpoint')}, {count(found.pods, 'pod')}, "
        f"{count(found.nodes, 'node')}"
    )
    if not found.violations:
        return f"consistent: {looked}\n"
    lines = [f"{count(len(found.violations), 'violation')} in {looked}"]
    lines += [f"  {item.invariant:<4}  {item.subject}: {item.text}" for item in found.violations]
    return "\n".join(lines) + "\n"
