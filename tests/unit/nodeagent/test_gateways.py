"""Gateways are asked ahead; a pod gets no address behind a silent one where that is required, and an ADD does not pay for it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from adapters.frames import Heard, MemoryPort, MemorySegment
from crds.nephila import IP_NODE
from ipam.addresses import Address, Network
from ipam.parents import Parent
from ipam.stock import State
from nodeagent.config import ProbeSettings
from probes import codec
from probes.messages import Arp
from tests.unit.nodeagent.harness import FAST, Lab, add, eventually, failed, http
from tests.unit.nodeagent.test_verification import STRANGER, Host, WireSegment, arps_of

ROUTER, ROUTER_MAC = "10.6.0.1", "02:00:00:00:00:fe"
REQUIRE = ProbeSettings(gateway="require", gateway_interval_s=1.0)


class Router:
    """Answers ARP requests for its own address while it is on."""

    def __init__(self, wire: MemorySegment, address: str = ROUTER) -> None:
        self.address, self.on, self.asked = Address.parse(address), True, 0
        self._port: MemoryPort = wire.port(ROUTER_MAC, "router")
        self._port.subscribe(self._hear)

    def _hear(self, heard: Heard) -> None:
        message = codec.decode(heard.frame)
        if not isinstance(message, Arp) or message.operation != 1 or message.target != self.address:
            return
        self.asked += 1
        if self.on:
            answer = Arp(2, ROUTER_MAC, self.address, message.sender, ROUTER_MAC, message.sender_mac)
            self._port.send([codec.encode(answer)])


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.13", default=True, gateway=ROUTER)
    return lab


async def states(lab: Lab) -> dict[str, tuple[str, str]]:
    stored = await lab.store.get(IP_NODE, "n1")
    assert stored is not None and stored.status
    return {gateway.ip: (gateway.state, gateway.mac) for gateway in stored.status.gateways}


async def test_a_gateway_that_answers_is_known_before_the_add_and_shown(lab: Lab) -> None:
    wire = MemorySegment()
    router = Router(wire)
    await lab.pod("p", "n1")
    async with lab.agent("n1", segment=WireSegment(wire), probe=REQUIRE) as agent:
        assert agent.gateways is not None
        await eventually(lambda: agent.stock.count("v4", State.READY) == 1 and agent.gateways.knows(["v4"]))
        asked, before = router.asked, agent._ports.clock.now()
        await add(agent, "c1", await lab.pod("q", "n1"))
        assert (router.asked, agent._ports.clock.now() - before < 0.1) == (asked, True)
        await agent.mailbox.beat()  # type: ignore[union-attr]
        assert await states(lab) == {ROUTER: ("answers", ROUTER_MAC)}


async def test_behind_a_silent_gateway_no_pod_starts_and_the_error_says_why(lab: Lab) -> None:
    wire = MemorySegment()
    router = Router(wire)
    router.on = False
    async with lab.agent("n1", segment=WireSegment(wire), probe=REQUIRE) as agent:
        pod = await lab.pod("p", "n1")
        error = await failed(agent, http("ADD", "c1", pod))
        assert error["code"] == 11
        assert error["details"].startswith("GatewayUnreachable; hint: ")
        assert error["msg"] == "gateway 10.6.0.1 of IPPool v4 does not answer on mem0"
        assert agent.allocator.all() == () and agent.stock.count("v4", State.ALLOCATED) == 0
        assert agent.teller.counts["GatewayUnreachable"] == agent.teller.counts["GatewaySilent"] == 1
        router.on = True
        await eventually(lambda: agent.teller.counts["GatewayAnswers"] == 1)
        await add(agent, "c1", pod)


async def test_one_test_without_an_answer_does_not_silence_a_gateway_and_a_second_does(lab: Lab) -> None:
    wire = MemorySegment()
    router = Router(wire)
    await lab.pod("p", "n1")
    async with lab.agent("n1", segment=WireSegment(wire), probe=REQUIRE) as agent:
        assert agent.gateways is not None
        await eventually(lambda: agent.stock.count("v4", State.READY) == 1 and agent.gateways.knows(["v4"]))
        router.on = False
        asked = router.asked
        await eventually(lambda: router.asked >= asked + 3)  # one whole test
        await asyncio.sleep(0.3)
        assert agent.teller.counts["GatewaySilent"] == 0
        await eventually(lambda: agent.teller.counts["GatewaySilent"] == 1)


async def test_a_report_refuses_nobody(lab: Lab) -> None:
    wire = MemorySegment()
    Router(wire).on = False
    probe = ProbeSettings(gateway="report", gateway_interval_s=1.0)
    await lab.pod("p", "n1")
    async with lab.agent("n1", segment=WireSegment(wire), probe=probe) as agent:
        await eventually(lambda: agent.teller.counts["GatewaySilent"] == 1)
        await add(agent, "c1", await lab.pod("q", "n1"))
        await agent.mailbox.beat()  # type: ignore[union-attr]
        assert await states(lab) == {ROUTER: ("silent", "")}


async def test_switched_off_nobody_is_asked(lab: Lab) -> None:
    wire = MemorySegment()
    router = Router(wire)
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        await add(agent, "c1", await lab.pod("q", "n1"))
        assert router.asked == 0 and agent.gateways is None


async def test_a_conflict_comes_first_another_address_is_given_and_told_whatever_the_gateway_does(lab: Lab) -> None:
    wire = MemorySegment()
    Router(wire)
    for number in (10, 11, 12):
        Host(wire, f"10.6.0.{number}")
    patient = msgspec.structs.replace(FAST, wait_s=8.0)
    async with lab.agent("n1", segment=WireSegment(wire), probe=REQUIRE, lease=patient) as agent:
        assert await add(agent, "c1", await lab.pod("p", "n1")) == ["10.6.0.13"]
        assert {seen.mac for seen in agent.segments.conflicts()} <= {STRANGER}


async def test_a_gateway_behind_no_interface_is_not_asked_and_refuses_nobody(lab: Lab) -> None:
    wire = MemorySegment()
    elsewhere = Parent("mem0", subnets=(Network.parse("10.9.0.0/16"),))
    async with lab.agent("n1", segment=WireSegment(wire, parent=elsewhere), probe=REQUIRE) as agent:
        await add(agent, "c1", await lab.pod("p", "n1"))
        assert agent.gateways is not None and agent.gateways.states() == ()


async def test_probing_a_gateway_never_claims_its_address(lab: Lab) -> None:
    wire = MemorySegment()
    sent = arps_of(wire, "02:00:00:00:00:01")
    Router(wire)
    async with lab.agent("n1", segment=WireSegment(wire), probe=REQUIRE) as agent:
        await add(agent, "c1", await lab.pod("p", "n1"))
        assert {message.sender.value for message in sent} == {0}
