"""The world as plain facts, for the predicate that `fsck` and the leader use too (`ipam.invariants`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from crds.core import NODE, POD
from crds.meta import UNSET
from crds.spiderpool import ENDPOINT
from ipam.addresses import Address
from ipam.blocks import NodeRef, PinOwner
from ipam.invariants import ALLOCATED, FREE, QUARANTINED, Allocation, EndpointAddress, Facts, HeldSlot
from ipam.slots import SlotId
from ipam.stock import State
from sim.plan import IDENTITY

if TYPE_CHECKING:
    from nodeagent.agent import Agent
    from sim.world import World

STATES = {State.READY: FREE, State.UNPROVEN: FREE, State.PINNED: ALLOCATED}


def quiet_facts(world: World) -> Facts:
    """What the API server and the running agents say, with nothing under way."""
    agents = [machine.running.agent for machine in world.machines.values() if machine.running is not None]
    pods = [entry.object for entry in world.cluster._shelf(POD).entries.values()]
    nodes = [entry.object for entry in world.cluster._shelf(NODE).entries.values()]
    identities = range(world.plan.identities)
    return Facts(
        blocks=[block for block in world.checker.blocks.values() if world.is_stored(block)],
        allocations=[
            Allocation(grant.slot, agent.keeper.me, attachment.pod_uid, attachment.key.container_id)
            for agent in agents
            for attachment in agent.allocator.all()
            for grant in attachment.grants
        ],
        held=[item for agent in agents for item in _held(agent)],
        heard=frozenset(agent.keeper.me for agent in agents),
        endpoints=[item for item in endpoints(world) if not _is_kept(world, item)],
        nodes=frozenset(NodeRef(node.name, node.uid) for node in nodes),
        live_pods=frozenset(pod.uid for pod in pods),
        living_owners=frozenset(PinOwner("StatefulSet", "default", f"{IDENTITY}{n}", "eth0") for n in identities),
        quiet=True,
    )


def _held(agent: Agent) -> Iterator[HeldSlot]:
    me = agent.keeper.me
    for item in agent.stock:
        until = item.cool_until if item.cool_until > float("-inf") else None
        yield HeldSlot(item.slot, me, STATES.get(item.state, item.state.value), until, "seen in use")
    for slot in agent.keeper.shunned:
        yield HeldSlot(slot, me, QUARANTINED, None, "journal lost")


def _is_kept(world: World, endpoint: EndpointAddress) -> bool:
    """Whether a record rightly names an address that nobody has now: its pod waits, and it is pinned to that; or its identity's pod waits, or one
    that its machine forgot in a power cut, and the next start rewrites it; or its node lost its journal, shuns the address until a reboot, and has no
    other for the pod.
    """
    slot = endpoint.slot
    agents = [machine.running.agent for machine in world.machines.values() if machine.running]
    if any(slot in agent.keeper.shunned for agent in agents):
        return True
    pod = next((pod for pod in world.pods() if pod.uid == endpoint.pod_uid), None)
    is_forgotten = pod is not None and world.machines[pod.spec.node_name].has_forgotten
    waits = not any(attachment.pod == endpoint.name for agent in agents for attachment in agent.allocator.all())
    if waits and (is_forgotten or endpoint.name.startswith(IDENTITY)):
        return True
    block = world.checker.blocks.get(slot.page.name)
    pin = block.pin_at(slot.value - slot.page.base) if block is not None and world.is_stored(block) else None
    if pin is None or pin.owner.name != endpoint.name:
        return False
    return all(slot not in table.values() for table in world.checker.journalled.values())


def endpoints(world: World) -> Iterator[EndpointAddress]:
    """Which addresses the SpiderEndpoints name."""
    for entry in world.cluster._shelf(ENDPOINT).entries.values():
        endpoint = entry.seen_as(ENDPOINT)
        if endpoint.status is UNSET:
            continue
        for item in endpoint.status.current.ips:
            for text in (item.ipv4, item.ipv6):
                if isinstance(text, str) and text:
                    address = Address.parse(text.partition("/")[0])
                    slot = SlotId("", address.family, address.value)
                    yield EndpointAddress(slot, endpoint.namespace, endpoint.name, endpoint.status.current.uid)
