"""Profiles, pacing, verdict freshness, quarantine, proxies and announcements."""

from __future__ import annotations

import pytest

from ipam.addresses import Address
from probes.announce import Announcement
from probes.macs import MacTable, Party, canonical_mac
from probes.messages import Advertisement, How
from probes.pacing import TokenBucket
from probes.profiles import BALANCED, FAST, PROFILES, RFC, Timing
from probes.proxyarp import Survey
from probes.quarantine import LAST_RETEST_S, Quarantine
from probes.verdicts import Evidence, State, Verdict
from tests.unit.probes.wire import OTHER, OURS, THEIRS, V4, V4B, V6, advertisement, probe, reply, request

EVIDENCE = Evidence(THEIRS, How.ARP_REPLY, Party.FOREIGN, 0.0)


def test_profiles_are_what_they_promise() -> None:
    assert set(PROFILES) == {"fast", "balanced", "rfc"}
    assert max(FAST.arp.longest_s, FAST.nd.longest_s) <= 0.2
    assert max(BALANCED.arp.longest_s, BALANCED.nd.longest_s) <= 1.0
    assert (RFC.arp.shortest_s, RFC.arp.longest_s) == (4.0, 7.0)  # RFC 5227 section 1.1
    assert (RFC.nd.shortest_s, RFC.nd.longest_s) == (1.0, 2.0)


@pytest.mark.parametrize("values", [(0, 0, 0, 0, 0), (99, 0, 0, 0, 0), (3, 0, 2, 1, 0), (3, -1, 0, 0, 0)])
def test_impossible_timings_are_refused(values: tuple[int, float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Timing(*values)


def test_bucket_never_starves_a_caller_that_waits_as_told() -> None:
    bucket, now = TokenBucket(rate=997.0, burst=3.0), 1_000_000.0
    for _ in range(1000):
        now = bucket.ready_at(now)
        assert bucket.take(now)


def test_a_verdict_is_fresh_only_if_clear_and_young() -> None:
    assert Verdict(V4, State.CLEAR, 100.0).fresh(159.9, 60.0)
    assert not Verdict(V4, State.CLEAR, 100.0).fresh(160.0, 60.0)
    assert not Verdict(V4, State.CLEAR, 100.0).fresh(99.0, 60.0)  # from another boot
    assert not Verdict(V4, State.UNKNOWN, 100.0).fresh(101.0, 60.0)
    assert not Verdict(V4, State.TAKEN, 100.0, EVIDENCE).fresh(101.0, 60.0)


def test_macs_compare_in_one_form() -> None:
    assert canonical_mac("02-AB-00-00-00-01") == "02:ab:00:00:00:01"
    table = MacTable.of(own=["02:AB:00:00:00:01"])
    assert table.party("02:ab:00:00:00:01") is Party.SELF
    with pytest.raises(ValueError, match="MAC"):
        canonical_mac("02:ab")


def test_quarantine_ends_after_two_silent_tests_and_backs_off_while_taken() -> None:
    held: Quarantine | None = Quarantine.begin(V4, EVIDENCE, 0.0)
    gaps = []
    for _ in range(10):
        assert held is not None
        now = held.next_test
        assert held.due(now)
        held = held.after(Verdict(V4, State.TAKEN, now, EVIDENCE), now)
        assert held is not None
        gaps.append(held.next_test - now)
    assert gaps[:3] == [120.0, 240.0, 480.0]
    assert gaps[-1] == LAST_RETEST_S
    assert held is not None
    now = held.next_test
    held = held.after(Verdict(V4, State.CLEAR, now), now)
    assert held is not None
    held = held.after(Verdict(V4, State.UNKNOWN, now + 60), now + 60)
    assert held is not None
    assert held.clear == 1
    assert held.after(Verdict(V4, State.CLEAR, now + 120), now + 120) is None


def test_a_use_seen_on_the_wire_voids_earlier_silence() -> None:
    held = Quarantine.begin(V4, EVIDENCE, 0.0).after(Verdict(V4, State.CLEAR, 60.0), 60.0)
    assert held is not None
    again = held.seen_again(EVIDENCE, 70.0)
    assert again.after(Verdict(V4, State.CLEAR, 130.0), 130.0) is not None


def test_the_first_retest_is_when_the_administrator_says() -> None:
    held: Quarantine | None = Quarantine.begin(V4, EVIDENCE, 0.0, 2.0)
    assert held is not None and not held.due(1.9) and held.due(2.0)
    held = held.after(Verdict(V4, State.TAKEN, 2.0, EVIDENCE), 2.0)
    assert held is not None and held.next_test == 6.0
    held = held.after(Verdict(V4, State.CLEAR, 6.0), 6.0)
    assert held is not None and held.next_test == 8.0
    assert held.after(Verdict(V4, State.CLEAR, 8.0), 8.0) is None


def test_an_older_clear_verdict_does_not_end_a_quarantine() -> None:
    held = Quarantine.begin(V4, EVIDENCE, 100.0)
    assert held.after(Verdict(V4, State.CLEAR, 99.0), 101.0) is held


def survey() -> Survey:
    return Survey.of([Address.parse("10.0.0.0")], [V4, V4B], MacTable.of(own=[OURS], cluster={OTHER: "n"}))


def test_one_answer_for_a_network_address_makes_a_proxy() -> None:
    test = survey()
    test.on_message(reply(Address.parse("10.0.0.0"), THEIRS))
    assert test.proxies == {THEIRS}


def test_one_answer_for_a_likely_canary_may_be_its_holder_two_are_a_proxy() -> None:
    test = survey()
    test.on_message(reply(V4, THEIRS))
    test.on_message(reply(V4, THEIRS))
    assert not test.proxies
    test.on_message(reply(V4B, THEIRS))
    assert test.proxies == {THEIRS}


def test_requests_probes_and_our_own_frames_make_no_proxy() -> None:
    test = survey()
    for address in (V4, V4B):
        for message in (request(address, THEIRS), probe(address, THEIRS), reply(address, OURS), reply(address, OTHER)):
            test.on_message(message)
    assert not test.proxies


def test_an_advertisement_with_override_is_a_holder_not_a_proxy() -> None:
    test = Survey.of([V6], [], MacTable())
    test.on_message(advertisement(V6, THEIRS, override=True))
    assert not test.proxies
    test.on_message(advertisement(V6, THEIRS, override=False))
    assert test.proxies == {THEIRS}


def test_arp_announcements_are_two_seconds_apart_with_one_more_at_ten() -> None:
    series, times = Announcement.begin(V4, OURS, 100.0), []
    while (due := series.due) is not None:
        series, effects = series.on_time(due)
        assert len(effects) == 1
        times.append(due - 100.0)
    assert times == [0.0, 2.0, 10.0]


def test_unsolicited_advertisements_override_and_come_from_the_address() -> None:
    series, effects = Announcement.begin(V6, OURS, 100.0).on_time(100.0)
    assert effects[0].message == Advertisement(V6, V6, OURS, override=True, link_mac=OURS)
    count = 1
    while (due := series.due) is not None:
        series, _ = series.on_time(due)
        count += 1
    assert count == 3  # MAX_NEIGHBOR_ADVERTISEMENT


def test_a_late_announcer_keeps_the_spacing() -> None:
    series, _ = Announcement.begin(V4, OURS, 100.0).on_time(105.0)
    assert series.on_time(106.0) == (series, ())
    assert series.due == 107.0
