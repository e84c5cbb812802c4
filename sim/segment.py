"""The segment as one machine sees it: probes are answered by the wire's ground truth, and whoever speaks on it is overheard.

The production code above it is all of `nodeagent.verification`, `probes.verifier` and `probes.quarantine`; frames themselves are not simulated. As on
a macvlan parent, a machine cannot hear its own pods. Each frame may be lost (`arp-loss`), so a test may be deceived: the wire remembers that.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ipam.addresses import Address, Network
from ipam.parents import Parent
from ipam.slots import SlotId
from nodeagent.segment import Segment
from probes.macs import MacTable, Party
from probes.messages import How
from probes.prober import Lane, Prober
from probes.profiles import FAST, Profile
from probes.verdicts import Evidence, Question, State, Verdict
from probes.watcher import Expected, Intrusion, Mode, OnIntrusion, Seen, counts
from sim.loop import Process

if TYPE_CHECKING:
    from sim.machine import Machine

UNKNOWN_CHANCE = (
    0.3  # of a test in which frames were lost: that the machine notices (a full queue, a link that flapped)
)


class SimSegment:
    """`SegmentPort` of one agent process."""

    def __init__(self, machine: Machine, process: Process) -> None:
        self._machine = machine
        self._process = process

    @property
    def parent(self) -> Parent:
        return Parent(self._machine.config.parent, self._machine.config.domain)

    async def open(self, on_intrusion: OnIntrusion) -> Segment:
        await asyncio.sleep(self._machine.random.uniform(0.0, 0.05))
        prober = SimProber(self._machine, self._process)
        return Segment(cast(Prober, prober), SimWatcher(self._machine, self._process, on_intrusion))

    async def mac_of(self, netns: Path, interface: str) -> str | None:
        del interface
        sandbox = self._machine.world.kubelets[self._machine.name].sandboxes.get(netns.name)
        return sandbox.mac if sandbox is not None and sandbox.live else None


class SimProber:
    """What `Verification`, `Verifier`, `Surveys` and `Pins` ask of a prober. No gateway answers for everything, and no link flaps.

    `Machine.proven`: what this process last found silent, and when.
    """

    def __init__(self, machine: Machine, process: Process) -> None:
        self._machine = machine
        self._process = process
        self._random = random.Random(f"{machine.world.seed}/probes/{process.name}")

    async def verify(
        self,
        addresses: Iterable[Address],
        profile: Profile = FAST,
        *,
        lane: Lane = Lane.ADD,
        holders: Mapping[Address, str] | None = None,
        question: Question = Question.FREE,
    ) -> dict[Address, Verdict]:
        del lane, question
        wanted = tuple(dict.fromkeys(addresses))
        expected = holders or {}
        before = {address: self._heard(address, profile) for address in wanted}
        await asyncio.sleep(self._random.uniform(profile.arp.shortest_s, profile.arp.longest_s))
        self._machine.living(self._process)
        return {address: self._verdict(address, before[address], expected.get(address)) for address in wanted}

    def _heard(self, address: Address, profile: Profile) -> tuple[str, bool]:
        """The MAC that answered one of the probes ("" for none), and whether frames of somebody who was there were lost."""
        slot = SlotId("", address.family, address.value)
        mac = self._machine.world.wire.answers(slot, self._machine.name)
        if not mac:
            return "", False
        loses = self._machine.world.strikes
        lost = [loses("arp-loss", self._random) or loses("arp-loss", self._random) for _ in range(profile.arp.count)]
        return ("", True) if all(lost) else (mac, False)

    def _verdict(self, address: Address, heard: tuple[str, bool], expected: str | None) -> Verdict:
        machine, now = self._machine, self._machine.clock.now()
        slot = SlotId("", address.family, address.value)
        mac, deceived = heard
        if mac and mac != expected:
            machine.proven.pop(slot, None)
            return Verdict(address, State.TAKEN, now, Evidence(mac, How.ARP_CLAIM, Party.FOREIGN, now))
        if deceived and self._random.random() < UNKNOWN_CHANCE:
            return Verdict(address, State.UNKNOWN, now, reason="the test could not be trusted")
        deceptions = machine.world.wire.deceived
        deceptions.discard((slot, machine.name))  # an earlier one excuses nothing after this test
        if deceived:
            deceptions.add((slot, machine.name))
        machine.proven[slot] = now
        return Verdict(address, State.CLEAR, now)

    def announce(self, address: Address, mac: str) -> None:
        self._machine.world.wire.speak(SlotId("", address.family, address.value), mac, self._machine.name)

    def stop_announcing(self, address: Address) -> None:
        """One announcement is made, at once."""

    @property
    def proxies(self) -> frozenset[str]:
        return frozenset()

    def link_up(self) -> bool:
        return True

    def flaps(self) -> int:
        return 0

    def can_survey(self, network: Network) -> bool:
        del network
        return False

    async def close(self) -> None:
        return None


class SimWatcher:
    """Hears every announcement of others on the wire, unless the frame is lost."""

    def __init__(self, machine: Machine, process: Process, on_intrusion: OnIntrusion) -> None:
        self._machine = machine
        self._process = process
        self._on_intrusion = on_intrusion
        self._watched: dict[SlotId, Expected] = {}
        self._random = random.Random(f"{machine.world.seed}/watcher/{process.name}")
        machine.world.wire.listeners[self] = None

    @property
    def mode(self) -> Mode:
        return Mode.PACKET

    @property
    def reason(self) -> str:
        return ""

    def watch(
        self, address: Address, expected_mac: str | None = None, *, vlan: int = 0, settling: bool = False
    ) -> None:
        del vlan
        self._watched[SlotId("", address.family, address.value)] = Expected(expected_mac, settling)

    def unwatch(self, address: Address, *, vlan: int = 0) -> None:
        del vlan
        self._watched.pop(SlotId("", address.family, address.value), None)

    def set_macs(self, macs: MacTable) -> None:
        """Every MAC but an expected one is a stranger's."""

    def last_seen(self, address: Address, *, vlan: int = 0) -> Seen | None:
        del address, vlan
        return None

    def counters(self) -> dict[str, int]:
        return {}

    async def close(self) -> None:
        self._machine.world.wire.listeners.pop(self, None)

    def hear(self, slot: SlotId, mac: str, node: str) -> None:
        """Somebody announced `mac` on the address; `node`: the machine that it came from, "" for a stranger."""
        expected, machine = self._watched.get(slot), self._machine
        if (
            expected is None
            or node == machine.name
            or not machine.up
            or machine.world.strikes("arp-loss", self._random)
        ):
            return
        if counts(expected, Party.FOREIGN, mac, probing=False, outgoing=False):
            seen = Intrusion(slot.address, 0, mac, False, False, Party.FOREIGN, machine.clock.now())
            machine.loop.call_soon(self._on_intrusion, seen, context=self._process.context.copy())
