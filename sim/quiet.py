"""What must hold once faults have stopped and the world has had time: liveness (I8) and no leaks (I7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crds.core import NODE
from ipam.invariants import violations
from ipam.slots import SlotId, format_slots
from ipam.stock import State
from sim.facts import endpoints, quiet_facts
from sim.plan import IDENTITY

if TYPE_CHECKING:
    from nodeagent.agent import Agent
    from sim.machine import Machine
    from sim.plan import PlannedPool
    from sim.world import World

IDLE = (State.READY, State.UNPROVEN)


def unfinished(world: World) -> list[tuple[str, str]]:
    """(invariant, what is not as it must be) for everything that is not; empty if the world is quiet and whole."""
    found = [*world.edits.unfinished(), *_not_there(world), *_not_running(world), *_not_serving(world), *_leaks(world)]
    return found or [(item.invariant, f"{item.subject}: {item.text}") for item in violations(quiet_facts(world))]


def _not_there(world: World) -> list[tuple[str, str]]:
    """Pods of the StatefulSet that were not created again: what does not exist, nobody waits for."""
    present = {pod.name for pod in world.pods()}
    wanted = [f"{IDENTITY}{number}" for number in range(world.plan.identities)]
    return [("I8", f"pod {name} does not exist") for name in wanted if name not in present]


def _not_running(world: World) -> list[tuple[str, str]]:
    found = []
    for pod in world.pods():
        watched = world.kubelets[pod.spec.node_name].pods.get(pod.uid)
        if pod.deleting:
            found.append(("I7", f"pod {pod.name} is still ending"))
        elif (watched is None or watched.sandbox is None) and _is_satisfiable(world, pod.name, pod.spec.node_name):
            found.append(("I8", f"pod {pod.name} on {pod.spec.node_name} has no address"))
    return found


def _is_satisfiable(world: World, pod: str, node: str) -> bool:
    """True if for every family that the pod needs some pool of its list has an address that nobody uses.

    While nobody probes, suspect addresses are held back by design, until an operator releases them.
    """
    allocated = {slot for table in world.checker.journalled.values() for slot in table.values()}
    if not world.probes:
        allocated |= _suspects(world)
    own, others = _pinned(world, pod)
    pools = [[pool for pool in listed if world.edits.serves(pool, node)] for listed in world.plan.pools_of(pod)]
    if own:
        return all(pools) and not own & allocated
    allocated |= others | world.edits.reserved
    for machine in world.machines.values():
        if machine.running:  # what a lost journal may have given out is out of use until a reboot, by design
            allocated |= machine.running.agent.keeper.shunned

    def has_room(pool: PlannedPool) -> bool:
        for value in range(pool.first, pool.last + 1):
            slot = SlotId("", pool.family, value)
            if pool.issues(slot) and slot not in allocated:
                return True
        return False

    return all(any(has_room(pool) for pool in listed) for listed in pools)


def _suspects(world: World) -> set[SlotId]:
    blocks = [block for block in world.checker.blocks.values() if world.is_stored(block)]
    return {slot for block in blocks for slot in block.page.slot_ids(block.suspect)}


def _pinned(world: World, pod: str) -> tuple[set[SlotId], set[SlotId]]:
    """The slots that are pinned to this pod's identity, and to others."""
    own: set[SlotId] = set()
    others: set[SlotId] = set()
    for block in world.checker.blocks.values():
        if world.is_stored(block):
            for pin in block.pins:
                slot = SlotId(block.page.domain, block.page.family, block.page.base + pin.slot)
                (own if pin.owner.name == pod else others).add(slot)
    return own, others


def _not_serving(world: World) -> list[tuple[str, str]]:
    found = []
    for machine in world.machines.values():
        why = machine.running.agent.why_closed() if machine.running else "it does not run"
        if why:
            found.append(("I8", f"agent of {machine.name} hands out nothing: {why}"))
    return found


def _leaks(world: World) -> list[tuple[str, str]]:
    found = []
    for machine in world.machines.values():
        found += _leaks_on(world, machine)
    for block in world.checker.blocks.values():
        if not world.is_stored(block):
            continue
        for lease in block.leases:
            entry = world.cluster.read(NODE, ("", lease.node.name))
            if entry is None or entry.object.uid != lease.node.uid:
                slots = format_slots(lease.slots)
                found.append(("I7", f"{block.page.name}: slots {slots} are leased to {lease.node}, which is gone"))
    return found


def _leaks_on(world: World, machine: Machine) -> list[tuple[str, str]]:
    if machine.running is None:
        return []
    agent, name = machine.running.agent, machine.name
    found = _unaccounted(world, machine, agent)
    leased = set()
    for block in world.checker.blocks.values():
        if world.is_stored(block):
            for lease in block.leases_named(name):
                leased |= set(block.page.slot_ids(lease.slots))
    for item in agent.stock:
        if item.state in IDLE and not world.edits.lets(name, item.slot):
            found.append(("I7", f"{item.slot} is held free on {name}, which may not give it out"))
    held = {item.slot for item in agent.stock}
    if missing := leased - held - agent.keeper.shunned:
        found.append(("I7", f"{min(missing)} is leased to {name}, whose agent does not know it"))
    if strange := held - leased - _held_back(world):
        found.append(("I7", f"{min(strange)} is held by {name} without a lease"))
    return found


def _held_back(world: World) -> set[SlotId]:
    """What its lessee found in use: a pod that lived on while a leader took its address by force keeps it, and nobody else can have it until it
    ends.
    """
    running = [machine.running for machine in world.machines.values() if machine.running is not None]
    return {item.slot for process in running for item in process.agent.stock if item.state is State.QUARANTINED}


def _unaccounted(world: World, machine: Machine, agent: Agent) -> list[tuple[str, str]]:
    found, name = [], machine.name
    if machine.spool.files:
        found.append(("I14", f"{len(machine.spool.files)} spooled DELs stay on {name}"))
    sandboxes = world.kubelets[name].sandboxes
    recorded = {(item.slot, item.pod_uid) for item in endpoints(world)}
    living = {pod.uid for pod in world.pods()}
    for attachment in agent.allocator.all():
        sandbox = sandboxes.get(attachment.key.container_id)
        if sandbox is None or not sandbox.live:
            found.append(("I7", f"{attachment.key.container_id} of {attachment.pod} on {name} keeps its addresses"))
        unrecorded = {(grant.slot, attachment.pod_uid) for grant in attachment.grants} - recorded
        if unrecorded and attachment.pod_uid in living:
            found.append(("record", f"no SpiderEndpoint tells of {min(unrecorded)[0]} of {attachment.pod} on {name}"))
    for item in agent.stock:
        if item.state is State.LEAVING:
            found.append(("I7", f"{item.slot} on {name} never finishes leaving"))
        if item.state is State.ALLOCATED and agent.allocator.holder_of(item.slot) is None:
            found.append(("I7", f"{item.slot} on {name} is allocated to nobody"))
    return found


def picture(world: World) -> list[str]:
    """Who holds what, for the reader of a failed run."""
    lines = []
    for block in world.checker.blocks.values():
        if world.is_stored(block):
            leases = " ".join(
                f"{lease.node.name}/{lease.node.uid[-3:]}:{format_slots(lease.slots)}" for lease in block.leases
            )
            lines.append(f"{block.page.name} {leases} suspect={format_slots(block.suspect)} cooling={block.cooling}")
    for machine in world.machines.values():
        if machine.running is None:
            continue
        stock = machine.running.agent.stock
        shelves = {
            f"{pool or '-'}/{state.value}": count
            for pool in stock.pools()
            for state in State
            if (count := stock.count(pool, state))
        }
        pods = len(world.kubelets[machine.name].pods)
        lines.append(f"{machine.name} pods={pods} stock={shelves} targets={machine.running.agent.refill.targets}")
    return lines
