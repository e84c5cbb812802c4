"""Passive watching: who uses the addresses that we own or hold free?

One port, three modes. `ebpf` (probes.ebpf.watcher) and `packet` behave the same; `off` sees nothing and says so. What
none of them can see: traffic between macvlan children of this node that is not broadcast, and anything that the
switch does not send to our port.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from adapters.clock import Clock
from adapters.frames import FramePort, Heard
from ipam.addresses import Address
from probes import codec
from probes.macs import MacTable, Party, canonical_mac

MAX_WATCHED = 16_384
MAX_SEEN = 16_384
REPEAT_S = 1.0  # the same MAC on the same address is reported once a second,
FLOOD_S = 0.01  # any MAC on the same address at most every 10 ms


class Mode(Enum):
    EBPF = "ebpf"
    PACKET = "packet"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Expected:
    """Who may use a watched address: `mac`, nobody (None), or while `settling` whoever on this node got it a moment
    ago.
    """

    mac: str | None = None
    settling: bool = False


@dataclass(frozen=True, slots=True)
class Intrusion:
    """A watched address was used, or probed for, by somebody else; `at` in `Clock.now()` seconds.

    `outgoing`: the frame left this node, so a local pod or process is to blame. `suppressed`: how many like it were
    not reported before. `answer`: an ARP reply or an advertisement without Override, which a proxy gives for others too.
    """

    address: Address
    vlan: int
    mac: str
    probing: bool
    outgoing: bool
    party: Party
    at: float
    suppressed: int = 0
    answer: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """The last use of an address on the segment."""

    mac: str
    at: float
    outgoing: bool


OnIntrusion = Callable[[Intrusion], None]


class Watcher(Protocol):
    """Calls its `on_intrusion` on the event loop. VLAN 0 is the untagged network."""

    @property
    def mode(self) -> Mode: ...

    @property
    def reason(self) -> str:
        """Why it is not in mode `ebpf`, or what is wrong at the moment; empty if all is well."""

    def watch(
        self, address: Address, expected_mac: str | None = None, *, vlan: int = 0, settling: bool = False
    ) -> None:
        """Report uses by others than `expected_mac`; None: by anybody. `settling`: the holder is on this node, its
        MAC not known yet.

        Replaces what was said of the address before. Raises ValueError beyond MAX_WATCHED.
        """

    def unwatch(self, address: Address, *, vlan: int = 0) -> None:
        """Report nothing more about `address`."""

    def set_macs(self, macs: MacTable) -> None:
        """Whose MACs are known from now on."""

    def last_seen(self, address: Address, *, vlan: int = 0) -> Seen | None:
        """The last use seen, watched or not; forgotten when the table is full."""

    def counters(self) -> dict[str, int]:
        """Totals: frames, events, suppressed, lost."""

    async def close(self) -> None:
        """Stop reporting; idempotent."""


def counts(expected: Expected, party: Party, mac: str, *, probing: bool, outgoing: bool) -> bool:
    """Whether a use (or probe) of a watched address by `mac` is an intrusion. `watch.c` follows the same rule.

    Our own MAC coming in is a copy of our own frame; going out it is this node using the address itself. Another
    node's probe is a test, not a use.
    """
    if party is Party.SELF and (probing or not outgoing):
        return False
    if party is Party.CLUSTER and probing:
        return False
    if expected.mac == mac:
        return False
    return not (expected.settling and (outgoing or party is Party.LOCAL_POD))


@dataclass(slots=True)
class _Watched:
    expected: Expected
    reported_at: float = float("-inf")
    reported_mac: str = ""
    suppressed: int = 0


class PacketWatcher:
    """The same over AF_PACKET, where eBPF cannot load. `port` must hear outgoing frames too; it is closed with the
    watcher.
    """

    def __init__(self, port: FramePort, clock: Clock, on_intrusion: OnIntrusion, reason: str) -> None:
        self._port = port
        self._clock = clock
        self._on_intrusion = on_intrusion
        self._reason = reason
        self._macs = MacTable()
        self._watched: dict[tuple[Address, int], _Watched] = {}
        self._seen: OrderedDict[tuple[Address, int], Seen] = OrderedDict()
        self._frames = self._events = self._suppressed = 0
        self._unsubscribe = port.subscribe(self._hear)

    @property
    def mode(self) -> Mode:
        return Mode.PACKET

    @property
    def reason(self) -> str:
        return self._reason

    def watch(
        self, address: Address, expected_mac: str | None = None, *, vlan: int = 0, settling: bool = False
    ) -> None:
        if (address, vlan) not in self._watched and len(self._watched) >= MAX_WATCHED:
            raise ValueError(f"at most {MAX_WATCHED} addresses can be watched")
        self._watched[address, vlan] = _Watched(expectation(expected_mac, settling=settling))

    def unwatch(self, address: Address, *, vlan: int = 0) -> None:
        self._watched.pop((address, vlan), None)

    def set_macs(self, macs: MacTable) -> None:
        self._macs = macs

    def last_seen(self, address: Address, *, vlan: int = 0) -> Seen | None:
        return self._seen.get((address, vlan))

    def counters(self) -> dict[str, int]:
        return {
            "frames": self._frames,
            "events": self._events,
            "suppressed": self._suppressed,
            "lost": self._port.lost(),
        }

    async def close(self) -> None:
        self._unsubscribe()
        self._port.close()

    def _hear(self, heard: Heard) -> None:
        glimpse = codec.glimpse(heard.frame, heard.vlan)
        if glimpse is None:
            return
        self._frames += 1
        now = self._clock.now()
        where = glimpse.address, glimpse.vlan
        if not glimpse.probing:
            self._seen[where] = Seen(glimpse.mac, now, heard.outgoing)
            self._seen.move_to_end(where)
            if len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)
        watched = self._watched.get(where)
        if watched is not None:
            self._judge(watched, glimpse, heard, now)

    def _judge(self, watched: _Watched, glimpse: codec.Glimpse, heard: Heard, now: float) -> None:
        party = self._macs.party(glimpse.mac)
        outgoing, probing = heard.outgoing, glimpse.probing
        if not counts(watched.expected, party, glimpse.mac, probing=probing, outgoing=outgoing):
            return
        since = now - watched.reported_at
        if since < FLOOD_S or (since < REPEAT_S and watched.reported_mac == glimpse.mac):
            watched.suppressed += 1
            self._suppressed += 1
            return
        if codec.decode(heard.frame, heard.vlan) is None:
            return
        suppressed, watched.suppressed = watched.suppressed, 0
        watched.reported_at, watched.reported_mac = now, glimpse.mac
        self._events += 1
        self._on_intrusion(
            Intrusion(
                glimpse.address, glimpse.vlan, glimpse.mac, probing, outgoing, party, now, suppressed, glimpse.answer
            )
        )


class NoWatcher:
    """Sees nothing; `reason` says why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    @property
    def mode(self) -> Mode:
        return Mode.OFF

    @property
    def reason(self) -> str:
        return self._reason

    def watch(
        self, address: Address, expected_mac: str | None = None, *, vlan: int = 0, settling: bool = False
    ) -> None:
        del address, expected_mac, vlan, settling

    def unwatch(self, address: Address, *, vlan: int = 0) -> None:
        del address, vlan

    def set_macs(self, macs: MacTable) -> None:
        del macs

    def last_seen(self, address: Address, *, vlan: int = 0) -> Seen | None:
        del address, vlan
        return None

    def counters(self) -> dict[str, int]:
        return {}

    async def close(self) -> None:
        return None


def expectation(expected_mac: str | None, *, settling: bool) -> Expected:
    """What `Watcher.watch` was told, in canonical form; raises ValueError for a bad MAC."""
    return Expected(canonical_mac(expected_mac) if expected_mac is not None else None, settling)
