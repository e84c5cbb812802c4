"""What the end of a run is judged by: the predicate of `ipam.invariants`, over facts that must say what the world holds."""

from __future__ import annotations

from dataclasses import replace

from crds.blocks import block_to_wire
from crds.nephila import IP_BLOCK
from ipam.blocks import Block, Lease, NodeRef, Pin, PinOwner
from ipam.invariants import violations
from ipam.slots import Page
from sim.facts import quiet_facts
from sim.faults import KINDS
from sim.loop import SimLoop, run
from sim.world import World


def test_a_pin_of_nobody_and_a_lease_of_no_node_are_found() -> None:
    loop = SimLoop()

    async def main() -> list[str]:
        world = World(1, loop, without=KINDS)
        block = Block(Page.parse("10.6.0.0/26"), epoch=1)
        pin = Pin(3, PinOwner("StatefulSet", "default", "gone-0", "eth0"))
        block = replace(block, pins=(pin,), leases=(Lease(NodeRef("n9", "u9"), 0b1, 1),))
        world.cluster.create(IP_BLOCK, block_to_wire(block))
        found = [str(item) for item in violations(quiet_facts(world))]
        world.end()
        return found

    found = run(main(), loop)
    assert [text.partition(" ")[0] for text in found] == ["I7", "I7"], found
    assert "leased to n9" in found[0] and "gone-0" in found[1]
