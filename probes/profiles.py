"""How long a probe takes: three timing profiles, and the numbers of the standards with their source.

`rfc` is the letter of the standards; it takes 4 to 7 s for IPv4, more than a pod may wait to start. `fast` is short
enough for the ADD path on networks whose round trip is below 10 ms. Silence under a shorter profile is weaker proof:
passive watching goes on in any case.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

# RFC 5227 section 1.1
PROBE_WAIT_S: Final = 1.0  # initial random delay, 0 to this
PROBE_NUM: Final = 3
PROBE_MIN_S: Final = 1.0
PROBE_MAX_S: Final = 2.0
ANNOUNCE_WAIT_S: Final = 2.0  # listening after the last probe
ANNOUNCE_NUM: Final = 2
ANNOUNCE_INTERVAL_S: Final = 2.0
DEFEND_INTERVAL_S: Final = 10.0
# MAX_CONFLICTS (10) and RATE_LIMIT_INTERVAL (60 s) bound a host that looks for an address of its own. Probing on
# behalf of a pool is bounded by the token bucket of its segment instead: with those constants a reserved range of 256
# live hosts would take four hours.

# RFC 4861 section 10 and RFC 4862 section 5.1
MAX_RTR_SOLICITATION_DELAY_S: Final = 1.0  # random delay before the first solicitation
DUP_ADDR_DETECT_TRANSMITS: Final = 1
RETRANS_TIMER_S: Final = 1.0
MAX_NEIGHBOR_ADVERTISEMENT: Final = 3

MAX_PROBES: Final = 16


@dataclass(frozen=True, slots=True)
class Timing:
    """When probes of one family go out: a random wait, `count` probes with random gaps, then listening. Seconds."""

    count: int
    initial_wait_s: float
    gap_min_s: float
    gap_max_s: float
    listen_s: float

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_PROBES:
            raise ValueError(f"count must be 1 to {MAX_PROBES}, not {self.count}")
        if min(self.initial_wait_s, self.gap_min_s, self.listen_s) < 0 or self.gap_max_s < self.gap_min_s:
            raise ValueError("waits must not be negative, and gap_max_s not below gap_min_s")

    @property
    def longest_s(self) -> float:
        """Upper bound of the whole test, without waiting for the segment's rate limit."""
        return self.initial_wait_s + (self.count - 1) * self.gap_max_s + self.listen_s

    @property
    def shortest_s(self) -> float:
        """Lower bound of the whole test."""
        return (self.count - 1) * self.gap_min_s + self.listen_s

    def waits(self, draws: tuple[float, ...]) -> tuple[float, ...]:
        """The wait before each probe; `draws` holds at least `count` numbers of [0, 1), drawn by the caller."""
        if len(draws) < self.count:
            raise ValueError(f"{self.count} draws are needed, not {len(draws)}")
        gaps = (self.gap_min_s + draw * (self.gap_max_s - self.gap_min_s) for draw in draws[1 : self.count])
        return (draws[0] * self.initial_wait_s, *gaps)


@dataclass(frozen=True, slots=True)
class Profile:
    """Timing of both families under one name."""

    name: str
    arp: Timing
    nd: Timing


FAST = Profile(
    "fast",  # nettools n-acd calls a total of about 100 ms reasonable on present networks
    arp=Timing(3, 0.010, 0.020, 0.040, 0.080),
    nd=Timing(3, 0.010, 0.020, 0.040, 0.080),
)
BALANCED = Profile(
    "balanced",
    arp=Timing(3, 0.100, 0.100, 0.200, 0.200),
    nd=Timing(3, 0.100, 0.100, 0.200, 0.200),
)
RFC = Profile(
    "rfc",
    arp=Timing(PROBE_NUM, PROBE_WAIT_S, PROBE_MIN_S, PROBE_MAX_S, ANNOUNCE_WAIT_S),
    nd=Timing(
        DUP_ADDR_DETECT_TRANSMITS, MAX_RTR_SOLICITATION_DELAY_S, RETRANS_TIMER_S, RETRANS_TIMER_S, RETRANS_TIMER_S
    ),
)
PROFILES = MappingProxyType({profile.name: profile for profile in (FAST, BALANCED, RFC)})
