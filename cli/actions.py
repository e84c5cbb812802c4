"""The two commands that change something: `node fence` and `release`. Each write is one compare-and-swap, behind a guard.

`release` never takes a slot out of a living node's lease: only that node's agent knows whether it gave the slot to a sandbox. It removes what a
pod, a pin, a cooldown or a dead node has left behind.
"""

from __future__ import annotations

from dataclasses import replace

from adapters.kube.store import Conflict, Deleted, Missing, Store, Stored, StoreError
from cli.cluster import Cluster, Holding
from cli.failures import CliError, Exit
from cli.views.nodes import heartbeat_age, standing_mark
from cli.views.nodes import state_of as node_state
from cli.words import age
from crds.blocks import block_changes, block_from_wire
from crds.core import OUT_OF_SERVICE
from crds.nephila import IP_BLOCK, IP_NODE
from crds.spiderpool import ENDPOINT
from ipam.blocks import Block, Cooling
from ipam.errors import BadValue
from ipam.lease import LeaseRefused, absolve, unpin
from ipam.slots import SlotId

CONFIRMED = "nephila.io/reclaim-confirmed"
"""Annotation of an IPNode: the id of the fence mark that an operator has confirmed (the leader reads it; design.md section 4, point 6 d)."""


async def fence(store: Store, cluster: Cluster, node: str) -> str:
    """Confirm the leader's fence mark on a node: an operator states that it is powered off. Returns what was done, and under which policy it counts:
    the API does not tell which one the leader has.

    Refused while the node shows life, and as long as no mark stands: a confirmation belongs to one mark, so that it cannot outlive the silence.
    """
    mailbox = cluster.mailbox_of_name.get(node)
    if mailbox is None and node not in cluster.node_of_name:
        raise CliError(f"node {node!r} does not exist and has no IPNode", "see `nephila nodes`", code=Exit.BAD_ANSWER)
    state = node_state(cluster, node)
    if state == "Ready":
        last = age(heartbeat_age(cluster, node) or 0.0)
        message = f"node {node} is alive: its agent's last heartbeat is {last} old"
        fix = "power it off first; a running node that is reclaimed loses its addresses"
        raise CliError(message, fix, code=Exit.REFUSED)
    mark = standing_mark(mailbox) if mailbox else ""
    if mailbox is None or not mark:
        message = (
            f"no fence mark stands on node {node} ({state}): the leader sets it once the silence has lasted its time"
        )
        fix = "repeat when `nephila nodes` says Fenced, or give --wait SECONDS; `nephila status` says whether anybody leads"
        raise CliError(message, fix, code=Exit.REFUSED)
    changes = {"metadata": {"annotations": {CONFIRMED: mark}}}
    outcome = await store.patch(IP_NODE, node, changes, resource_version=mailbox.resource_version)
    _require_written(outcome, f"IPNode {node}")
    return (
        f"fence mark {mark} of node {node} is confirmed. This counts where the leader's reclaim.unreachable is Confirm: after the wait it then takes "
        f"the addresses whose pods are gone; each is probed before reuse.\nWith Probe, the default, it takes them without this; with Never, "
        f"not even now. Addresses of pods that still exist stay theirs. If the machine is off for good, say so to Kubernetes too:\n"
        f"  kubectl taint nodes {node} {OUT_OF_SERVICE}=nodeshutdown:NoExecute"
    )


async def release(store: Store, cluster: Cluster, slot: SlotId) -> list[str]:
    """Free one address from what was left behind. Returns what was done, one line each. Raises CliError if a guard forbids it."""
    holders = cluster.holders.get(slot, ())
    living = [holding for holding in holders if holding.alive]
    if living:
        message = (
            f"{slot} is in use: pod {living[0].pod} ({living[0].interface}) on {living[0].node or 'no node'} has it"
        )
        raise CliError(message, "delete the pod; its address is freed with it", code=Exit.REFUSED)
    done = [await _drop_endpoint(store, cluster, holding) for holding in holders]
    done += await _clean_block(store, cluster, slot)
    if not done:
        raise CliError(f"{slot}: nothing to release: {_why_nothing(cluster, slot)}", code=Exit.BAD_ANSWER)
    return done


async def _drop_endpoint(store: Store, cluster: Cluster, holding: Holding) -> str:
    found = next(item for item in cluster.endpoints if (item.namespace, item.name) == (holding.namespace, holding.name))
    # Only as it was read: a new pod of that name may have written it anew meanwhile.
    outcome = await store.delete(
        ENDPOINT,
        found.name,
        namespace=found.namespace,
        uid=found.uid,
        resource_version=found.resource_version,
    )
    _require_written(outcome, f"SpiderEndpoint {holding.pod}")
    return f"SpiderEndpoint {holding.pod} deleted: its pod is gone"


async def _clean_block(store: Store, cluster: Cluster, slot: SlotId) -> list[str]:
    """Drop the suspect mark, or else the pin of an identity that does not run, and the cooldown, by one compare-and-swap on a fresh read."""
    name = slot.page.name
    try:
        stored = await store.get(IP_BLOCK, name)
        if stored is None:
            return []
        before = block_from_wire(stored)
    except StoreError as error:
        raise CliError(f"IPBlock {name} could not be read: {error}", "try again", code=Exit.CLUSTER) from error
    except BadValue as error:
        raise CliError(str(error), code=Exit.REFUSED) from error
    after, done = cleaned(before, slot, cluster)
    if after == before:
        return []
    outcome = await store.patch(IP_BLOCK, name, block_changes(after), resource_version=stored.resource_version)
    _require_written(outcome, f"IPBlock {name}")
    return done


def cleaned(block: Block, slot: SlotId, cluster: Cluster) -> tuple[Block, list[str]]:
    """The block without what may be dropped for this slot, and what that is. Pure. Raises CliError if its pin is in use.

    A pin outlives the end of a suspect mark, which is all that keeps its identity from the address; a second `release` drops it.
    """
    ordinal = slot.value - slot.page.base
    after, done = block, []
    pin = block.pin_at(ordinal)
    whose = f"{pin.owner.kind} {pin.owner.namespace}/{pin.owner.name}" if pin is not None else ""
    for seat in pin.seats if pin is not None else ():
        if cluster.is_alive(seat.pod_uid):
            message = f"{slot} is pinned to {whose}, which runs on {seat.node}"
            raise CliError(message, "delete the pod first", code=Exit.REFUSED)
    if slot.bit & block.suspect & ~block.leased:
        after = absolve(block, slot.bit)
        kept = f"; it stays pinned to {whose}" if pin is not None else ""
        done.append(
            f"suspect mark cleared, on your word that nobody uses the address: it is handed out like any other{kept}"
        )
    elif pin is not None:
        vacant = tuple(replace(item, holder=None, source=None) if item is pin else item for item in block.pins)
        try:
            after = unpin(replace(block, pins=vacant), ordinal, pin.owner, block.term)
        except LeaseRefused as refusal:
            raise CliError(f"{slot}: {refusal}", code=Exit.REFUSED) from refusal
        done.append(f"pin of {whose} dropped: it gets another address")
    if not slot.bit & block.leased and slot.bit & block.cooling_at(cluster.wall):
        rest = (Cooling(entry.slots & ~slot.bit, entry.until) for entry in after.cooling)
        after = replace(after, cooling=tuple(entry for entry in rest if entry.slots), epoch=block.epoch + 1)
        done.append("cooldown ended: the address is probed before its next use, where addresses are verified")
    return after, done


def _why_nothing(cluster: Cluster, slot: SlotId) -> str:
    block = cluster.blocks.get(slot.page)
    lease = next((lease for lease in block.leases if lease.slots & slot.bit), None) if block else None
    if block is None or lease is None:
        return "nobody has it"
    state = node_state(cluster, lease.node.name)
    if state == "Ready" and block.suspect & slot.bit:
        return f"node {lease.node.name} has it leased to probe it, and gives it back if it cannot"
    if state == "Ready":
        return f"node {lease.node.name} holds it ready, and gives it back when another node needs it"
    return (
        f"node {lease.node.name} ({state}) has it leased; the leader reclaims it after the fence wait, "
        f"see `nephila node fence {lease.node.name}`"
    )


def _require_written(outcome: object, what: str) -> None:
    match outcome:
        case Stored() | Deleted() | Missing():
            return
        case Conflict(message):
            raise CliError(
                f"{what} was changed by somebody else: {message}", "look again and repeat", code=Exit.REFUSED
            )
        case other:
            raise CliError(
                f"{what} could not be written: {other}", "check permissions, then look again", code=Exit.CLUSTER
            )
