"""Leader election on one compare-and-swap record, as a pure machine.

What this does NOT guarantee: that only one process acts as leader at any instant. No lock in an asynchronous network can (a leader may be paused
between looking at its clock and writing). Leadership only keeps several planners from working at once; what makes a stale leader harmless (I9) is
that every write is a compare-and-swap on a resourceVersion and carries a `term`, which the API server never lets decrease.

What it does guarantee, as long as no clock runs more than `Timings.rate_margin` times faster than another: by their own reckoning
(`is_leading`) two candidates never lead at once. A leader counts its lease from *before* it sent the renewal that was accepted and stops after
`renew_deadline_s`; the others count `lease_s`, which is longer, from when they *saw* the record change. Only durations on each candidate's own
clock are compared, never a time that somebody wrote.

::

    no record, or nobody holds it, or it stood still for the lease time ──Acquire──> term + 1
    held by us, acknowledged less than renew_deadline_s ago ──Renew every retry_s──> same term
    held by us no longer, or not acknowledged in time ──StepDown──> the shell stops the work, then says `stepped_down`

`term` grows by one at each change of holder, also to nobody (the CRD has a rule for it). Every attempt carries a `renew_count` of its own, so that
a record read after an unknown outcome tells exactly which attempt was applied.

Times are `now` seconds of a clock that never steps (CLOCK_BOOTTIME).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

NEVER = float("-inf")
JITTER = 1.2  # a retry may come this much later than asked


@dataclass(frozen=True, slots=True)
class Timings:
    """How long others wait (`lease_s`), when the leader gives up (`renew_deadline_s`), how often it renews (`retry_s`).

    The leader's settings say them (`election`), and their defaults. Raises ValueError unless lease > deadline > retry × 1.2 > 0.
    """

    lease_s: float
    renew_deadline_s: float
    retry_s: float

    def __post_init__(self) -> None:
        if not self.retry_s > 0:
            raise ValueError(f"retry {self.retry_s} s must be positive")
        if not self.renew_deadline_s > self.retry_s * JITTER:
            raise ValueError(
                f"renew deadline {self.renew_deadline_s} s must be above {JITTER} x retry {self.retry_s} s"
            )
        if not self.lease_s > self.renew_deadline_s:
            raise ValueError(f"lease {self.lease_s} s must be above the renew deadline {self.renew_deadline_s} s")

    @property
    def rate_margin(self) -> float:
        """How much faster than the leader's another candidate's clock may run."""
        return self.lease_s / self.renew_deadline_s


@dataclass(frozen=True, slots=True)
class Record:
    """The `LeaderLock`: `holder` "" means nobody. `lease_s`: what the holder asks others to wait, in whole seconds."""

    holder: str
    term: int
    renew_count: int
    lease_s: int


@dataclass(frozen=True, slots=True)
class Acquire:
    """Write `record` over the one last observed (create it if there was none)."""

    record: Record


@dataclass(frozen=True, slots=True)
class Renew:
    """Write `record` over the one last observed."""

    record: Record


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do for so long, unless the record changes."""

    seconds: float


@dataclass(frozen=True, slots=True)
class StepDown:
    """Stop everything that a leader does, then say `stepped_down`."""


Step = Acquire | Renew | Rest | StepDown


@dataclass(frozen=True, slots=True)
class Candidate:
    """One process's view. `identity` is unique to the process: a restarted one is another candidate. `floor`: the highest term seen anywhere.

    `changed_at`: when the record was last seen to change. `attempt`, `attempted_at`: our last write and when it was about to be sent.
    `renewed_at`: when our last *accepted* write was about to be sent. `reign`: the term in which we lead, None if we do not.
    """

    identity: str
    timings: Timings
    record: Record | None = None
    changed_at: float = NEVER
    attempt: Record | None = None
    attempted_at: float = NEVER
    renewed_at: float = NEVER
    reign: int | None = None
    floor: int = 0


def observed(candidate: Candidate, record: Record | None, now: float) -> Candidate:
    """The record was read by a quorum read that began after our last write ended; None if there is no object.

    If it is our own attempt, whose outcome was unknown, it counts as accepted from when it was sent.
    """
    if record is not None and record == candidate.attempt:
        return acknowledged(candidate, record, candidate.attempted_at)
    if record == candidate.record and candidate.changed_at > NEVER:
        return candidate
    seen = replace(candidate, record=record, changed_at=now)
    return at_least(seen, record.term) if record else seen


def at_least(candidate: Candidate, term: int) -> Candidate:
    """`term` was seen on something that a leader wrote. A lock that was deleted and made anew must not begin below it."""
    return candidate if term <= candidate.floor else replace(candidate, floor=term)


def attempted(candidate: Candidate, record: Record, now: float) -> Candidate:
    """`record` is about to be sent. Say so before the request, so that a late success is recognised."""
    return replace(candidate, attempt=record, attempted_at=now)


def acknowledged(candidate: Candidate, written: Record, sent_at: float) -> Candidate:
    """The API server accepted `written`, which was begun at `sent_at`."""
    mine = written.holder == candidate.identity
    return replace(
        candidate,
        record=written,
        changed_at=sent_at,
        attempt=None,
        renewed_at=sent_at if mine else NEVER,
        reign=written.term if mine else None,
        floor=max(candidate.floor, written.term),
    )


def is_leading(candidate: Candidate, now: float) -> bool:
    """True if we lead at `now`. Asked before every write that a leader makes."""
    record = candidate.record
    return (
        candidate.reign is not None
        and record is not None
        and record.holder == candidate.identity
        and record.term == candidate.reign
        and now - candidate.renewed_at < candidate.timings.renew_deadline_s
    )


def leads_until(candidate: Candidate) -> float:
    """When, without another renewal, `is_leading` ends; -inf for one that does not lead."""
    return candidate.renewed_at + candidate.timings.renew_deadline_s if candidate.reign is not None else NEVER


def step(candidate: Candidate, now: float) -> Step:
    """What to do at `now`. The record must have been read at least once (`observed`), else there is nothing to compare with."""
    if candidate.reign is not None and not is_leading(candidate, now):
        return StepDown()
    record = candidate.record
    if record is not None and record.holder == candidate.identity:
        due = candidate.renewed_at + candidate.timings.retry_s
        if candidate.reign is not None and now < due:
            return Rest(due - now)
        # Without a reign: an earlier write of ours landed late, or we lapsed and nobody took over. The holder does not change, nor the term.
        return Renew(_next(candidate, record.term, _count(candidate)))
    if record is not None and record.holder:
        expires = candidate.changed_at + max(record.lease_s, candidate.timings.lease_s)
        if now < expires:
            return Rest(min(candidate.timings.retry_s, expires - now))
    # An existing record decides its next term, as the API server's rule says; a new one must lie above all that leaders left behind.
    return Acquire(_next(candidate, (record.term if record else candidate.floor) + 1, _count(candidate)))


def stepped_down(candidate: Candidate) -> Candidate:
    """The work has stopped."""
    return replace(candidate, reign=None, renewed_at=NEVER)


def release(candidate: Candidate) -> Record | None:
    """What to write, after the work has stopped, so that another candidate need not wait; None if the lock is not ours to give away."""
    record = candidate.record
    if record is None or record.holder != candidate.identity:
        return None
    return replace(record, holder="", term=record.term + 1, renew_count=_count(candidate))


def _next(candidate: Candidate, term: int, count: int) -> Record:
    return Record(candidate.identity, term, count, ceil(candidate.timings.lease_s))


def _count(candidate: Candidate) -> int:
    """Above everything seen and everything tried: no two attempts of one candidate are equal."""
    seen = candidate.record.renew_count if candidate.record else 0
    tried = candidate.attempt.renew_count if candidate.attempt else 0
    return max(seen, tried) + 1
