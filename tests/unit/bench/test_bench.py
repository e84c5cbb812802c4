"""The bench on real processes, small: it measures what it says and hides no failure."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.bench import contenders, report
from e2e.bench.measure import Mode, Series, measure
from e2e.bench.spawning import BenchError, Tools, build_tools, spawn
from tests.unit.cni.harness import Agent, headers_of


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="nph-"))
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def tools(place: Path) -> Tools:
    return build_tools(place / "bin")


def test_the_runner_times_each_process_and_numbers_it(tools: Tools) -> None:
    env = {"WORD": "<{n}-{n}>"}
    batch = spawn(tools, Path("/bin/env"), env, b"", first=7, count=3, in_flight=1)
    assert [sample.number for sample in batch.samples] == [7, 8, 9]
    assert batch.said.split() == ["WORD=<7-7>", "WORD=<8-8>", "WORD=<9-9>"]
    starts = [sample.start_ns for sample in batch.samples]
    assert starts == sorted(starts)
    assert all(0 < sample.elapsed_ns < 10**10 for sample in batch.samples)
    assert batch.total_ns >= sum(sample.elapsed_ns for sample in batch.samples)


def test_the_runner_overlaps_processes_when_asked(tools: Tools, place: Path) -> None:
    sleeper = place / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 0.2\n")
    sleeper.chmod(0o755)
    together = spawn(tools, sleeper, {"PATH": os.environ["PATH"]}, b"", first=0, count=5, in_flight=5)
    assert together.total_ns < 0.2e9 * 5
    apart = spawn(tools, sleeper, {"PATH": os.environ["PATH"]}, b"", first=0, count=2, in_flight=1)
    assert apart.total_ns >= 0.4e9


def test_failures_are_counted_and_quoted(tools: Tools) -> None:
    batch = spawn(tools, tools.shim, {"CNI_COMMAND": "ADD"}, b"{}", first=0, count=2, in_flight=1)
    assert batch.failed == 2
    assert "CNI_CONTAINERID is required" in batch.said


def test_refuses_a_program_that_is_not_there_and_a_count_out_of_bounds(tools: Tools) -> None:
    with pytest.raises(BenchError, match="could not start"):
        spawn(tools, Path("/no/such"), {}, b"", first=0, count=1, in_flight=1)
    with pytest.raises(BenchError, match="1 to 1000"):
        spawn(tools, tools.empty, {}, b"", first=0, count=0, in_flight=1)


def test_measures_all_contenders_and_makes_pods_around_each_round(tools: Tools, place: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    with (
        Agent(place / "agent.sock") as agent,
        contenders.shim_before_echo(tools) as echo,
        contenders.host_local() as host_local,
    ):
        nephila = contenders.shim_before_agent(
            tools,
            place / "agent.sock",
            {"default_ipv4_ippool": ["v4"]},
            "/proc/{n}/ns/net",
            lambda first, count: calls.append(("up", first, count)),
            lambda first, count: calls.append(("down", first, count)),
        )
        everyone = [contenders.empty(tools), echo, host_local, nephila]
        found = measure(tools, everyone, [Mode("one", 2, 3, 1), Mode("burst", 1, 5, 5)])
    assert [(one.mode, one.verb, len(one.elapsed_ns), one.failed) for one in found if one.contender == "nephila"] == [
        ("one", "ADD", 6, 0),
        ("one", "DEL", 6, 0),
        ("burst", "ADD", 5, 0),
        ("burst", "DEL", 5, 0),
    ]
    assert sum(one.failed for one in found) == 0
    assert [call[0] for call in calls] == ["up", "down"] * 5  # 2 + 1 rounds and a warm-up each
    ids = [headers_of(request)["Cni-Containerid"] for request in agent.requests]
    assert len(set(ids)) == len(ids) / 2  # each once for ADD and once for DEL
    assert json.loads(json.dumps(report.as_json(found)))["series"]
    assert report.as_table(found).row_count == len(found) == 16


def test_host_local_gives_its_addresses_back_and_leaves_nothing(tools: Tools) -> None:
    with contenders.host_local() as one:
        state = Path(json.loads(one.stdin)["ipam"]["dataDir"])
        measure(tools, [one], [Mode("one", 1, 2, 1)])
        assert [file.name for file in (state / "bench").iterdir() if file.name.startswith("10.")] == []
    assert not state.exists()


def test_percentiles_are_nearest_ranks() -> None:
    series = Series("x", "one", "ADD", elapsed_ns=[n * 1_000_000 for n in range(100, 0, -1)])
    assert (series.percentile_ms(50), series.percentile_ms(99), series.percentile_ms(100)) == (50.0, 99.0, 100.0)
    assert Series("x", "one", "ADD", elapsed_ns=[5_000_000]).percentile_ms(99) == 5.0


def test_hooks_and_options_report_what_is_wrong(place: Path) -> None:
    said = place / "said"
    script = place / "hook"
    script.write_text(f'#!/bin/sh\necho "$@" >> {said}\n[ "$2" = up ]\n')
    script.chmod(0o755)
    contenders.command_hook(f"{script} 'two words'", "up")(1, 2)
    assert said.read_text() == "two words up 1 2\n"
    with pytest.raises(BenchError, match="ended with code 1"):
        contenders.command_hook(f"{script} x", "down")(1, 2)
    with pytest.raises(BenchError, match="--ipam"):
        contenders.parse_ipam("[]")
