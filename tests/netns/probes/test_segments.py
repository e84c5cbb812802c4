"""The whole agent on real interfaces: gateways that answer for everything, foreign hosts, two segments at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from adapters.clock import SystemClock
from adapters.entropy import SystemEntropy
from adapters.frames import FrameSocket
from ipam.addresses import Address, Network
from ipam.parents import Parent
from ipam.stock import State
from nodeagent.agent import Agent
from nodeagent.segment import ParentSegment
from probes import codec
from probes.messages import Arp
from probes.watcher import Mode
from tests.netns.probes.gateways import Proxy, linux_proxy
from tests.netns.probes.lan import Host, Lan, inside, lan
from tests.unit.nodeagent.harness import Lab, add, eventually

pytestmark = [pytest.mark.netns, pytest.mark.ebpf, pytest.mark.usefixtures("_bpf")]

Ear = Callable[[Host], FrameSocket]


@pytest.fixture(name="ear")
def _ear() -> Iterator[Ear]:
    """Opens ports on other hosts; all are closed at the end."""
    with ExitStack() as stack:

        def listen(host: Host) -> FrameSocket:
            with inside(host.namespace):
                port = FrameSocket(host.interface)
            stack.callback(port.close)
            return port

        yield listen


@pytest.fixture(name="lab")
async def _lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.9.0.0/24", "10.9.0.10-10.9.0.13", default=True)
    return lab


def segment(interface: str, *subnets: str) -> ParentSegment:
    parent = Parent(interface, subnets=tuple(map(Network.parse, subnets)))
    return ParentSegment(parent, SystemClock(), SystemEntropy(), Mode.EBPF)


@pytest.mark.parametrize("kind", ["linux", "router"])
async def test_behind_a_real_proxy_arp_gateway_pods_get_addresses_and_a_real_host_is_found(
    lab: Lab, net: Lan, host: Host, ear: Ear, kind: str
) -> None:
    holder, gateway = net.host("10.9.0.11/24"), net.host("10.9.0.1/24")
    if kind == "linux":
        linux_proxy(gateway)
    else:
        Proxy(gateway, ear(gateway))
    async with lab.agent("n1", segment=segment("eth0")) as agent:
        await watching(agent)
        pods = [await lab.pod(f"p{index}", "n1") for index in range(3)]
        got = {(await add(agent, f"c{index}", pod))[0] for index, pod in enumerate(pods)}
        assert got == {"10.9.0.10", "10.9.0.12", "10.9.0.13"}
        await lab.pod("waits", "n1")
        await eventually(lambda: agent.stock.count("v4", State.QUARANTINED) == 1)
        assert [(seen.ip, seen.mac) for seen in agent.segments.conflicts()] == [("10.9.0.11", holder.mac)]
        assert agent.segments.states()[0].mode == "ebpf"
        assert agent.segments.states()[0].proxies == ((gateway.mac,) if kind == "router" else ())


async def test_an_answer_of_the_gateway_to_somebody_else_is_no_intrusion_and_its_own_use_is(
    lab: Lab, net: Lan, host: Host, ear: Ear
) -> None:
    gateway = net.host("10.9.0.1/24")
    port = ear(gateway)
    Proxy(gateway, port)
    async with lab.agent("n1", segment=segment("eth0")) as agent:
        await watching(agent)
        await lab.pod("p", "n1")
        await eventually(lambda: agent.stock.count("v4", State.READY) == 1)
        address = agent.stock.of_pool("v4", State.READY)[0].slot.address
        router, other = Address.parse("10.9.0.1"), "02:00:00:00:00:99"
        port.send([codec.encode(Arp(2, gateway.mac, address, router, gateway.mac, other))])
        await asyncio.sleep(0.3)
        assert agent.stock.count("v4", State.READY) == 1
        await asyncio.sleep(1.0)  # the watcher tells of the same MAC and address once a second
        port.send([codec.encode(Arp(1, gateway.mac, address, address, gateway.mac))])
        await eventually(lambda: agent.stock.count("v4", State.QUARANTINED) == 1)


async def test_each_of_two_real_interfaces_proves_and_watches_its_own_segment(lab: Lab, net: Lan, host: Host) -> None:
    await lab.pool("second", "10.8.0.0/24", "10.8.0.10-10.8.0.12")
    with lan() as other:
        other.join(host.namespace, "eth1")
        stranger = other.host("10.8.0.10/24")
        net.host("10.8.0.11/24")  # on the wrong segment: means nothing
        segments = (segment("eth0"), segment("eth1", "10.8.0.0/16"))
        async with lab.agent("n1", segments=segments) as agent:
            await watching(agent)
            wants = {"ipam.spidernet.io/ippool": '{"ipv4": ["second"]}'}
            got = [(await add(agent, f"c{n}", await lab.pod(f"p{n}", "n1", wants)))[0] for n in range(2)]
            assert set(got) == {"10.8.0.11", "10.8.0.12"}
            assert {seen.mac for seen in agent.segments.conflicts()} <= {stranger.mac}
            await add(agent, "c9", await lab.pod("q", "n1"))
            assert agent.segments.unverified() == set()


async def watching(agent: Agent) -> None:
    """Every interface is open; the first agent of a machine compiles its watcher, which takes seconds."""
    await eventually(lambda: all(state.mode == "ebpf" for state in agent.segments.states()), 30.0)
