"""The agent on a segment: real probe machines and frames on a wire in memory, a foreign host that answers real ARP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.clock import SystemClock
from adapters.entropy import SeededEntropy
from adapters.frames import Heard, MemoryPort, MemorySegment
from adapters.journal import PutSlot, Write
from adapters.journal.memory import MemoryJournal
from adapters.kube.store import Stored
from crds.blocks import block_to_wire
from crds.core import EVENT
from crds.meta import UNSET
from crds.nephila import IP_BLOCK, IP_NODE
from crds.spiderpool import ENDPOINT
from ipam import lease
from ipam.addresses import Address, Network
from ipam.blocks import NodeRef
from ipam.errors import JournalFailed
from ipam.parents import Parent
from ipam.slots import Page
from ipam.stock import NEVER, State
from nodeagent import outbox, verification
from nodeagent.config import ProbeSettings
from nodeagent.segment import Segment
from probes import codec
from probes.macs import MacTable
from probes.messages import ANY_V4, Arp
from probes.prober import Prober
from probes.watcher import OnIntrusion, PacketWatcher
from tests.unit.nodeagent.harness import Lab, add, eventually, failed, http

STRANGER = "02:00:00:00:66:66"
PARENT = "02:00:00:00:00:01"
POD = "02:00:00:00:0a:0a"
MACS = {"c2": "02:00:00:00:0a:0b"}


class WireSegment:
    """`SegmentPort` on a wire in memory."""

    def __init__(
        self,
        wire: MemorySegment,
        mac: str = PARENT,
        pod: str = POD,
        *,
        parent: Parent = Parent("mem0"),  # noqa: B008  # immutable
    ) -> None:
        self._wire = wire
        self._mac = mac
        self._pod = pod
        self.parent = parent
        self.port: MemoryPort | None = None

    async def open(self, on_intrusion: OnIntrusion) -> Segment:
        clock = SystemClock()
        macs = MacTable.of(own=[self._mac])
        self.port = self._wire.port(self._mac)
        prober = Prober(self.port, clock, SeededEntropy(3), macs=macs)
        watcher = PacketWatcher(self._wire.port(self._mac, "watch"), clock, on_intrusion, "in memory")
        watcher.set_macs(macs)
        return Segment(prober, watcher)

    async def mac_of(self, netns: Path, interface: str) -> str | None:
        return MACS.get(netns.name, self._pod)


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

    def probe(self) -> None:
        """Ask whether the address is free."""
        self._port.send([codec.encode(Arp(1, STRANGER, ANY_V4, self.address, STRANGER))])

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


async def test_an_agent_whose_journal_fails_when_an_intruder_is_heard_ends(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 11510: the event loop calls, and would only log what is raised; the agent went on with a journal that had not kept its word."""
    wire = MemorySegment()
    await lab.pod("p", "n1")

    commit = MemoryJournal.commit

    def fail(journal: MemoryJournal, writes: Sequence[Write]) -> None:
        if any(isinstance(write, PutSlot) and write.record.state == "quarantined" for write in writes):
            raise JournalFailed("the disk answered EIO")
        commit(journal, writes)

    async with lab.starting("n1", segment=WireSegment(wire)) as (agent, running):
        await eventually(lambda: agent.stock.count("v4", State.READY) == 1)
        slot = agent.stock.of_pool("v4", State.READY)[0].slot
        monkeypatch.setattr(MemoryJournal, "commit", fail)
        Host(wire, str(slot.address)).claim()
        await eventually(running.done)
        error = running.exception()
        while isinstance(error, BaseExceptionGroup):
            (error,) = error.exceptions
        assert isinstance(error, JournalFailed)


async def test_a_live_address_is_defended_and_never_taken_from_its_pod(lab: Lab) -> None:
    wire = MemorySegment()
    heard = arps_of(wire, POD)
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        pod = await lab.pod("p", "n1")
        address = (await add(agent, "c1", pod))[0]
        await eventually(lambda: bool(heard))
        announced = len(heard)
        Host(wire, address).claim()
        await eventually(lambda: len(heard) > announced)
        assert [str(grant.slot.address) for a in agent.allocator.all() for grant in a.grants] == [address]
        assert [seen.mac for seen in agent.segments.conflicts()] == [STRANGER]


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


async def test_a_conflict_about_a_live_address_is_told_for_a_while_and_then_forgotten(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "CONFLICT_S", 0.5)
    wire = MemorySegment()
    heard = arps_of(wire, POD)
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        address = (await add(agent, "c1", await lab.pod("p", "n1")))[0]
        await eventually(lambda: bool(heard))
        Host(wire, address).claim()
        await eventually(lambda: [seen.ip for seen in agent.segments.conflicts()] == [address])
        await eventually(lambda: agent.segments.conflicts() == ())


async def test_a_probe_for_a_live_address_is_answered_and_no_conflict(lab: Lab) -> None:
    """RFC 5227 section 2.4: only a claim is a conflict. A host that asks first goes elsewhere; so does another node that moves a pin."""
    wire = MemorySegment()
    heard = arps_of(wire, POD)
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        address = (await add(agent, "c1", await lab.pod("p", "n1")))[0]
        await eventually(lambda: bool(heard))
        announced = len(heard)
        asking = Host(wire, address)
        asking.leave()
        asking.probe()
        await eventually(lambda: len(heard) > announced)
        assert agent.segments.conflicts() == ()
        assert "AddressConflict" not in agent.teller.counts


async def test_a_pods_new_sandbox_is_announced_and_the_old_mac_no_longer_defended(lab: Lab) -> None:
    wire = MemorySegment()
    old, new = arps_of(wire, POD), arps_of(wire, MACS["c2"])
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        pod = await lab.pod("p", "n1")
        address = (await add(agent, "c1", pod))[0]
        await eventually(lambda: bool(old))
        assert await add(agent, "c2", pod) == [address]
        await eventually(lambda: bool(new))
        heard = len(old)
        sandbox = wire.port(MACS["c2"], "pod")
        frame = Arp(1, MACS["c2"], Address.parse(address), Address.parse("10.6.0.1"), MACS["c2"])
        sandbox.send([codec.encode(frame)])
        await asyncio.sleep(0.1)
        assert agent.segments.conflicts() == () and len(old) == heard


async def test_behind_a_gateway_that_answers_for_everything_pods_get_addresses_and_a_real_host_is_found(
    lab: Lab,
) -> None:
    wire = MemorySegment()
    Gateway(wire)
    Host(wire, "10.6.0.11")
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        pods = [await lab.pod(f"p{i}", "n1") for i in range(3)]
        got = {(await add(agent, f"c{i}", pod))[0] for i, pod in enumerate(pods)}
        assert got == {"10.6.0.10", "10.6.0.12", "10.6.0.13"}
        assert {seen.mac for seen in agent.segments.conflicts()} <= {STRANGER}
        assert agent.teller.counts["AddressInUse"] <= 1  # nobody was ever alarmed by the gateway
        assert agent.segments.states()[0].proxies == (Gateway.MAC,)


async def test_the_first_address_of_a_network_is_tested_only_after_its_survey(lab: Lab) -> None:
    wire = MemorySegment()
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        await add(agent, "c1", await lab.pod("p", "n1"))
        Gateway(wire)
        await lab.pool("late", "10.7.0.0/24", "10.7.0.10-10.7.0.12")
        await eventually(lambda: agent.world.pools.catalog.get("late") is not None)
        await add(agent, "c2", await lab.pod("q", "n1", {"ipam.spidernet.io/ippool": '{"ipv4": ["late"]}'}))
        assert agent.teller.counts["AddressInUse"] == 0


async def test_a_gateway_that_begins_to_answer_for_everything_after_a_flap_is_surveyed_anew(lab: Lab) -> None:
    wire = MemorySegment()
    segment = WireSegment(wire)
    async with lab.agent("n1", segment=segment, probe=ProbeSettings(retest_s=60.0)) as agent:
        await lab.pod("p", "n1")
        await eventually(lambda: agent.stock.count("v4", State.READY) == 1)
        gateway = Gateway(wire)
        slot = agent.stock.of_pool("v4", State.READY)[0].slot
        gateway.answer(slot.address)  # heard by chance, before anybody knows what it is
        await eventually(lambda: agent.stock.count("v4", State.QUARANTINED) == 1)
        assert segment.port is not None
        segment.port.up = False
        segment.port.up = True
        await eventually(lambda: agent.stock.get(slot).state is State.READY)  # type: ignore[union-attr]


async def test_each_of_two_interfaces_proves_the_addresses_of_its_own_segment(lab: Lab) -> None:
    """The stranger on the second wire is silent on the first: asked there, his address would be called clear."""
    await lab.pool("second", "10.7.0.0/24", "10.7.0.10-10.7.0.11")
    first, second = MemorySegment(), MemorySegment()
    Host(second, "10.7.0.10")
    Host(first, "10.7.0.11")  # on the wrong segment: means nothing
    parents = (Parent("mem0"), Parent("mem1", subnets=(Network.parse("10.7.0.0/16"),)))
    segments = (WireSegment(first, parent=parents[0]), WireSegment(second, parent=parents[1]))
    async with lab.agent("n1", segments=segments) as agent:
        pod = await lab.pod("p", "n1", {"ipam.spidernet.io/ippool": '{"ipv4": ["second"]}'})
        assert await add(agent, "c1", pod) == ["10.7.0.11"]
        await add(agent, "c2", await lab.pod("q", "n1"))
        await agent.mailbox.beat()  # type: ignore[union-attr]
        stored = await lab.store.get(IP_NODE, "n1")
        assert [state.interface for state in stored.status.segments] == ["mem0", "mem1"]  # type: ignore[union-attr]
        assert {stock.name: stock.unverified for stock in stored.status.pools} == {"v4": False, "second": False}  # type: ignore[union-attr]


async def test_addresses_behind_no_interface_are_handed_out_and_reported_as_unverified(lab: Lab) -> None:
    await lab.pool("far", "10.8.0.0/24", "10.8.0.10-10.8.0.12")
    wire = MemorySegment()
    Host(wire, "10.8.0.10")  # not on that segment: nobody may conclude anything from it
    parent = Parent("mem0", subnets=(Network.parse("10.6.0.0/16"),))
    async with lab.agent("n1", segment=WireSegment(wire, parent=parent)) as agent:
        pod = await lab.pod("p", "n1", {"ipam.spidernet.io/ippool": '{"ipv4": ["far"]}'})
        (address,) = await add(agent, "c1", pod)
        assert address.startswith("10.8.0.")
        await add(agent, "c2", await lab.pod("q", "n1"))
        await agent.mailbox.beat()  # type: ignore[union-attr]
        stored = await lab.store.get(IP_NODE, "n1")
        assert {stock.name: stock.unverified for stock in stored.status.pools} == {"v4": False, "far": True}  # type: ignore[union-attr]
        assert agent.stock.of_pool("far", State.ALLOCATED)[0].clear_at == NEVER  # never claimed proven


async def test_a_slot_taken_by_force_behind_no_interface_is_not_handed_out(lab: Lab) -> None:
    """I5: suspect means a full probe first, and here nobody can make one."""
    page, dead = Page.parse("10.6.0.0/26"), NodeRef("dead", "uid-dead")
    held = lease.claim(lease.new_block(page, 7), dead, 0b1111 << 10)
    suspect = lease.reclaim(held, held.leases[0], 0b1 << 10, term=1)
    suspect = lease.reclaim(suspect, suspect.leases[0], 0b1110 << 10, term=1)
    assert isinstance(await lab.store.create(IP_BLOCK, block_to_wire(suspect)), Stored)
    elsewhere = Parent("mem0", subnets=(Network.parse("10.9.0.0/16"),))
    async with lab.agent("n1", segment=WireSegment(MemorySegment(), parent=elsewhere)) as agent:
        error = await failed(agent, http("ADD", "c1", await lab.pod("p", "n1")))
        assert error["code"] == 11
        assert agent.stock.count("v4", State.READY, State.ALLOCATED) == 0


async def test_pods_keep_being_served_behind_one_interface_when_the_other_is_missing(lab: Lab) -> None:
    wire = MemorySegment()
    second = Parent("mem1", subnets=(Network.parse("10.7.0.0/16"),))
    async with lab.agent("n1", segments=(WireSegment(wire), Missing(second))) as agent:
        await add(agent, "c1", await lab.pod("p", "n1"))
        await eventually(lambda: agent.teller.counts["SegmentUnusable"] > 0)
        assert agent.why_not_ready() == ""
        assert (agent.segments.mode.value, "mem1" in agent.segments.probe_state().reason) == ("off", True)


async def test_the_pods_mac_stands_in_its_spider_endpoint_after_one_write(lab: Lab) -> None:
    writes: list[str] = []
    async with lab.agent("n1", segment=WireSegment(MemorySegment())) as agent:
        pod = await lab.pod("p", "n1")
        create = agent.outbox._store.create

        async def counted(kind: Any, new: Any) -> Any:
            writes.append(kind.kind)
            return await create(kind, new)

        agent.outbox._store.create = counted  # type: ignore[method-assign]
        await add(agent, "c1", pod)
        await eventually(lambda: agent.outbox.depth == 0)
        stored = await lab.store.get(ENDPOINT, "p", "default")
        assert [ip.mac for ip in stored.status.current.ips] == [POD]  # type: ignore[union-attr]
        assert writes.count("SpiderEndpoint") == 1


async def test_a_mac_that_is_learnt_late_is_written_when_it_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAC_WAIT_S", 0.2)
    known: list[str] = []

    async def late(netns: Path, interface: str) -> str | None:
        return known[0] if known else None

    async with lab.agent("n1", segment=WireSegment(MemorySegment()), mac_of=late) as agent:
        await add(agent, "c1", await lab.pod("p", "n1"))
        await eventually(lambda: agent.outbox.depth == 0)
        stored = await lab.store.get(ENDPOINT, "p", "default")
        assert [ip.mac for ip in stored.status.current.ips] == [UNSET]  # type: ignore[union-attr]
        known.append(POD)
        await eventually(lambda: agent.macs.of(agent.allocator.all()[0].key) == POD)
        await eventually(lambda: agent.outbox.depth == 0)
        stored = await lab.store.get(ENDPOINT, "p", "default")
        assert [ip.mac for ip in stored.status.current.ips] == [POD]  # type: ignore[union-attr]


class Missing:
    """A parent interface that is not there."""

    def __init__(self, parent: Parent) -> None:
        self.parent = parent

    async def open(self, on_intrusion: OnIntrusion) -> Segment:
        raise OSError("no such device")


class Gateway:
    """Answers every ARP request with its own MAC, as routers with local proxy ARP do."""

    MAC = "02:00:00:00:00:fe"

    def __init__(self, wire: MemorySegment) -> None:
        self._port = wire.port(self.MAC, "gateway")
        self._port.subscribe(self._hear)

    def _hear(self, heard: Heard) -> None:
        message = codec.decode(heard.frame)
        if isinstance(message, Arp) and message.operation == 1 and message.sender != message.target:
            self.answer(message.target)

    def answer(self, address: Address) -> None:
        self._port.send([codec.encode(Arp(2, self.MAC, address, ANY_V4, self.MAC, PARENT, PARENT))])


def arps_of(wire: MemorySegment, mac: str) -> list[Arp]:
    """What that MAC says on the wire from now on."""
    heard: list[Arp] = []

    def listen(frame: Heard) -> None:
        message = codec.decode(frame.frame)
        if isinstance(message, Arp) and message.sender_mac == mac:
            heard.append(message)

    wire.port("02:00:00:00:77:77", "listener").subscribe(listen)
    return heard


async def test_an_address_that_a_pod_had_and_let_go_between_two_looks_is_tested_again(lab: Lab) -> None:
    """As after a rest cut short: the verifier still believed in the proof from before, and the address waited for its next regular test."""
    await lab.pod("p", "n1")
    async with lab.agent("n1", segment=WireSegment(MemorySegment())) as agent:
        await eventually(lambda: agent.stock.count("v4", State.READY) > 0)
        (held, *_) = agent.stock.of_pool("v4", State.READY)
        now = SystemClock().now()
        agent.stock.allocate(held.slot)
        agent.stock.release(held.slot, now, 0.0)
        agent.stock.mature("v4", now)
        assert agent.stock.of_pool("v4", State.UNPROVEN) == (held,)
        agent.segments.kick()
        await eventually(lambda: held.state is State.READY, 2.0)


async def test_what_was_claimed_for_a_waiting_pod_is_tested_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next comparison with the stock took up to 250 ms, which a stranded pod waited for."""
    async with lab.agent("n1", segment=WireSegment(MemorySegment())) as agent:
        await add(agent, "c1", await lab.pod("p", "n1"))
        await lab.pool("other", "10.6.0.0/24", "10.6.0.20-10.6.0.22")
        await eventually(lambda: agent.world.pools.catalog.get("other") is not None)
        monkeypatch.setattr(verification, "SYNC_S", 60.0)
        await asyncio.sleep(0.5)  # those that rest by the old period have begun anew
        pod = await lab.pod("q", "n1", {"ipam.spidernet.io/ippool": '{"ipv4": ["other"]}'})
        assert (await add(agent, "c2", pod))[0].startswith("10.6.0.2")
