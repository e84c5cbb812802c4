"""An address that a stranger uses: held back with a reason, tested again on a schedule, released when it fell silent.
No clock and no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipam.addresses import Address
from probes.verdicts import Evidence, State, Verdict

FIRST_RETEST_S = 60.0
LAST_RETEST_S = 3600.0
CLEAR_NEEDED = 2  # one silent test may have missed a host that was rebooting


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why an address is held back, since when, and when it is tested next.

    It ends (I7) with CLEAR_NEEDED clear verdicts in a row, each from a test of its own; until then `next_test` is
    always a stated time, at most LAST_RETEST_S ahead. An unknown verdict proves nothing: it neither counts nor
    resets.
    """

    address: Address
    evidence: Evidence
    since: float
    next_test: float
    gap_s: float = FIRST_RETEST_S
    clear: int = 0
    first_s: float = FIRST_RETEST_S

    @classmethod
    def begin(cls, address: Address, evidence: Evidence, now: float, first_s: float = FIRST_RETEST_S) -> Quarantine:
        """Hold `address` back from `now` on; the first re-test is `first_s` later, and so is each one after silence."""
        return cls(address, evidence, now, now + first_s, gap_s=first_s, first_s=first_s)

    def due(self, now: float) -> bool:
        return now >= self.next_test

    def after(self, verdict: Verdict, now: float) -> Quarantine | None:
        """The quarantine after a re-test, or None if it is over. A verdict older than the quarantine's last word
        changes nothing.
        """
        if verdict.at < self.since:
            return self
        if verdict.state is State.CLEAR:
            if self.clear + 1 >= CLEAR_NEEDED:
                return None
            return replace(self, clear=self.clear + 1, gap_s=self.first_s, next_test=now + self.first_s)
        if verdict.state is State.TAKEN and verdict.evidence is not None:
            gap = min(self.gap_s * 2, LAST_RETEST_S)
            return replace(self, evidence=verdict.evidence, clear=0, gap_s=gap, next_test=now + gap)
        return replace(self, next_test=now + self.gap_s)

    def seen_again(self, evidence: Evidence, now: float) -> Quarantine:
        """The watcher saw the address used again: any silence so far is void."""
        return replace(self, evidence=evidence, clear=0, next_test=max(self.next_test, now + self.first_s))
