"""What the scenarios make of what they measured: the bounds beyond which they fail."""

from e2e.lab.ledger import Call, Fate, Timing, still_unaffected_ms
from e2e.lab.scenarios import api_outage, leader_kill, tight


def calls(adds: int, dels: int, fate: Fate = Fate.OK) -> list[Call]:
    return [
        Call(
            verb,
            "ns",
            f"pod-{number}",
            "node-1",
            f"c{number}",
            "eth0",
            0.0,
            0.01,
            fate,
            (),
            "" if fate is Fate.OK else "why",
        )
        for verb, count in (("ADD", adds), ("DEL", dels))
        for number in range(count)
    ]


def test_an_outage_of_full_length_with_every_call_served_passes_and_says_so() -> None:
    note, problems = api_outage.judge(calls(30, 36), 10, 30.2)
    assert problems == []
    assert "30.2 s without API server: 30 ADDs and 36 DELs served in 10 rounds, 0 failed" in note


def test_an_outage_that_was_healed_early_or_idle_is_none() -> None:
    assert "not 30" in api_outage.judge(calls(30, 36), 10, 4.1)[1][0]
    assert api_outage.judge(calls(9, 15), 3, 30.0)[1] == ["3 rounds of ADDs and DELs, expected 5 at least"]
    assert api_outage.judge(calls(29, 36), 10, 30.0)[1] == ["expected 30 ADDs and 36 DELs, saw 29 and 36"]


def test_one_call_that_fails_in_an_outage_fails_the_scenario_whatever_its_excuse() -> None:
    for fate in (Fate.FAILED, Fate.AGENT_DOWN, Fate.REFUSED, Fate.MOOT):
        _, problems = api_outage.judge([*calls(30, 36), *calls(1, 0, fate)], 10, 30.0)
        assert problems == ["ADD ns/pod-0 on node-1: why"]


def test_adds_count_as_unaffected_up_to_three_times_and_a_quarter_of_a_second() -> None:
    assert (still_unaffected_ms(1.0), still_unaffected_ms(83.0), still_unaffected_ms(200.0)) == (250.0, 250.0, 600.0)


def test_adds_that_waited_for_a_leader_are_found_far_below_half_a_failover() -> None:
    before = Timing(34, 2.0, 20.0, 20.0)
    assert leader_kill.affected(before, Timing(34, 2.0, 240.0, 240.0)) == []
    assert leader_kill.affected(before, Timing(34, 2.0, 900.0, 900.0)) != []
    assert leader_kill.affected(Timing(34, 2.0, 400.0, 400.0), Timing(34, 2.0, 900.0, 900.0)) == []


def test_nothing_to_compare_is_a_problem() -> None:
    some, none = Timing(34, 2.0, 20.0, 20.0), Timing(0, 0.0, 0.0, 0.0)
    assert leader_kill.affected(some, none) != []
    assert leader_kill.affected(none, some) != []


def test_a_tight_pool_fails_beyond_twice_the_time_with_plenty() -> None:
    assert tight.too_slow(12.5, 10.0) == []
    assert tight.too_slow(20.0, 10.0) == []
    (problem,) = tight.too_slow(20.1, 10.0)
    assert "2.01" in problem
    assert "1.25 the target" in problem
