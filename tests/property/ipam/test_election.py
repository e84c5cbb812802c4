"""Two candidates never lead at once by their own reckoning, whatever is delayed or lost, while clock rates stay within the margin."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipam import election
from ipam.election import Acquire, Candidate, Record, Renew, Rest, StepDown, Timings

TIMINGS = Timings(lease_s=15.0, renew_deadline_s=10.0, retry_s=2.0)


def test_timings_must_leave_room_for_each_other() -> None:
    for bad in ((10.0, 10.0, 2.0), (15.0, 2.4, 2.0), (15.0, 10.0, 0.0), (9.0, 10.0, 2.0)):
        with pytest.raises(ValueError, match="must be"):
            Timings(*bad)
    assert TIMINGS.rate_margin == 1.5


@dataclass
class Lock:
    """The API server's object: compare-and-swap on a version, and the CRD's rule on term."""

    record: Record | None = None
    version: int = 0
    terms: list[tuple[str, int]] = field(default_factory=list)

    def swap(self, record: Record, version: int) -> bool:
        if version != self.version:
            return False
        if self.record is not None:
            changed = record.holder != self.record.holder
            assert record.term == self.record.term + (1 if changed else 0)
            assert changed or record.renew_count > self.record.renew_count
        if self.record is None or record.holder != self.record.holder:
            self.terms.append((record.holder, record.term))
        self.record, self.version = record, version + 1
        return True


class Process:
    """One candidate's shell, event by event: read, step, write, with arbitrary delays before and after the server."""

    def __init__(self, name: str, world: World, rate: float) -> None:
        self.candidate = Candidate(name, TIMINGS)
        self.world = world
        self.rate = rate
        self.offset = world.dice.uniform(0, 1000)
        self.version = 0

    def now(self) -> float:
        return self.world.time * self.rate + self.offset

    @property
    def leads(self) -> bool:
        return election.is_leading(self.candidate, self.now())

    def read(self) -> None:
        self.world.after(self.world.delay(), self._read_served)

    def _read_served(self) -> None:
        record, version = self.world.lock.record, self.world.lock.version

        def answered() -> None:
            self.version = version
            self.candidate = election.observed(self.candidate, record, self.now())
            self.step()

        self.world.after(self.world.delay(), answered)

    def step(self) -> None:
        match election.step(self.candidate, self.now()):
            case Rest(seconds):
                self.world.after(seconds / self.rate * self.world.dice.uniform(1.0, 1.2), self.read)
            case StepDown():
                self.candidate = election.stepped_down(self.candidate)
                self.world.after(0.01, self.read)
            case Acquire(record) | Renew(record):
                self.write(record)

    def write(self, record: Record) -> None:
        sent_at = self.now()
        self.candidate = election.attempted(self.candidate, record, sent_at)
        version = self.version
        fate = self.world.dice.random()
        if fate < 0.1:  # never arrives, or arrives long after the sender gave up
            if fate < 0.05:
                self.world.after(self.world.dice.uniform(0, 40), lambda: self.world.lock.swap(record, version))
            self.world.after(self.world.dice.uniform(0.5, 12), self.read)
            return
        self.world.after(self.world.delay(), lambda: self._served(record, version, sent_at, lost=fate < 0.2))

    def _served(self, record: Record, version: int, sent_at: float, *, lost: bool) -> None:
        applied = self.world.lock.swap(record, version)

        def answered() -> None:
            if applied and not lost:
                self.version = version + 1
                self.candidate = election.acknowledged(self.candidate, record, sent_at)
                self.step()
            else:
                self.read()

        self.world.after(self.world.delay(), answered)


class World:
    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.time = 0.0
        self.lock = Lock()
        self.slow = self.dice.choice((0.05, 0.5, 5.0, 20.0))
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._number = 0

    def delay(self) -> float:
        """Mostly short; at times a pause of the process or a stalled connection."""
        return self.dice.uniform(0, self.slow) if self.dice.random() < 0.1 else self.dice.uniform(0, 0.02)

    def after(self, seconds: float, then: Callable[[], object]) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.time + seconds, self._number, then))

    def run(self, until: float, watch: Callable[[], None]) -> None:
        tick = 0.0
        while self._events and self.time < until:
            at, _, then = self._events[0]
            if tick < at:
                self.time = tick
                tick += 0.2
                watch()
                continue
            heapq.heappop(self._events)
            self.time = at
            then()
            watch()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 4))
def test_two_never_lead_at_once_and_terms_grow_by_one(seed: int, count: int) -> None:
    world = World(seed)
    processes = [Process(f"c{i}", world, world.dice.uniform(1.0, 1.49)) for i in range(count)]
    for process in processes:
        process.read()
    led: set[int] = set()

    def watch() -> None:
        leading = [process for process in processes if process.leads]
        assert len(leading) <= 1, (world.time, leading)
        led.update(process.candidate.reign or 0 for process in leading)

    world.run(150.0, watch)
    terms = [term for _, term in world.lock.terms]
    assert terms == list(range(1, len(terms) + 1))
    assert led


def test_a_clock_beyond_the_margin_can_break_it() -> None:
    """The bound is real: without it two do lead at once by their own reckoning, and only term and resourceVersion protect the data."""
    lazy = Candidate("slow", TIMINGS)
    lazy = election.acknowledged(lazy, Record("slow", 1, 1, 15), 0.0)
    eager = election.observed(Candidate("fast", TIMINGS), Record("slow", 1, 1, 15), 0.0)
    assert election.is_leading(lazy, 9.0)
    assert isinstance(election.step(eager, 9.0 * 2), Acquire)  # its clock runs twice as fast


def test_a_released_lock_is_taken_at_once_with_the_next_term() -> None:
    held = election.acknowledged(Candidate("a", TIMINGS), Record("a", 7, 3, 15), 100.0)
    given_away = election.release(election.stepped_down(held))
    assert given_away == Record("", 8, 4, 15)
    other = election.observed(Candidate("b", TIMINGS), given_away, 50.0)
    found = election.step(other, 50.0)
    assert found == Acquire(Record("b", 9, 5, 15))


def test_a_leader_that_cannot_renew_steps_down_before_anybody_may_take_over() -> None:
    held = election.acknowledged(Candidate("a", TIMINGS), Record("a", 1, 1, 15), 0.0)
    assert isinstance(election.step(held, 9.9), Renew)
    assert isinstance(election.step(held, 10.0), StepDown)
    assert isinstance(
        election.step(election.stepped_down(held), 10.0), Renew
    )  # nobody else came: the same term goes on
    other = election.observed(Candidate("b", TIMINGS), Record("a", 1, 1, 15), 0.0)
    assert isinstance(election.step(other, 14.9), Rest)
    assert isinstance(election.step(other, 15.0), Acquire)


def test_an_attempt_of_unknown_outcome_counts_from_when_it_was_sent() -> None:
    seen = election.observed(Candidate("a", TIMINGS), None, 0.0)
    found = election.step(seen, 0.0)
    assert isinstance(found, Acquire)
    tried = election.attempted(seen, found.record, 1.0)
    read = election.observed(tried, found.record, 8.0)
    assert election.is_leading(read, 10.9) and not election.is_leading(read, 11.0)


def test_a_lock_made_anew_does_not_begin_below_what_leaders_left_behind() -> None:
    seen = election.at_least(election.observed(Candidate("a", TIMINGS), None, 0.0), 41)
    found = election.step(seen, 0.0)
    assert isinstance(found, Acquire) and found.record.term == 42


def test_no_two_attempts_are_equal() -> None:
    seen = election.observed(Candidate("a", TIMINGS), None, 0.0)
    first = election.step(seen, 0.0)
    assert isinstance(first, Acquire)
    second = election.step(election.attempted(seen, first.record, 0.0), 0.1)
    assert isinstance(second, Acquire) and second.record.renew_count > first.record.renew_count
