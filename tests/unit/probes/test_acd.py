"""RFC 5227 by its sections: what is sent when, what counts, and how an address in use is defended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from probes.acd import ArpTest, Conflict, Defence, arp_announcement
from probes.course import MAX_RETRIES, Send
from probes.macs import MacTable, Party
from probes.messages import ANY_V4, Arp, How
from probes.verdicts import State, Surroundings
from tests.unit.probes.wire import (
    DRAWS,
    FAST_ARP,
    OTHER,
    OURS,
    RFC_ARP,
    THEIRS,
    V4,
    V4B,
    probe,
    reply,
    request,
)

AROUND = Surroundings(MacTable.of(own=[OURS], pods=["02:00:00:00:00:55"], cluster={OTHER: "node-2"}))


def begun(now: float = 100.0) -> ArpTest:
    return ArpTest.begin(V4, OURS, RFC_ARP, DRAWS, now)


def listening() -> tuple[ArpTest, float]:
    """A test after its last probe, and when that was sent."""
    test, now = begun(), 100.0
    for _ in range(RFC_ARP.count):
        now = test.course.due
        test, _ = test.on_time(now)
    return test, now


def test_probes_leave_at_the_times_of_section_2_1_1_and_silence_is_clear() -> None:
    test, times = begun(), []
    while test.verdict is None:
        due = test.course.due
        assert test.on_time(due - 0.001) == (test, ())
        test, effects = test.on_time(due)
        if isinstance(effects[0], Send):
            times.append(due - 100.0)
            assert effects[0].message == Arp(1, OURS, ANY_V4, V4, source_mac=OURS)
    assert times == [0.5, 2.0, 3.5]  # half of PROBE_WAIT, then half way between PROBE_MIN and PROBE_MAX
    assert test.verdict.state is State.CLEAR
    assert test.verdict.at == pytest.approx(105.5)  # ANNOUNCE_WAIT after the last probe


@pytest.mark.parametrize(
    ("message", "how"),
    [
        (reply(V4, THEIRS), How.ARP_REPLY),
        (request(V4, THEIRS), How.ARP_CLAIM),
        (arp_announcement(V4, THEIRS), How.ARP_CLAIM),
        (probe(V4, THEIRS), How.ARP_PROBE),
    ],
)
def test_every_packet_of_section_2_1_1_makes_it_taken(message: Arp, how: How) -> None:
    test, effects = begun().on_message(message, AROUND, 100.2)
    assert test.verdict is not None
    assert len(effects) == 1
    assert test.verdict.state is State.TAKEN
    assert test.verdict.evidence is not None
    assert (test.verdict.evidence.mac, test.verdict.evidence.how) == (THEIRS, how)
    assert test.verdict.foreign


@pytest.mark.parametrize(
    "message",
    [
        probe(V4, OURS),  # our own probe, back from a hairpin port or a bond
        reply(V4, OURS),
        probe(V4, OTHER),  # another node tests the same address
        probe(V4B, THEIRS),
        reply(V4B, THEIRS),
        request(V4B, THEIRS, target=V4),  # somebody merely looks for the address
        Arp(2, THEIRS, ANY_V4, V4, source_mac=THEIRS),  # a reply from 0.0.0.0 is not a probe
        replace(reply(V4, THEIRS), vlan=7),  # another network
    ],
)
def test_what_proves_nothing_changes_nothing(message: Arp) -> None:
    test = begun()
    assert test.on_message(message, AROUND, 100.2) == (test, ())


def test_another_nodes_claim_is_taken_but_not_foreign() -> None:
    test, _ = begun().on_message(reply(V4, OTHER), AROUND, 100.2)
    assert test.verdict is not None
    assert test.verdict.evidence is not None
    assert test.verdict.evidence.party is Party.CLUSTER
    assert not test.verdict.foreign


def test_an_answer_after_the_last_probe_still_counts() -> None:
    test, last = listening()
    test, _ = test.on_message(reply(V4, THEIRS), AROUND, last + 1.999)
    assert test.verdict is not None
    assert test.verdict.state is State.TAKEN


def test_nothing_changes_a_verdict() -> None:
    test, _ = begun().on_message(reply(V4, THEIRS), AROUND, 100.2)
    assert test.on_message(reply(V4, OTHER), AROUND, 100.3) == (test, ())
    assert test.on_time(200.0) == (test, ())


def test_a_late_sender_does_not_shorten_the_listening() -> None:
    test = begun()
    for now in (100.9, 103.0, 109.0):  # each later than due
        test, effects = test.on_time(now)
        assert len(effects) == 1
    assert test.course.due == 109.0 + RFC_ARP.listen_s


def test_a_suspended_listener_probes_again_and_gives_up_as_unknown() -> None:
    test, last = listening()
    now = last + 60.0
    for _ in range(MAX_RETRIES):
        test, effects = test.on_time(now)
        assert (effects, test.verdict) == ((), None)
        test, effects = test.on_time(now)
        assert isinstance(effects[0], Send)
        now += 60.0
    test, _ = test.on_time(now)
    assert test.verdict is not None
    assert test.verdict.state is State.UNKNOWN


def test_a_proxys_replies_do_not_count_but_its_own_use_does() -> None:
    around = replace(AROUND, proxies=frozenset({THEIRS}))
    test, effects = begun().on_message(reply(V4, THEIRS), around, 100.2)
    assert (effects, test.verdict) == ((), None)
    used, _ = test.on_message(request(V4, THEIRS), around, 100.3)
    assert used.verdict is not None
    assert used.verdict.state is State.TAKEN
    answered, _ = test.on_message(reply(V4, OTHER), around, 100.3)
    assert answered.verdict is not None
    assert answered.verdict.state is State.TAKEN


def test_a_clear_verdict_names_the_proxy_that_answered() -> None:
    around = replace(AROUND, proxies=frozenset({THEIRS}))
    test, last = listening()
    test, _ = test.on_message(reply(V4, THEIRS), around, last + 0.1)
    test, _ = test.on_time(test.course.due)
    assert test.verdict is not None
    assert test.verdict.state is State.CLEAR
    assert THEIRS in test.verdict.reason


def test_the_pod_that_holds_a_re_verified_address_is_no_conflict() -> None:
    around = replace(AROUND, holders={V4: THEIRS})
    test = begun()
    assert test.on_message(reply(V4, THEIRS), around, 100.2) == (test, ())
    taken, _ = test.on_message(reply(V4, "02:00:00:00:00:aa"), around, 100.2)
    assert taken.verdict is not None


def test_fast_profile_ends_within_200_ms() -> None:
    test = ArpTest.begin(V4, OURS, FAST_ARP, (0.999, 0.999, 0.999), 0.0)
    while test.verdict is None:
        test, _ = test.on_time(test.course.due)
    assert test.verdict.at <= 0.2


def test_defence_announces_once_and_then_reports_the_address_lost() -> None:
    defence, effects = Defence(V4, OURS).on_message(reply(V4, THEIRS), AROUND, 100.0)
    assert [type(effect) for effect in effects] == [Conflict, Send]
    assert effects[1] == Send(arp_announcement(V4, OURS))
    defence, effects = defence.on_message(request(V4, THEIRS), AROUND, 109.9)  # within DEFEND_INTERVAL
    assert len(effects) == 1
    assert isinstance(effects[0], Conflict)
    assert effects[0].lost
    _, effects = defence.on_message(request(V4, THEIRS), AROUND, 120.0)
    assert [type(effect) for effect in effects] == [Conflict, Send]


@pytest.mark.parametrize("message", [probe(V4, THEIRS), reply(V4, OURS), reply(V4B, THEIRS)])
def test_defence_ignores_probes_itself_and_other_addresses(message: Arp) -> None:
    defence = Defence(V4, OURS)
    assert defence.on_message(message, AROUND, 100.0) == (defence, ())
