"""The course that a test of either family runs: wait, send, wait, send, …, listen. No clock and no I/O.

The listening time starts at the moment the last probe was really sent, however late that was (rate limit, busy loop).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipam.addresses import Address
from probes.messages import Message
from probes.profiles import Timing
from probes.verdicts import Evidence, State, Verdict

OVERSLEPT_S = 1.0  # a listener that wakes this late was suspended and deaf: it listens anew
MAX_RETRIES = 3


@dataclass(frozen=True, slots=True)
class Send:
    """Put `message` on the segment."""

    message: Message


@dataclass(frozen=True, slots=True)
class Decided:
    """The test of one address is over."""

    verdict: Verdict


Effect = Send | Decided


@dataclass(frozen=True, slots=True)
class Course:
    """Where a test stands. `due` is when something is to be done next, in the caller's `now` seconds."""

    waits: tuple[float, ...]
    listen_s: float
    due: float
    sent: int = 0
    retries: int = 0

    @classmethod
    def begin(cls, timing: Timing, draws: tuple[float, ...], now: float) -> Course:
        """The course of `timing`, starting at `now`; `draws` as in `Timing.waits`."""
        waits = timing.waits(draws)
        return cls(waits, timing.listen_s, now + waits[0])

    @property
    def sends_next(self) -> bool:
        """Whether the next thing to do is to send a probe (else: to end the test)."""
        return self.sent < len(self.waits)

    def after_sending(self, now: float) -> Course:
        """The course once a probe went out at `now`."""
        sent = self.sent + 1
        wait = self.waits[sent] if sent < len(self.waits) else self.listen_s
        return replace(self, sent=sent, due=now + wait)

    def overslept(self, now: float) -> bool:
        """Whether the end of listening was noticed so late that frames may have been lost meanwhile."""
        return now - self.due > OVERSLEPT_S

    def again(self, now: float) -> Course:
        """Send the last probe once more and listen anew."""
        return replace(self, sent=len(self.waits) - 1, due=now, retries=self.retries + 1)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a course whose time is up goes on: another try, or a verdict."""

    course: Course | None
    verdict: Verdict | None


def end(course: Course, address: Address, proxied: Evidence | None, now: float) -> Ending:
    """What to do at the end of listening: clear if nobody spoke and we were awake."""
    if not course.overslept(now):
        reason = f"only {proxied.mac} answered, which answers for every address" if proxied else ""
        return Ending(None, Verdict(address, State.CLEAR, now, proxied, reason))
    if course.retries >= MAX_RETRIES:
        return Ending(None, Verdict(address, State.UNKNOWN, now, None, "the prober was suspended while it listened"))
    return Ending(course.again(now), None)
