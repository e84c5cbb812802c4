"""The real prober against real hosts: the kernel's own ARP and ND answer, and tcpdump is the judge of what was on the wire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from adapters.clock import SystemClock
from adapters.entropy import SystemEntropy
from adapters.frames import FrameSocket, Heard
from ipam.addresses import Address, Family, Network
from probes import codec
from probes.macs import MacTable
from probes.messages import Arp, How, Solicitation
from probes.prober import Limits, Prober, Reach
from probes.profiles import FAST, RFC
from probes.verdicts import State, Verdict
from tests.netns.probes.gateways import Proxy, linux_proxy
from tests.netns.probes.lan import Ear, Host, Lan, inside

HELD4, FREE4 = Address.parse("10.9.0.7"), Address.parse("10.9.0.8")
HELD6, FREE6 = Address.parse("fd09::7"), Address.parse("fd09::8")

pytestmark = pytest.mark.netns


@dataclass(frozen=True, slots=True)
class Node:
    """A host on the segment, and the port of its agent."""

    net: Lan
    host: Host
    port: FrameSocket

    def prober(self, macs: MacTable | None = None, limits: Limits | None = None) -> Prober:
        return Prober(self.port, SystemClock(), SystemEntropy(), macs=macs, limits=limits)


@pytest.fixture(name="node")
def _node(net: Lan) -> Iterator[Node]:
    host = net.host()
    with inside(host.namespace):  # as an agent, the test lives in its node's namespace
        node = Node(net, host, FrameSocket(host.interface))
        yield node
        node.port.close()


async def test_a_real_host_holding_the_address_is_found_within_200_ms(node: Node) -> None:
    holder = node.net.host("10.9.0.7/24", "fd09::7/64")
    start = time.monotonic()
    verdicts = await node.prober().verify([HELD4, FREE4, HELD6, FREE6])
    took = time.monotonic() - start
    assert {str(address): verdict.state for address, verdict in verdicts.items()} == {
        "10.9.0.7": State.TAKEN,
        "10.9.0.8": State.CLEAR,
        "fd09::7": State.TAKEN,
        "fd09::8": State.CLEAR,
    }
    for address, how in ((HELD4, How.ARP_REPLY), (HELD6, How.ND_ADVERTISEMENT)):
        evidence = verdicts[address].evidence
        assert evidence is not None
        assert (evidence.mac, evidence.how) == (holder.mac, how)
    assert took < 0.3  # 0.2 by the profile, and room for a busy test machine


async def test_probing_leaves_no_trace_in_a_neighbours_tables(node: Node) -> None:
    holder = node.net.host("10.9.0.7/24", "fd09::7/64")
    await node.prober().verify([HELD4, FREE4, HELD6, FREE6])
    assert node.host.mac not in holder.ip("neighbour", "show")


async def test_the_frames_of_a_test_are_what_the_rfcs_say(node: Node, ear: Ear) -> None:
    observer = node.net.host()
    capture = ear(observer)
    heard: list[Heard] = []
    capture.subscribe(heard.append)
    await node.prober().verify([FREE4, FREE6])
    capture.poll()
    mine = [item.frame for item in heard if item.frame[6:12].hex(":") == node.host.mac]
    arps = [frame for frame in mine if frame[12:14] == b"\x08\x06"]
    solicitations = [frame for frame in mine if frame[12:14] == b"\x86\xdd"]
    assert len(arps) == FAST.arp.count
    for frame in arps:
        assert frame[:42].hex() == (
            "ffffffffffff" + node.host.mac.replace(":", "") + "0806"
            "0001080006040001" + node.host.mac.replace(":", "") + "00000000" + "000000000000" + "0a090008"
        )
    assert len(solicitations) == FAST.nd.count
    for frame in solicitations:
        assert frame[:12].hex() == "3333ff000008" + node.host.mac.replace(":", "")
        assert frame[22:54].hex() == "0" * 32 + "ff0200000000000000000001ff000008"
        assert frame[62:80].hex() == "fd09" + "0" * 27 + "8" + "0e01"
    nonces = {frame[80:86] for frame in solicitations}
    assert len(nonces) == 1


async def test_tcpdump_reads_our_frames_as_probes_and_finds_no_fault(node: Node) -> None:
    observer = node.net.host()
    command = ("ip", "netns", "exec", observer.namespace, "tcpdump", "-l", "-nn", "-v", "-i", "eth0", "-c", "4")
    dump = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert dump.stderr is not None
    async with asyncio.timeout(10):
        while b"listening" not in await dump.stderr.readline():
            pass
        prober = node.prober()
        port_frames = [
            codec.encode(message)
            for message in (
                Arp(1, node.host.mac, Address(Family.V4, 0), FREE4, source_mac=node.host.mac),
                Solicitation(Address(Family.V6, 0), FREE6, node.host.mac, nonce=b"nonce1"),
            )
        ]
        assert node.port.send(port_frames) == 2
        prober.announce(FREE4, node.host.mac)
        prober.announce(FREE6, node.host.mac)
        out, _ = await dump.communicate()
    await prober.close()
    text = out.decode()
    assert "who-has 10.9.0.8 tell 0.0.0.0" in text
    assert "who-has 10.9.0.8 tell 10.9.0.8" in text or "Announcement 10.9.0.8" in text
    assert "neighbor solicitation, length 32, who has fd09::8" in text
    assert "neighbor advertisement, length 32, tgt is fd09::8, Flags [override]" in text
    assert "[icmp6 sum ok]" in text
    assert "bad" not in text


async def test_an_announcement_moves_a_neighbours_entry_to_the_new_mac(node: Node) -> None:
    old = node.net.host("10.9.0.7/24", "fd09::7/64")
    peer = node.net.host("10.9.0.9/24", "fd09::9/64")
    for target in ("10.9.0.7", "fd09::7"):
        peer.exec("ping", "-c", "1", "-W", "2", target)
    assert peer.ip("neighbour", "show").count(old.mac) == 2
    old.ip("link", "set", "eth0", "down")
    prober = node.prober()
    prober.announce(HELD4, "02:00:00:00:00:77")
    prober.announce(HELD6, "02:00:00:00:00:77")

    async def moved() -> None:
        while peer.ip("neighbour", "show").count("02:00:00:00:00:77") < 2:  # a fact of the kernel
            await asyncio.sleep(0.1)

    await asyncio.wait_for(moved(), 5)
    await prober.close()


async def test_of_two_probers_that_do_not_know_each_other_at_most_one_gets_the_address(node: Node, ear: Ear) -> None:
    other = node.net.host()
    stranger = Prober(ear(other), SystemClock(), SystemEntropy())
    mine, theirs = await asyncio.gather(node.prober().verify([FREE4, FREE6]), stranger.verify([FREE4, FREE6]))
    for address in (FREE4, FREE6):
        assert State.TAKEN in (mine[address].state, theirs[address].state)


async def test_two_nodes_that_know_each_other_do_not(node: Node, ear: Ear) -> None:
    other = node.net.host()
    neighbour = Prober(ear(other), SystemClock(), SystemEntropy(), macs=MacTable.of(cluster={node.host.mac: "node-1"}))
    mine, theirs = await asyncio.gather(
        node.prober(MacTable.of(cluster={other.mac: "node-2"})).verify([FREE4, FREE6]),
        neighbour.verify([FREE4, FREE6]),
    )
    assert {verdict.state for verdict in (*mine.values(), *theirs.values())} == {State.CLEAR}


async def test_a_hairpin_port_returns_our_probes_and_they_are_no_conflict(net: Lan) -> None:
    host = net.host(hairpin=True)
    with inside(host.namespace):
        port = FrameSocket(host.interface)
        copies: list[Heard] = []
        port.subscribe(copies.append)
        verdicts = await Prober(port, SystemClock(), SystemEntropy()).verify([FREE4, FREE6])
        port.close()
    assert len(copies) >= 6  # they did come back
    assert {verdict.state for verdict in verdicts.values()} == {State.CLEAR}


async def test_an_interface_that_flaps_during_a_test_yields_unknown(node: Node) -> None:
    task = asyncio.ensure_future(node.prober().verify([FREE4], RFC))
    await asyncio.sleep(0.3)
    node.host.ip("link", "set", "eth0", "down")
    node.host.ip("link", "set", "eth0", "up")
    assert (await task)[FREE4].state is State.UNKNOWN


async def test_a_macvlan_parent_is_deaf_to_its_own_children(node: Node, ear: Ear) -> None:
    """The trap that the journal covers: the same child is plainly there for every other host of the segment."""
    pod = f"{node.host.namespace}pod"
    node.net.add_namespace(pod)
    macvlan = ("link", "eth0", "type", "macvlan", "mode", "bridge")
    node.host.ip("link", "add", "name", "net1", *macvlan)
    node.host.ip("link", "set", "net1", "netns", pod)
    child = Host(pod, "", "net1")
    child.set("ipv6/conf/net1/accept_dad", 0)
    child.ip("link", "set", "net1", "up")
    child.own("10.9.0.7/24", "fd09::7/64")
    from_parent = await node.prober().verify([HELD4, HELD6])
    elsewhere = Prober(ear(node.net.host()), SystemClock(), SystemEntropy())
    from_outside = await elsewhere.verify([HELD4, HELD6])
    assert {verdict.state for verdict in from_parent.values()} == {State.CLEAR}
    assert {verdict.state for verdict in from_outside.values()} == {State.TAKEN}


async def test_a_host_behind_another_nodes_macvlan_is_found(node: Node) -> None:
    """What matters across nodes: the child of one parent answers the probe of another."""
    other = node.net.host()
    pod = f"{other.namespace}pod"
    node.net.add_namespace(pod)
    other.ip("link", "add", "name", "net1", "link", "eth0", "type", "macvlan", "mode", "bridge")
    other.ip("link", "set", "net1", "netns", pod)
    child = Host(pod, "", "net1")
    child.ip("link", "set", "net1", "up")
    child.own("10.9.0.7/24")
    verdict = (await node.prober().verify([HELD4]))[HELD4]
    assert verdict.state is State.TAKEN


async def test_behind_a_proxy_arp_gateway_free_is_clear_and_held_is_taken(node: Node, ear: Ear) -> None:
    node.net.host("10.9.0.7/24", "fd09::7/64")
    router = node.net.host()
    proxy = Proxy(router, ear(router))
    prober = node.prober()
    wanted = [HELD4, FREE4, HELD6, FREE6]
    naive = await prober.verify(wanted)
    assert {verdict.state for verdict in naive.values()} == {State.TAKEN}
    assert await prober.survey(Network.parse("10.9.0.0/24")) == {proxy.host.mac}
    verdicts = await prober.verify(wanted)
    assert [verdicts[address].state for address in wanted] == [
        State.TAKEN,
        State.CLEAR,
        State.TAKEN,
        State.CLEAR,
    ]


async def test_linux_proxy_arp_does_not_answer_probes(node: Node) -> None:
    """Why a Linux gateway needs no survey: a sender of 0.0.0.0 is answered for its own addresses only."""
    gateway = node.net.host("10.9.0.1/24")
    linux_proxy(gateway)
    own = Address.parse("10.9.0.1")
    verdicts = await node.prober().verify([FREE4, own])
    assert (verdicts[FREE4].state, verdicts[own].state) == (State.CLEAR, State.TAKEN)


async def test_a_gateway_is_reachable_without_an_address_of_ours(node: Node) -> None:
    gateway = node.net.host("10.9.0.1/24", "fd09::1/64")
    prober = node.prober()
    there, absent = [Address.parse("10.9.0.1"), Address.parse("fd09::1")], Address.parse("10.9.0.254")
    expected = {**dict.fromkeys(there, Reach(True, gateway.mac)), absent: Reach(False)}
    assert await prober.reach([*there, absent]) == expected


async def test_256_addresses_are_tested_with_hosts_among_them(node: Node) -> None:
    holder = node.net.host(*(f"10.9.0.{number}/24" for number in range(100, 120)))
    addresses = [Address(Family.V4, 0x0A090000 + number) for number in range(1, 255)]
    addresses += [FREE6, HELD6]
    prober = node.prober(limits=Limits(rate=20_000, burst=1024))
    start, busy = time.monotonic(), time.process_time()
    verdicts = await prober.verify(addresses)
    took, cpu = time.monotonic() - start, time.process_time() - busy
    taken = {str(address) for address, verdict in verdicts.items() if verdict.state is State.TAKEN}
    assert taken == {f"10.9.0.{number}" for number in range(100, 120)}
    assert len(verdicts) == 256
    assert {_mac(verdict) for verdict in verdicts.values()} == {holder.mac, ""}
    print("batch_256_s", round(took, 3))
    print("batch_256_cpu_s", round(cpu, 3))
    assert took < 1.0


def _mac(verdict: Verdict) -> str:
    return verdict.evidence.mac if verdict.evidence else ""
