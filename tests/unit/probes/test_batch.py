"""Many tests at once: every candidate one verdict, never faster than the bucket, never more in flight than allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.addresses import Address, Family
from probes.batch import MAX_CANDIDATES, Batch, Candidate, Sender
from probes.course import Decided, Send
from probes.macs import MacTable
from probes.messages import Arp, Solicitation
from probes.pacing import TokenBucket
from probes.profiles import FAST, RFC
from probes.verdicts import State, Surroundings
from tests.unit.probes.wire import NONCE, OURS, THEIRS, V4, V6, advertisement, reply

AROUND = Surroundings(MacTable.of(own=[OURS]))
DRAWS = (0.1, 0.2, 0.3)


def candidates(count: int) -> list[Candidate]:
    return [Candidate(Address(Family.V4, 0x0A000001 + index), DRAWS) for index in range(count)]


def drive(batch: Batch, now: float = 0.0) -> tuple[list[tuple[float, Address]], float]:
    """Run a batch to its end; when each probe was sent, and the end."""
    sent = []
    for _ in range(100_000):
        for effect in batch.on_time(now):
            if isinstance(effect, Send):
                assert isinstance(effect.message, (Arp, Solicitation))
                sent.append((now, effect.message.target))
        wake = batch.next_wake(now)
        if wake is None:
            return sent, now
        assert wake >= now
        now = max(wake, now + 1e-6)
    raise AssertionError("the batch never ended")


@given(
    count=st.integers(1, 60),
    rate=st.floats(5, 5000),
    burst=st.integers(1, 40),
    in_flight=st.integers(1, 80),
)
def test_every_candidate_gets_one_verdict_and_the_rate_is_never_exceeded(
    count: int, rate: float, burst: int, in_flight: int
) -> None:
    batch = Batch(candidates(count), Sender(OURS, FAST, in_flight=in_flight), AROUND, TokenBucket(rate, burst))
    sent, _ = drive(batch)
    assert {verdict.state for verdict in batch.verdicts.values()} == {State.CLEAR}
    assert len(batch.verdicts) == count
    assert len(sent) == count * FAST.arp.count
    for index, (at, _) in enumerate(sent):
        window = [when for when, _ in sent[: index + 1] if when > at - 1.0]
        assert len(window) <= burst + rate * 1.0 + 1


def test_no_more_tests_are_in_flight_than_allowed() -> None:
    batch = Batch(candidates(50), Sender(OURS, FAST, in_flight=7), AROUND, TokenBucket(1e6, 1e6))
    now, most = 0.0, 0
    while (wake := batch.next_wake(now)) is not None:
        now = max(wake, now + 1e-6)
        batch.on_time(now)
        most = max(most, sum(batch.interested(candidate.address) for candidate in candidates(50)))
    assert most == 7


def test_both_families_share_a_batch() -> None:
    batch = Batch(
        [Candidate(V4, DRAWS), Candidate(V6, DRAWS, NONCE)], Sender(OURS, FAST), AROUND, TokenBucket(1e3, 100)
    )
    batch.on_time(0.0)
    batch.on_message(reply(V4, THEIRS), 0.01)
    batch.on_message(advertisement(V6, THEIRS), 0.01)
    assert batch.done
    assert {verdict.state for verdict in batch.verdicts.values()} == {State.TAKEN}


def test_a_taken_address_is_not_probed_again_and_makes_room() -> None:
    batch = Batch(candidates(2), Sender(OURS, RFC, in_flight=1), AROUND, TokenBucket(1e3, 100))
    first, second = (candidate.address for candidate in candidates(2))
    batch.on_time(0.0)
    effects = batch.on_message(reply(first, THEIRS), 0.01)
    assert [type(effect) for effect in effects] == [Decided]
    sent, _ = drive(batch, 0.02)
    assert {address for _, address in sent} == {second}


def test_a_background_batch_leaves_tokens_to_others() -> None:
    bucket = TokenBucket(rate=1.0, burst=10.0)
    batch = Batch(candidates(20), Sender(OURS, FAST, reserve=5.0), AROUND, bucket)
    batch.on_time(0.0)
    effects = batch.on_time(0.05)
    assert sum(isinstance(effect, Send) for effect in effects) == 5
    assert all(bucket.take(0.05) for _ in range(5))


def test_abandoning_ends_every_open_test_as_unknown() -> None:
    batch = Batch(candidates(5), Sender(OURS, FAST, in_flight=2), AROUND, TokenBucket(1e3, 100))
    batch.on_time(0.0)
    assert len(batch.abandon(0.1, "link down")) == 5
    assert batch.done
    assert {(verdict.state, verdict.reason) for verdict in batch.verdicts.values()} == {(State.UNKNOWN, "link down")}


def test_too_many_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        Batch(candidates(MAX_CANDIDATES + 1), Sender(OURS, FAST), AROUND, TokenBucket(1, 1))
