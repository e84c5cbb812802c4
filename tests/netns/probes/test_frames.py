"""One contract for the real AF_PACKET port and the wire in memory, and what only the real one can suffer."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest

from adapters.frames import FramePort, FrameSocket, Heard, MemoryPort, MemorySegment
from ipam.addresses import Address, Family
from probes import codec
from probes.acd import arp_probe
from probes.dad import nd_probe
from tests.netns.probes.lan import Lan, inside, lan, run

V4, V6 = Address.parse("10.0.0.5"), Address.parse("fd00::5")

pytestmark = pytest.mark.netns


class Wire:
    """Opens ports on one segment and closes them at the end."""

    def __init__(self) -> None:
        self.ports: list[FramePort] = []

    def port(self, *, hear_outgoing: bool = False) -> FramePort:
        raise NotImplementedError

    def take_down(self, port: FramePort) -> None:
        raise NotImplementedError

    def bring_up(self, port: FramePort) -> None:
        raise NotImplementedError


class MemoryWire(Wire):
    def __init__(self) -> None:
        super().__init__()
        self.segment = MemorySegment()

    def port(self, *, hear_outgoing: bool = False) -> FramePort:
        mac = f"02:00:00:00:00:{len(self.ports) + 1:02x}"
        self.ports.append(self.segment.port(mac, hear_outgoing=hear_outgoing))
        return self.ports[-1]

    def take_down(self, port: FramePort) -> None:
        assert isinstance(port, MemoryPort)
        port.up = False

    def bring_up(self, port: FramePort) -> None:
        assert isinstance(port, MemoryPort)
        port.up = True


class RealWire(Wire):
    """Each port is opened in its host's namespace and used from the test's own."""

    def __init__(self, net: Lan) -> None:
        super().__init__()
        self.net = net
        self.hosts = [net.host(), net.host()]
        for host in self.hosts:
            host.set("ipv6/conf/eth0/disable_ipv6", 1)  # no traffic of the kernel's own

    def port(self, *, hear_outgoing: bool = False) -> FramePort:
        host = self.hosts[len(self.ports)]
        with inside(host.namespace):
            self.ports.append(FrameSocket(host.interface, hear_outgoing=hear_outgoing))
        return self.ports[-1]

    def take_down(self, port: FramePort) -> None:
        self.hosts[self.ports.index(port)].ip("link", "set", "eth0", "down")

    def bring_up(self, port: FramePort) -> None:
        self.hosts[self.ports.index(port)].ip("link", "set", "eth0", "up")


@pytest.fixture(name="wire", params=["memory", "socket"])
def _wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    with ExitStack() as stack:
        wire: Wire = MemoryWire() if request.param == "memory" else RealWire(stack.enter_context(lan()))
        yield wire
        for port in wire.ports:
            port.close()


async def until(done: Callable[[], object], most_s: float = 3.0) -> None:
    """Let the loop run until `done()`; fails when it takes too long."""
    async with asyncio.timeout(most_s):
        while not done():  # what is awaited is a fact of the kernel or of a callback's list
            await asyncio.sleep(0.005)


async def carries(wire: Wire, sender: FramePort, heard: list[Heard]) -> None:
    """Wait until the wire carries frames (a link that just came up takes a moment)."""

    def arrived() -> bool:
        sender.send([codec.encode(arp_probe(V4, sender.mac))])
        return bool(heard)

    await until(arrived)
    await asyncio.sleep(0.05)
    heard.clear()


@pytest.fixture(name="pair")
async def _pair(wire: Wire) -> AsyncIterator[tuple[FramePort, FramePort, list[Heard]]]:
    left, right = wire.port(), wire.port()
    heard: list[Heard] = []
    stop = right.subscribe(heard.append)
    await carries(wire, left, heard)
    yield left, right, heard
    stop()


Pair = tuple[FramePort, FramePort, list[Heard]]


async def test_discovery_frames_arrive_in_order_and_intact(pair: Pair) -> None:
    left, _, heard = pair
    frames = [codec.encode(message) for message in (arp_probe(V4, left.mac), nd_probe(V6, left.mac, b"nonce1"))] * 20
    assert left.send(frames) == 40
    await until(lambda: len(heard) >= 40)
    assert [item.frame for item in heard] == frames
    assert not any(item.outgoing or item.vlan for item in heard)


async def test_handlers_do_not_run_inside_send_and_poll_delivers_at_once(pair: Pair) -> None:
    left, right, heard = pair
    left.send([codec.encode(arp_probe(V4, left.mac))])
    right.poll()
    assert len(heard) == 1


async def test_a_sender_does_not_hear_itself(pair: Pair) -> None:
    left, _, heard = pair
    own: list[Heard] = []
    left.subscribe(own.append)
    left.send([codec.encode(arp_probe(V4, left.mac))])
    await until(lambda: heard)
    left.poll()
    assert own == []


async def test_a_port_that_hears_outgoing_frames_marks_them(wire: Wire) -> None:
    left, _right = wire.port(hear_outgoing=True), wire.port()
    own: list[Heard] = []
    left.subscribe(own.append)
    await asyncio.sleep(0.05)
    left.send([codec.encode(arp_probe(V4, left.mac))])
    await until(lambda: own)
    assert own == [Heard(codec.encode(arp_probe(V4, left.mac)), outgoing=True)]


async def test_after_unsubscribing_nothing_is_delivered(wire: Wire) -> None:
    left, right = wire.port(), wire.port()
    heard: list[Heard] = []
    stop = right.subscribe(heard.append)
    await carries(wire, left, heard)
    stop()
    stop()
    left.send([codec.encode(arp_probe(V4, left.mac))])
    await asyncio.sleep(0.05)
    right.poll()
    assert heard == []


async def test_a_link_down_takes_nothing_says_so_and_hears_again_after(wire: Wire) -> None:
    left, right = wire.port(), wire.port()
    heard: list[Heard] = []
    right.subscribe(heard.append)
    await carries(wire, left, heard)
    assert left.ready()
    wire.take_down(left)
    assert not left.ready()
    assert left.send([codec.encode(arp_probe(V4, left.mac))]) == 0
    wire.bring_up(left)
    await until(left.ready)
    await carries(wire, left, heard)
    wire.take_down(right)
    await asyncio.sleep(0.05)
    wire.bring_up(right)
    await until(right.ready)
    await carries(wire, left, heard)


async def test_a_closed_port_takes_nothing(wire: Wire) -> None:
    port = wire.port()
    port.close()
    port.close()
    assert port.send([b"x" * 60]) == 0
    assert not port.ready()


async def test_a_vlan_tag_is_reported_however_the_kernel_keeps_it(pair: Pair) -> None:
    left, _, heard = pair
    left.send([codec.encode(arp_probe(V4, left.mac, vlan=42)), codec.encode(nd_probe(V6, left.mac, b"nonce1", 43))])
    await until(lambda: len(heard) >= 2)
    assert [getattr(codec.decode(item.frame, item.vlan), "vlan", None) for item in heard] == [42, 43]


async def test_the_kernel_filter_drops_everything_else(net: Lan) -> None:
    wire = RealWire(net)
    left, right = wire.port(), wire.port()
    heard: list[Heard] = []
    right.subscribe(heard.append)
    await carries(wire, left, heard)
    probe, solicitation = codec.encode(arp_probe(V4, left.mac)), codec.encode(nd_probe(V6, left.mac, b"nonce1"))
    others = [
        probe[:12] + b"\x08\x00" + probe[14:] + bytes(20),
        solicitation[:20] + b"\x11" + solicitation[21:],  # UDP
        solicitation[:54] + b"\x80" + solicitation[55:],  # echo request
        probe[:12] + bytes.fromhex("8100 0001 0800") + probe[14:] + bytes(20),
        probe[:12] + bytes.fromhex("8100 0001 86dd") + solicitation[14:20] + b"\x06" + solicitation[21:],
    ]
    tagged = codec.encode(nd_probe(V6, left.mac, b"nonce1", 5))
    assert left.send([*others, probe, tagged]) == 7
    await until(lambda: len(heard) >= 2)
    await asyncio.sleep(0.05)
    assert len(heard) == 2
    for port in wire.ports:
        port.close()


async def test_losing_and_regaining_the_interface_is_counted_and_survived(net: Lan) -> None:
    wire = RealWire(net)
    left, right = wire.port(), wire.port()
    heard: list[Heard] = []
    host = wire.hosts[0]
    hears: list[Heard] = []
    left.subscribe(hears.append)
    host.ip("link", "set", "eth0", "down")
    await until(lambda: left.lost() > 0)  # ENETDOWN
    host.ip("link", "delete", "eth0")
    assert not left.ready()
    assert left.send([bytes(60)]) == 0
    veth = ("type", "veth", "peer", "name", "again0", "netns", net.hub)
    host.ip("link", "add", "eth0", "address", "02:00:00:00:00:aa", *veth)
    host.ip("link", "set", "eth0", "up")
    for command in (("set", "again0", "master", "br0"), ("set", "again0", "up")):
        run("ip", "-n", net.hub, "link", *command)
    await until(left.ready)
    assert left.mac == "02:00:00:00:00:aa"
    right.subscribe(heard.append)
    await carries(wire, left, heard)
    right.send([codec.encode(arp_probe(V4, right.mac))])
    await until(lambda: hears)
    for port in wire.ports:
        port.close()


async def test_a_storm_of_signals_interrupts_nothing(net: Lan) -> None:
    wire = RealWire(net)
    left, right = wire.port(), wire.port()
    heard: list[Heard] = []
    right.subscribe(heard.append)
    await carries(wire, left, heard)
    caught = 0
    frames = [codec.encode(arp_probe(Address(Family.V4, number), left.mac)) for number in range(1, 201)]

    def count(_number: int, _frame: object) -> None:
        nonlocal caught
        caught += 1

    before = signal.signal(signal.SIGALRM, count)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for index in range(0, 200, 4):
            assert left.send(frames[index : index + 4]) == 4
            await asyncio.sleep(0.002)
        await until(lambda: {item.frame for item in heard} >= set(frames))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught > 20
    for port in wire.ports:
        port.close()


async def test_an_idle_port_is_no_tap_on_the_interface(net: Lan) -> None:
    wire = RealWire(net)
    port, host = wire.port(), wire.hosts[0]
    heard: list[Heard] = []

    def taps() -> int:
        return host.exec("cat", "/proc/net/ptype").count("packet_rcv")

    assert taps() == 0
    stop = port.subscribe(heard.append)
    assert taps() == 1
    stop()
    assert taps() == 0
    port.close()


async def test_a_flap_is_counted_whether_anybody_listens_or_not(wire: Wire) -> None:
    port = wire.port()
    port.subscribe(lambda _heard: None)()  # has listened once, and no longer does
    assert port.flaps() == 0
    wire.take_down(port)
    wire.bring_up(port)
    await until(port.ready)
    assert (port.flaps(), port.flaps()) == (1, 1)
    lost = port.lost()
    heard: list[Heard] = []
    port.subscribe(heard.append)
    port.poll()
    assert port.lost() == lost  # the next listener is not told of a flap before his time
    wire.take_down(port)
    wire.bring_up(port)
    await until(lambda: port.flaps() == 2)
