"""What probes say of an address, how long that holds, and what one sign is worth.

What is not guaranteed: silence is not proof. Port security, dynamic ARP inspection, a private VLAN or a sleeping
host hide a holder, and a macvlan parent never hears its own children (the journal covers those). A verdict is what
was heard, by whom it was said, and when.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from ipam.addresses import Address
from probes.macs import MacTable, Party
from probes.messages import How, Sign


class State(Enum):
    CLEAR = "clear"  # silent through a whole test
    TAKEN = "taken"  # somebody uses it, or tests it for himself
    UNKNOWN = "unknown"  # the test could not be trusted; never treated as clear


@dataclass(frozen=True, slots=True)
class Evidence:
    """Who said it and how; `at` in `Clock.now()` seconds."""

    mac: str
    how: How
    party: Party
    at: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one test of one address, decided `at` `Clock.now()` seconds.

    `evidence` is present for `taken`; for `clear` it names a proxy whose answer was discounted. `reason` says why a
    verdict is unknown or qualified.
    """

    address: Address
    state: State
    at: float
    evidence: Evidence | None = None
    reason: str = ""

    def fresh(self, now: float, verify_interval_s: float) -> bool:
        """Whether the address may be handed out on this verdict alone (I5): clear, and younger than
        `verify_interval_s`.
        """
        return self.state is State.CLEAR and 0 <= now - self.at < verify_interval_s

    @property
    def foreign(self) -> bool:
        """Whether somebody outside the cluster uses the address: a conflict to tell the administrator."""
        return self.state is State.TAKEN and self.evidence is not None and self.evidence.party is Party.FOREIGN


class Question(Enum):
    """What a test is to find out.

    FREE: may the address be given out? Somebody else's probe for it is a no: he is about to take it. USED: does anybody answer for it? A probe
    is no answer, so any number of nodes may ask at once (gateways, reserved addresses) without hearing each other.
    """

    FREE = "free"
    USED = "used"


class Weight(Enum):
    NOTHING = "nothing"
    PROXIED = "proxied"  # a proxy answered, as it does for every address
    TAKEN = "taken"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known of the segment while a test runs.

    `holders`: addresses under test that are in use by a known MAC (a pod of ours whose address is re-verified); that
    MAC's signs are expected. `proxies`: MACs that answer for unused addresses (`probes.proxyarp`).
    """

    macs: MacTable = field(default_factory=MacTable)
    proxies: frozenset[str] = frozenset()
    holders: Mapping[Address, str] = field(default_factory=dict)
    question: Question = Question.FREE

    def weigh(self, sign: Sign) -> Weight:
        """What `sign` proves about its address.

        A proxy's answers are discounted only where a proxy could have given them: its own ARP requests and
        announcements, solicitations, and advertisements with Override still count, so the proxy's own addresses are
        found as soon as it uses them.
        """
        if self.holders.get(sign.address) == sign.mac:
            return Weight.NOTHING
        if sign.how.is_probe:
            ignored = self.question is Question.USED or self.macs.ignores_probe(sign.mac)
            return Weight.NOTHING if ignored else Weight.TAKEN
        if self.macs.ignores_claim(sign.mac):
            return Weight.NOTHING
        if sign.proxyable and sign.mac in self.proxies:
            return Weight.PROXIED
        return Weight.TAKEN

    def evidence(self, sign: Sign, now: float) -> Evidence:
        """`sign` as it goes into a verdict."""
        return Evidence(sign.mac, sign.how, self.macs.party(sign.mac), now)
