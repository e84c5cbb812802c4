"""Raw Ethernet frames as a port: ARP and IPv6 neighbour discovery on one interface, and a wire in memory for tests.

Guarantees of every port: handlers run on the event loop and never inside `send`; a frame sent is not delivered to its
own sender's handlers, except as `outgoing` where that was asked for; `poll` delivers all that has arrived, so a
decision taken after it has heard everything that came before. Not guaranteed: delivery. `send` says what the kernel
took, `lost` what a full buffer cost, `ready` whether the link is there at all.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from adapters.framefilter import discovery_filter

Handler = Callable[["Heard"], None]
Unsubscribe = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Heard:
    """One frame from its Ethernet header on. `vlan` is the tag that the kernel lifted out of it, 0 if none."""

    frame: bytes
    vlan: int = 0
    outgoing: bool = False


class FramePort(Protocol):
    """One interface. Not thread-safe; used from the event loop."""

    @property
    def name(self) -> str: ...

    @property
    def mac(self) -> str:
        """The interface's hardware address, lower case with colons."""

    def subscribe(self, handler: Handler) -> Unsubscribe:
        """Call `handler` for every frame from now on; without any subscriber the port listens to nothing and costs
        nothing.
        """

    def send(self, frames: Sequence[bytes]) -> int:
        """Send in order; how many were taken. Fewer than given means that the link is down or its queue full; never
        raises for that.
        """

    def poll(self) -> None:
        """Deliver everything that has arrived, now."""

    def ready(self) -> bool:
        """Whether the interface exists, is up and has a carrier."""

    def lost(self) -> int:
        """How many frames were lost in the port's own buffer, or may have been lost while the link was down, since it
        was opened.
        """

    def flaps(self) -> int:
        """How often the interface went down, or was created anew, since the port was opened."""

    def close(self) -> None:
        """Stop; idempotent. Later calls of `send` take nothing."""


_ETH_P_ALL = 0x0003
_ETH_P_NOBODY = 0x88B5  # IEEE's local experiment 1; a bound socket cannot go back to protocol 0
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_AUXDATA = 8
_PACKET_IGNORE_OUTGOING = 23
_PACKET_OUTGOING = 4
_SO_ATTACH_FILTER = 26
_SIOCGIFFLAGS = 0x8913
_SIOCGIFINDEX = 0x8933
_IFF_UP_AND_RUNNING = 0x41
_VLAN_VALID = 0x10
_AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata
_RECEIVE_BUFFER = 1 << 20
_LONGEST_FRAME = 2048
_PER_TURN = 256  # frames handled before the event loop gets its turn
_PER_POLL = 16_384


class _Subscribers:
    """The handlers of a port, called in order of subscription."""

    def __init__(self) -> None:
        self._handlers: dict[int, Handler] = {}
        self._next = 0

    def __bool__(self) -> bool:
        return bool(self._handlers)

    def add(self, handler: Handler) -> int:
        self._next += 1
        self._handlers[self._next] = handler
        return self._next

    def remove(self, key: int) -> bool:
        return self._handlers.pop(key, None) is not None

    def clear(self) -> None:
        self._handlers.clear()

    def deliver(self, heard: Heard) -> None:
        for handler in tuple(self._handlers.values()):
            handler(heard)


class FrameSocket:
    """An AF_PACKET port on `interface` of the network namespace in which it is opened, whatever namespace later calls
    come from.

    Needs CAP_NET_RAW; raises OSError if the interface is missing. A flap of the interface is survived; so is its
    deletion and re-creation under the same name.
    """

    def __init__(self, interface: str, *, hear_outgoing: bool = False) -> None:
        self._interface = interface
        self._subscribers = _Subscribers()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lost = self._flaps = 0
        self._closed = False
        self._sender = _packet_socket()
        self._receiver = _packet_socket()
        try:
            self._prepare_receiver(hear_outgoing=hear_outgoing)
            # Protocol 0 hears nothing, so an idle port adds no tap to the interface.
            self._sender.bind((interface, 0))
        except OSError:
            self._sender.close()
            self._receiver.close()
            raise
        self._index = self._index_now()

    @property
    def name(self) -> str:
        return self._interface

    @property
    def mac(self) -> str:
        address: bytes = self._sender.getsockname()[4]
        return address.hex(":")

    def subscribe(self, handler: Handler) -> Unsubscribe:
        if not self._subscribers and not self._closed:
            self._receiver.bind((self._interface, _ETH_P_ALL))
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._receiver, self._receive, _PER_TURN)
        key = self._subscribers.add(handler)

        def unsubscribe() -> None:
            if self._subscribers.remove(key) and not self._subscribers:
                self._stop_listening()

        return unsubscribe

    def send(self, frames: Sequence[bytes]) -> int:
        if self._closed or not frames:
            return 0
        self._follow_interface()
        taken = 0
        for frame in frames:
            try:
                self._sender.send(frame)
            except OSError:
                # ENETDOWN, ENXIO, ENOBUFS, EAGAIN: the link cannot take it now. The caller learns it from the count.
                break
            taken += 1
        return taken

    def poll(self) -> None:
        self._receive(_PER_POLL)

    def ready(self) -> bool:
        if self._closed or not self._follow_interface():
            return False
        try:
            flags = struct.unpack_from("16xH", self._ask(_SIOCGIFFLAGS))[0]
        except OSError:
            return False
        return int(flags) & _IFF_UP_AND_RUNNING == _IFF_UP_AND_RUNNING

    def lost(self) -> int:
        if not self._closed:
            counted = self._receiver.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            self._lost += struct.unpack("=II", counted)[1]
            self.flaps()
        return self._lost + self._flaps

    def flaps(self) -> int:
        # ENETDOWN of a flap while nobody listened: asked for here, or the next listener would take it for his.
        if not self._closed and self._receiver.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._flaps += 1
        return self._flaps

    def close(self) -> None:
        if self._closed:
            return
        if self._subscribers:
            self._subscribers.clear()
            self._stop_listening()
        self._closed = True
        self._sender.close()
        self._receiver.close()

    def _prepare_receiver(self, *, hear_outgoing: bool) -> None:
        receiver = self._receiver
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        receiver.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        if not hear_outgoing:
            receiver.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        program = discovery_filter(_LONGEST_FRAME)
        code = ctypes.create_string_buffer(program, len(program))
        head = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
        receiver.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)

    def _stop_listening(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._receiver)
        with suppress(OSError):  # a deleted interface has already let go of the socket
            self._receiver.bind((self._interface, _ETH_P_NOBODY))
        for _ in range(_PER_POLL):  # what is still queued must not meet the next subscriber
            try:
                self._receiver.recv(1)
            except BlockingIOError:
                return
            except OSError:
                continue

    def _receive(self, limit: int) -> None:
        for _ in range(limit):
            if not self._subscribers:  # a handler may have unsubscribed or closed the port
                return
            try:
                frame, extra, _, sender = self._receiver.recvmsg(_LONGEST_FRAME, 64)
            except BlockingIOError:
                return
            except OSError:
                # ENETDOWN, once per flap: the socket stays bound and hears again once the link is up.
                self._flaps += 1
                if not self._follow_interface():
                    return
                continue
            self._subscribers.deliver(Heard(frame, _lifted_vlan(extra), sender[2] == _PACKET_OUTGOING))

    def _follow_interface(self) -> bool:
        """Bind anew if the interface was deleted and created again; False while it is missing."""
        try:
            index = self._index_now()
            if index == self._index:
                return True
            self._sender.bind((self._interface, 0))
            self._flaps += 1
            if self._subscribers:
                self._receiver.bind((self._interface, _ETH_P_ALL))
        except OSError:
            return False
        self._index = index
        return True

    def _index_now(self) -> int:
        return int(struct.unpack_from("16xi", self._ask(_SIOCGIFINDEX))[0])

    def _ask(self, question: int) -> bytes:
        """An ioctl about the interface, answered by the socket's own namespace."""
        return fcntl.ioctl(self._sender, question, struct.pack("16s24x", self._interface.encode()))


def _packet_socket() -> socket.socket:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)


def _lifted_vlan(extra: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in extra:
        if level == _SOL_PACKET and kind == _PACKET_AUXDATA and len(data) >= _AUXDATA.size:
            status, _, _, _, _, tag, _ = _AUXDATA.unpack_from(data)
            return int(tag) & 0xFFF if status & _VLAN_VALID else 0
    return 0


class MemorySegment:
    """A wire for tests: what one port sends, all others hear. With `hairpin`, the sender's own frames come back, as
    on a bond or a mirrored port.
    """

    def __init__(self, *, hairpin: bool = False) -> None:
        self.hairpin = hairpin
        self.frames: list[bytes] = []  # all that was ever sent, in order
        self._ports: list[MemoryPort] = []

    def port(self, mac: str, name: str = "mem0", *, hear_outgoing: bool = False) -> MemoryPort:
        """A new interface on this wire."""
        port = MemoryPort(self, mac, name, hear_outgoing=hear_outgoing)
        self.add(port)
        return port

    def add(self, port: MemoryPort) -> None:
        """Connect a port made elsewhere."""
        self._ports.append(port)

    def carry(self, source: MemoryPort, frame: bytes) -> None:
        """Deliver `frame` to all other ports that are up (and back to `source` with `hairpin`)."""
        self.frames.append(frame)
        for port in self._ports:
            if port is not source:
                port.arrive(Heard(frame))
                continue
            if port.hear_outgoing:
                port.arrive(Heard(frame, outgoing=True))
            if self.hairpin:
                port.arrive(Heard(frame))


class MemoryPort:
    """The fake beside `FrameSocket`. `up = False` takes the link down; `room` bounds its buffer."""

    def __init__(self, segment: MemorySegment, mac: str, name: str, *, hear_outgoing: bool = False) -> None:
        self._up = True
        self.room = 4096
        self.hear_outgoing = hear_outgoing
        self._segment = segment
        self._mac = mac
        self._name = name
        self._subscribers = _Subscribers()
        self._arrived: deque[Heard] = deque()
        self._lost = self._flaps = 0
        self._closed = False

    @property
    def up(self) -> bool:
        return self._up

    @up.setter
    def up(self, value: bool) -> None:
        self._flaps += self._up and not value
        self._up = value

    @property
    def name(self) -> str:
        return self._name

    @property
    def mac(self) -> str:
        return self._mac

    def subscribe(self, handler: Handler) -> Unsubscribe:
        key = self._subscribers.add(handler)

        def unsubscribe() -> None:
            self._subscribers.remove(key)
            if not self._subscribers:
                self._arrived.clear()

        return unsubscribe

    def send(self, frames: Sequence[bytes]) -> int:
        if self._closed or not self.up:
            return 0
        for frame in frames:
            self._segment.carry(self, bytes(frame))
        return len(frames)

    def arrive(self, heard: Heard) -> None:
        """A frame from the wire; handed to the handlers at the loop's next turn, or by `poll`."""
        if not self.up or not self._subscribers or self._closed:
            return
        if len(self._arrived) >= self.room:
            self._lost += 1
            return
        self._arrived.append(heard)
        asyncio.get_running_loop().call_soon(self.poll)

    def poll(self) -> None:
        while self._arrived:
            self._subscribers.deliver(self._arrived.popleft())

    def ready(self) -> bool:
        return self.up and not self._closed

    def lost(self) -> int:
        return self._lost + self._flaps

    def flaps(self) -> int:
        return self._flaps

    def close(self) -> None:
        self._closed = True
        self._subscribers.clear()
        self._arrived.clear()
