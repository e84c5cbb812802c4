"""The whole agent on real interfaces: gateways that answer for everything, foreign hosts, two segments at once."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from pathlib import Path

import pytest

from adapters.clock import SystemClock
from adapters.entropy import SystemEntropy
from ipam.addresses import Address, Network
from ipam.parents import Parent
from ipam.stock import State
from nodeagent.agent import Agent
from nodeagent.segment import NetlinkFacts, ParentSegment
from nodeagent.wire import HttpRequest
from probes import codec
from probes.messages import Arp
from probes.profiles import ANNOUNCE_INTERVAL_S, ANNOUNCE_NUM, FAST, MAX_NEIGHBOR_ADVERTISEMENT
from probes.watcher import Mode
from tests.netns.probes.gateways import Proxy, linux_proxy
from tests.netns.probes.lan import Ear, Host, Lan, inside, lan, run
from tests.unit.nodeagent.harness import Lab, add, eventually, failed, http

pytestmark = [pytest.mark.netns, pytest.mark.ebpf, pytest.mark.usefixtures("_bpf")]

POD = "02:00:00:00:0a:0a"


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


async def test_status_tells_a_cut_wire_from_an_agent_that_is_not_ready(lab: Lab, net: Lan, host: Host) -> None:
    """Code 51 (CNI 1.1, STATUS) at the moment it is asked: unplugged at the bridge, taken down, and no such interface."""
    request = http("STATUS", "", conf={"master": "eth0"})
    netlink = NetlinkFacts()
    async with lab.agent("n1", segment=segment("eth0"), why_cut=netlink.why_cut) as agent:
        await watching(agent)
        assert (await agent.serve(request)).status == 200
        port = net.port_of[host.mac]
        run("ip", "-n", net.hub, "link", "set", port, "down")
        assert "no carrier" in await cut_off(agent, request)
        run("ip", "-n", net.hub, "link", "set", port, "up")
        host.ip("link", "set", "eth0", "down")
        assert "not up" in await cut_off(agent, request)
        host.ip("link", "set", "eth0", "up")
        assert "does not exist" in await cut_off(agent, http("STATUS", "", conf={"master": "eth9"}))
        async with asyncio.timeout(5):
            while (await agent.serve(request)).status != 200:
                await asyncio.sleep(0.05)
    await netlink.close()


async def cut_off(agent: Agent, request: HttpRequest) -> str:
    """The error's message, once the kernel has taken note of what was done to the link."""
    async with asyncio.timeout(5):
        while (await agent.serve(request)).status == 200:
            await asyncio.sleep(0.05)
    error = await failed(agent, request)
    assert error["code"] == 51
    return str(error["msg"])


async def test_what_an_agent_sends_is_what_the_rfcs_say_field_by_field_in_a_capture_of_tcpdump(
    lab: Lab, net: Lan, host: Host, tmp_path: Path
) -> None:
    await lab.pool("v6", "fd09::/64", "fd09::10-fd09::13", default=True)
    observer, file = net.host(), tmp_path / "wire.pcap"
    command = ("tcpdump", "-i", "eth0", "-U", "-w", str(file), "arp or icmp6")
    with inside(observer.namespace):
        dump = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert dump.stderr is not None
    try:
        async with asyncio.timeout(10):
            while b"listening" not in await dump.stderr.readline():
                pass

        async def mac_of(_netns: Path, _interface: str) -> str:
            return POD

        async with lab.agent("n1", segment=segment("eth0"), mac_of=mac_of) as agent:
            await watching(agent)
            v4, v6 = await add(agent, "c1", await lab.pod("p", "n1"))
            await asyncio.sleep(4.5)  # two announcements 2 s apart, the first after the pod's interface is there
    finally:
        dump.terminate()
        await dump.communicate()
    frames = captured(file)
    parent, pod = bytes.fromhex(host.mac.replace(":", "")), bytes.fromhex(POD.replace(":", ""))
    address4, address6 = ipaddress.ip_address(v4).packed, ipaddress.ip_address(v6).packed
    check_arp_probes(frames, parent, address4)
    check_arp_announcements(frames, pod, address4)
    check_solicitations(frames, parent, address6)
    check_advertisements(frames, pod, address6)
    strays = {frame[6:12] for _, frame in frames if frame[12:14] == ARP} - {parent, pod}
    assert strays == set()


ARP, IPV6, BROADCAST = b"\x08\x06", b"\x86\xdd", b"\xff" * 6
Frames = list[tuple[float, bytes]]


def captured(file: Path) -> Frames:
    """(seconds, bytes) of every frame of a pcap file."""
    data, offset, found = file.read_bytes(), 24, []
    assert data[:4] == b"\xd4\xc3\xb2\xa1"  # microseconds, little endian
    while offset + 16 <= len(data):
        seconds, micros, size, whole = struct.unpack_from("<IIII", data, offset)
        assert size == whole  # nothing was cut
        found.append((seconds + micros / 1e6, data[offset + 16 : offset + 16 + size]))
        offset += 16 + size
    return found


def check_arp_probes(frames: Frames, mac: bytes, address: bytes) -> None:
    """RFC 5227 section 1.1, on RFC 826."""
    probes = [
        frame for _, frame in frames if frame[12:14] == ARP and frame[28:32] == bytes(4) and frame[38:42] == address
    ]
    assert len(probes) == FAST.arp.count
    for frame in probes:
        assert frame[0:6] == BROADCAST
        assert frame[6:12] == mac  # Ethernet source
        assert frame[14:16] == b"\x00\x01"  # hardware type: Ethernet
        assert frame[16:18] == b"\x08\x00"  # protocol type: IPv4
        assert frame[18:20] == b"\x06\x04"  # address lengths
        assert frame[20:22] == b"\x00\x01"  # operation: request
        assert frame[22:28] == mac  # sender hardware address: of the interface that sends
        assert frame[28:32] == bytes(4)  # sender protocol address: MUST be all zeroes
        assert frame[32:38] == bytes(6)  # target hardware address: SHOULD be all zeroes
        assert frame[38:42] == address


def check_arp_announcements(frames: Frames, pod: bytes, address: bytes) -> None:
    """RFC 5227 section 2.3: ANNOUNCE_NUM of them, ANNOUNCE_INTERVAL apart; sender and target are the address."""
    found = [(at, frame) for at, frame in frames if frame[12:14] == ARP and frame[28:32] == address]
    assert len(found) == ANNOUNCE_NUM
    for _, frame in found:
        assert frame[0:6] == BROADCAST
        assert frame[6:12] == frame[22:28] == pod
        assert frame[14:22] == b"\x00\x01\x08\x00\x06\x04\x00\x01"
        assert frame[32:38] == bytes(6)
        assert frame[28:32] == frame[38:42] == address
    assert found[1][0] - found[0][0] == pytest.approx(ANNOUNCE_INTERVAL_S, abs=0.5)


def check_solicitations(frames: Frames, mac: bytes, address: bytes) -> None:
    """RFC 4862 section 5.4.2 and RFC 4861 section 4.3, with the nonce of RFC 7527 (RFC 3971 section 5.3.2)."""
    sent = [frame for _, frame in frames if frame[12:14] == IPV6 and frame[54] == 135 and frame[62:78] == address]
    assert len(sent) == FAST.nd.count
    group = bytes.fromhex("ff0200000000000000000001ff") + address[13:]
    for frame in sent:
        assert frame[0:6] == b"\x33\x33" + group[12:]  # RFC 2464 section 7
        assert frame[6:12] == mac
        assert frame[14] >> 4 == 6
        assert frame[18:20] == b"\x00\x20"  # payload: 24 bytes and the nonce option
        assert frame[20:22] == b"\x3a\xff"  # ICMPv6, hop limit 255
        assert frame[22:38] == bytes(16)  # source: the unspecified address
        assert frame[38:54] == group  # destination: solicited-node multicast
        assert frame[54:56] == b"\x87\x00"  # type 135, code 0
        assert checksum_ok(frame)
        assert frame[58:62] == bytes(4)  # reserved
        assert frame[78:80] == b"\x0e\x01"  # option 14, eight bytes: the nonce, and no link-layer address
        assert len(frame.rstrip(b"\0")) <= 86
    assert len({frame[80:86] for frame in sent}) == 1  # one nonce per test


def check_advertisements(frames: Frames, pod: bytes, address: bytes) -> None:
    """RFC 4861 sections 4.4 and 7.2.6: unsolicited, to all nodes, with Override and the target's link-layer address."""
    sent = [frame for _, frame in frames if frame[12:14] == IPV6 and frame[54] == 136 and frame[62:78] == address]
    assert 1 <= len(sent) <= MAX_NEIGHBOR_ADVERTISEMENT
    for frame in sent:
        assert frame[0:6] == b"\x33\x33\x00\x00\x00\x01"
        assert frame[6:12] == pod
        assert frame[20:22] == b"\x3a\xff"
        assert frame[22:38] == address
        assert frame[38:54] == bytes.fromhex("ff02" + "00" * 13 + "01")
        assert frame[54:56] == b"\x88\x00"
        assert checksum_ok(frame)
        assert frame[58] == 0x20  # Override; neither Router nor Solicited
        assert frame[59:62] == bytes(3)
        assert frame[78:80] == b"\x02\x01"  # target link-layer address
        assert frame[80:86] == pod


def checksum_ok(frame: bytes) -> bool:
    """RFC 4443 section 2.3: over the pseudo-header of RFC 8200 section 8.1 and the message."""
    size = int.from_bytes(frame[18:20], "big")
    text = frame[22:54] + size.to_bytes(4, "big") + b"\x00\x00\x00\x3a" + frame[54 : 54 + size]
    total = sum(struct.unpack(f">{len(text) // 2}H", text))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return bool(total == 0xFFFF)


async def watching(agent: Agent) -> None:
    """Every interface is open; the first agent of a machine compiles its watcher, which takes seconds."""
    await eventually(lambda: all(state.mode == "ebpf" for state in agent.segments.states()), 30.0)
