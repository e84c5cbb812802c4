"""IPv4 address conflict detection, RFC 5227, as two machines without I/O: the test before use, and the defence while
in use.

Conflict (section 2.1.1): while probing, or within ANNOUNCE_WAIT after the last probe, any ARP packet whose sender
address is the candidate, or any ARP probe for the candidate from another MAC. Probes carry sender address 0.0.0.0, so
a test never disturbs the holder's peers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipam.addresses import Address
from probes.course import Course, Decided, Effect, Send, end
from probes.messages import ANY_V4, Arp, Message, signs
from probes.profiles import DEFEND_INTERVAL_S, Timing
from probes.verdicts import Evidence, State, Surroundings, Verdict, Weight


def arp_probe(candidate: Address, mac: str, vlan: int = 0) -> Arp:
    """The ARP probe of section 1.1: request, sender 0.0.0.0, target hardware address all zero, broadcast."""
    return Arp(1, mac, ANY_V4, candidate, source_mac=mac, vlan=vlan)


def arp_announcement(address: Address, mac: str, vlan: int = 0) -> Arp:
    """The ARP announcement of section 2.3: like a probe, but sender and target are the address."""
    return Arp(1, mac, address, address, source_mac=mac, vlan=vlan)


@dataclass(frozen=True, slots=True)
class ArpTest:
    """The test of one candidate; feed it until `verdict` is set."""

    candidate: Address
    mac: str
    vlan: int
    course: Course
    proxied: Evidence | None = None
    verdict: Verdict | None = None

    @classmethod
    def begin(
        cls, candidate: Address, mac: str, timing: Timing, draws: tuple[float, ...], now: float, vlan: int = 0
    ) -> ArpTest:
        """A test starting at `now`, sending from `mac`; nothing is sent before `on_time`."""
        return cls(candidate, mac, vlan, Course.begin(timing, draws, now))

    def on_time(self, now: float) -> tuple[ArpTest, tuple[Effect, ...]]:
        """Do what is due at `now`: at most one probe, or the verdict. Early calls change nothing."""
        if self.verdict is not None or now < self.course.due:
            return self, ()
        if self.course.sends_next:
            probe = arp_probe(self.candidate, self.mac, self.vlan)
            return replace(self, course=self.course.after_sending(now)), (Send(probe),)
        ending = end(self.course, self.candidate, self.proxied, now)
        if ending.course is not None:
            return replace(self, course=ending.course), ()
        assert ending.verdict is not None
        return replace(self, verdict=ending.verdict), (Decided(ending.verdict),)

    def on_message(self, message: Message, around: Surroundings, now: float) -> tuple[ArpTest, tuple[Effect, ...]]:
        """Weigh what was heard at `now`; anything on another VLAN or about another address changes nothing."""
        if self.verdict is not None or not isinstance(message, Arp) or message.vlan != self.vlan:
            return self, ()
        for sign in signs(message):
            if sign.address != self.candidate:
                continue
            weight = around.weigh(sign)
            if weight is Weight.TAKEN:
                verdict = Verdict(self.candidate, State.TAKEN, now, around.evidence(sign, now))
                return replace(self, verdict=verdict), (Decided(verdict),)
            if weight is Weight.PROXIED:
                return replace(self, proxied=around.evidence(sign, now)), ()
        return self, ()


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another host claims an address in use. `lost`: by section 2.4 (b) a host would give the address up now."""

    address: Address
    evidence: Evidence
    lost: bool


@dataclass(frozen=True, slots=True)
class Defence:
    """Section 2.4 for one address in use by `mac`: defend once per DEFEND_INTERVAL, then say that it is lost.

    The pod keeps its address either way: only its owner may decide that. `lost` tells the caller to report instead of
    defending on, because two hosts that both insist would flood the segment.
    """

    address: Address
    mac: str
    vlan: int = 0
    last_conflict: float | None = None

    def on_message(
        self, message: Message, around: Surroundings, now: float
    ) -> tuple[Defence, tuple[Send | Conflict, ...]]:
        """A claim by another MAC: the first in DEFEND_INTERVAL is answered by one announcement, the next is lost."""
        if not isinstance(message, Arp) or message.vlan != self.vlan:
            return self, ()
        for sign in signs(message):
            # A probe is no conflict here: the holder's own stack answers it (section 2.4, first paragraph).
            if sign.address != self.address or sign.mac == self.mac or sign.how.is_probe:
                continue
            if around.weigh(sign) is not Weight.TAKEN:
                continue
            recent = self.last_conflict is not None and now - self.last_conflict < DEFEND_INTERVAL_S
            state = replace(self, last_conflict=now)
            report = Conflict(self.address, around.evidence(sign, now), lost=recent)
            if recent:
                return state, (report,)
            return state, (report, Send(arp_announcement(self.address, self.mac, self.vlan)))
        return self, ()
