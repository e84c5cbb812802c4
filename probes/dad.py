"""IPv6 duplicate address detection, RFC 4862 section 5.4 with the nonce of RFC 7527, as a machine without I/O.

The solicitation goes from :: to the solicited-node group of the candidate with a random nonce. Taken: an
advertisement for the candidate; a solicitation for it from :: with another nonce or, without one, another MAC; or any
packet of neighbour discovery sent *from* it. A solicitation with our nonce is our own, looped back by a bond, a
mirror port or a hairpin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipam.addresses import Address
from probes.course import Course, Decided, Effect, Send, end
from probes.messages import ANY_V6, Arp, How, Message, Sign, Solicitation, signs
from probes.profiles import Timing
from probes.verdicts import Evidence, State, Surroundings, Verdict, Weight

NONCE_BYTES = 6  # RFC 3971 section 5.3.2: at least 6; with it the option is 8 bytes


def nd_probe(candidate: Address, mac: str, nonce: bytes, vlan: int = 0) -> Solicitation:
    """The solicitation of section 5.4.2: source ::, no source link-layer option, and our nonce."""
    return Solicitation(ANY_V6, candidate, mac, nonce=nonce, vlan=vlan)


@dataclass(frozen=True, slots=True)
class NdTest:
    """The test of one candidate; feed it until `verdict` is set."""

    candidate: Address
    mac: str
    nonce: bytes
    vlan: int
    course: Course
    proxied: Evidence | None = None
    verdict: Verdict | None = None

    @classmethod
    def begin(
        cls,
        candidate: Address,
        mac: str,
        nonce: bytes,
        timing: Timing,
        draws: tuple[float, ...],
        now: float,
        vlan: int = 0,
    ) -> NdTest:
        """A test starting at `now`, sending from `mac`; `nonce` is random, NONCE_BYTES long, and new for each test."""
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
        return cls(candidate, mac, nonce, vlan, Course.begin(timing, draws, now))

    def on_time(self, now: float) -> tuple[NdTest, tuple[Effect, ...]]:
        """Do what is due at `now`: at most one solicitation, or the verdict. Early calls change nothing."""
        if self.verdict is not None or now < self.course.due:
            return self, ()
        if self.course.sends_next:
            probe = nd_probe(self.candidate, self.mac, self.nonce, self.vlan)
            return replace(self, course=self.course.after_sending(now)), (Send(probe),)
        ending = end(self.course, self.candidate, self.proxied, now)
        if ending.course is not None:
            return replace(self, course=ending.course), ()
        assert ending.verdict is not None
        return replace(self, verdict=ending.verdict), (Decided(ending.verdict),)

    def on_message(self, message: Message, around: Surroundings, now: float) -> tuple[NdTest, tuple[Effect, ...]]:
        """Weigh what was heard at `now`; anything on another VLAN or about another address changes nothing."""
        if self.verdict is not None or isinstance(message, Arp) or message.vlan != self.vlan:
            return self, ()
        for sign in signs(message):
            if sign.address != self.candidate:
                continue
            weight = self._weigh(message, sign, around)
            if weight is Weight.TAKEN:
                verdict = Verdict(self.candidate, State.TAKEN, now, around.evidence(sign, now))
                return replace(self, verdict=verdict), (Decided(verdict),)
            if weight is Weight.PROXIED:
                return replace(self, proxied=around.evidence(sign, now)), ()
        return self, ()

    def _weigh(self, message: Message, sign: Sign, around: Surroundings) -> Weight:
        if sign.how is How.ND_PROBE and isinstance(message, Solicitation) and message.nonce is not None:
            if message.nonce == self.nonce:
                return Weight.NOTHING
            if sign.mac == self.mac:
                # RFC 7527 section 4.2: our MAC but not our nonce is another host with our MAC, not an echo.
                return Weight.TAKEN
        return around.weigh(sign)
