"""The agent on a segment: real probe machines and frames on a wire in memory, a foreign host that answers real ARP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters.clock import SystemClock
from adapters.entropy import SeededEntropy
from adapters.frames import Heard, MemoryPort, MemorySegment
from adapters.kube.store import Stored
from crds.blocks import block_to_wire
from crds.core import EVENT
from crds.nephila import IP_BLOCK, IP_NODE
from ipam import lease
from ipam.addresses import Address
from ipam.blocks import NodeRef
from ipam.slots import Page
from ipam.stock import State
from nodeagent.segment import Segment
from probes import codec
from probes.macs import MacTable
from probes.messages import Arp
from probes.prober import Prober
from probes.watcher import OnIntrusion, PacketWatcher
from tests.unit.nodeagent.harness import Lab, add, eventually

STRANGER = "02:00:00:00:66:66"
PARENT = "02:00:00:00:00:01"
POD = "02:00:00:00:0a:0a"


class WireSegment:
    """`SegmentPort` on a wire in memory."""

    def __init__(self, wire: MemorySegment, parent: str = PARENT, pod: str = POD) -> None:
        self._wire = wire
        self._parent = parent
        self._pod = pod

    async def open(self, on_intrusion: OnIntrusion) -> Segment:
        clock = SystemClock()
        macs = MacTable.of(own=[self._parent])
        prober = Prober(self._wire.port(self._parent), clock, SeededEntropy(3), macs=macs)
        watcher = PacketWatcher(self._wire.port(self._parent, "watch"), clock, on_intrusion, "in memory")
        watcher.set_macs(macs)
        return Segment(prober, watcher)

    async def mac_of(self, netns: Path, interface: str) -> str | None:
        return self._pod


class Host:
    """A machine outside the cluster that answers for one address."""

    def __init__(self, wire: MemorySegment, address: str) -> None:
        self.address = Address.parse(address)
        self._port: MemoryPort = wire.port(STRANGER, "stranger")
        self._unsubscribe = self._port.subscribe(self._hear)

    def _hear(self, heard: Heard) -> None:
        message = codec.decode(heard.frame)
        if isinstance(message, Arp) and message.operation == 1 and message.target == self.address:
            self.claim()

    def claim(self) -> None:
        """Use the address: a gratuitous ARP."""
        self._port.send([codec.encode(Arp(1, STRANGER, self.address, self.address, STRANGER))])

    def leave(self) -> None:
        self._unsubscribe()


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.13", default=True)
    return lab


async def test_an_address_that_a_stranger_holds_is_never_given_out(lab: Lab) -> None:
    wire = MemorySegment()
    Host(wire, "10.6.0.11")
    pods = [await lab.pod(f"p{i}", "n1") for i in range(3)]
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        got = {(await add(agent, f"c{i}", pod))[0] for i, pod in enumerate(pods)}
        assert got == {"10.6.0.10", "10.6.0.12", "10.6.0.13"}
        await eventually(lambda: agent.stock.count("v4", State.QUARANTINED) <= 1)


async def test_an_intruder_is_quarantined_at_once_and_shown(lab: Lab) -> None:
    wire = MemorySegment()
    await lab.pod("p", "n1")
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        await eventually(lambda: agent.stock.count("v4", State.READY) == 1)
        slot = agent.stock.of_pool("v4", State.READY)[0].slot
        host = Host(wire, str(slot.address))
        host.claim()
        await asyncio.sleep(0.05)
        assert agent.stock.count("v4", State.QUARANTINED) == 1
        await agent.mailbox.beat()  # type: ignore[union-attr]
        stored = await lab.store.get(IP_NODE, "n1")
        assert [(c.ip, c.mac) for c in stored.status.conflicts] == [(str(slot.address), STRANGER)]  # type: ignore[union-attr]
        reasons = [event.reason for event in (await lab.store.list(EVENT)).items]
        assert "AddressInUse" in reasons


async def test_a_live_address_is_defended_and_never_taken_from_its_pod(lab: Lab) -> None:
    wire = MemorySegment()
    heard: list[Arp] = []

    def listen(frame: Heard) -> None:
        message = codec.decode(frame.frame)
        if isinstance(message, Arp) and message.sender_mac == POD:
            heard.append(message)

    wire.port("02:00:00:00:77:77", "listener").subscribe(listen)
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        pod = await lab.pod("p", "n1")
        address = (await add(agent, "c1", pod))[0]
        await eventually(lambda: bool(heard))
        announced = len(heard)
        Host(wire, address).claim()
        await eventually(lambda: len(heard) > announced)
        assert [str(grant.slot.address) for a in agent.allocator.all() for grant in a.grants] == [address]
        assert [seen.mac for seen in agent.verification.conflicts.values()] == [STRANGER]  # type: ignore[union-attr]


async def test_no_prober_means_nothing_is_handed_out_unproven(lab: Lab) -> None:
    wire = MemorySegment()
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        pod = await lab.pod("p", "n1")
        await add(agent, "c1", pod)
        held = agent.stock.of_pool("v4", State.ALLOCATED)[0]
        assert held.clear_at > 0


async def test_a_slot_taken_by_force_is_used_only_after_a_probe_and_then_loses_its_mark(lab: Lab) -> None:
    page = Page.parse("10.6.0.0/26")
    dead = NodeRef("dead", "uid-dead")
    held = lease.claim(lease.new_block(page, 7), dead, 0b1111 << 10)
    suspect = lease.reclaim(held, held.leases[0], 0b1111 << 10, term=1)
    assert isinstance(await lab.store.create(IP_BLOCK, block_to_wire(suspect)), Stored)
    wire = MemorySegment()
    Host(wire, "10.6.0.10")
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        pods = [await lab.pod(f"p{i}", "n1") for i in range(3)]
        got = await asyncio.gather(*(add(agent, f"c{i}", pod) for i, pod in enumerate(pods)))
        assert {answer[0] for answer in got} == {"10.6.0.11", "10.6.0.12", "10.6.0.13"}
        await eventually(lambda: agent.keeper.leases()[page].block.suspect & (0b111 << 11) == 0)
