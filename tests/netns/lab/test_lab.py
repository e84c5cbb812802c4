"""The lab as a whole, with a stand-in agent: that its story passes, that it can fail, and that it never leaves anything behind."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from e2e.lab import fabric, labs, netns
from e2e.lab import run as runs
from e2e.lab.report import Summary

FAKE = (sys.executable, "-m", "tests.netns.lab.fake_agent")
ROOT = Path(__file__).resolve().parents[3]


def run_story(command: tuple[str, ...]) -> Summary:
    console = Console(file=sys.stderr, width=150)
    return asyncio.run(runs.run_scenario(runs.load("story"), None, console, command))


@pytest.mark.timeout(180)
def test_the_story_passes_and_its_summary_is_json() -> None:
    summary = run_story(FAKE)
    assert summary.passed, summary.as_json()
    assert summary.pods_peak >= 30 and summary.nodes == 3
    assert summary.shim_add.count == summary.add.count > 0
    assert 0 < summary.shim_add.p50_ms < summary.add.p50_ms
    assert json.loads(summary.as_json())["leftovers"] == []


def test_an_agent_that_gives_out_the_same_addresses_as_another_is_caught() -> None:

    async def one_workload(run: runs.Run) -> None:
        """IPv4 only: the main plugin itself would notice a doubled IPv6 address, after ten seconds each."""
        things = labs.manifests()
        cache = [thing for thing in things if thing["metadata"]["name"] == "cache"]
        pools = [
            thing
            for thing in things
            if thing["kind"] != "Deployment" and thing["kind"] != "StatefulSet" and thing["kind"] != "Pod"
        ]
        await run.lab.cluster.apply([*pools, *cache])
        await asyncio.sleep(0.3)
        await run.lab.cluster.wait_settled(30)
        await run.verify("unique")

    scenario = runs.Scenario("doubles", "", 2, one_workload)
    summary = asyncio.run(
        runs.run_scenario(scenario, None, Console(file=sys.stderr, width=150), (*FAKE, "--share", "0"))
    )
    assert not summary.passed
    assert any("is held by" in problem for step in summary.steps for problem in step.problems), summary.as_json()


def test_an_agent_that_does_not_start_is_reported_with_its_words_and_nothing_stays() -> None:
    with pytest.raises(Exception, match="no such thing"):
        run_story(("sh", "-c", "echo no such thing; exit 3"))
    assert fabric.leftovers(f"nl{os.getpid()}") == []
    assert not (labs.HOME / f"nl{os.getpid()}").exists()


@pytest.fixture
def lab_process() -> Iterator[subprocess.Popen[bytes]]:
    """The story in a process of its own, with many pods on their way."""
    program = (
        "import sys\n"
        "from rich.console import Console\n"
        "from e2e.lab import commands, run\n"
        "try:\n"
        f"    commands.run_to_end(run.run_scenario(run.load('story'), None, Console(stderr=True), {FAKE!r}))\n"
        "except commands.Interrupted:\n"
        "    sys.exit(130)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 40
        while len(netns.names(f"nl{process.pid}-pod-")) < 10 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        assert netns.names(f"nl{process.pid}-pod-"), "no pod came up"
        yield process
    finally:
        process.kill()
        process.wait()
        labs.sweep()


def is_alive(pid: int) -> bool:
    """A zombie is not: its new parent, pid 1, reaps it when it likes."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_middle_leaves_nothing_even_if_repeated(
    lab_process: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    prefix = f"nl{lab_process.pid}"
    children = list(netns.processes_in(netns.names(f"{prefix}-")))
    lab_process.send_signal(number)
    time.sleep(0.05)
    lab_process.send_signal(number)
    assert lab_process.wait(30) == 130
    assert fabric.leftovers(prefix) == []
    assert not (labs.HOME / prefix).exists()
    assert not [pid for pid in children if is_alive(pid)]


def agents_of(prefix: str) -> list[int]:
    """Not the plugins: an ADD that is under way asks on, as after the death of a real runtime, until its own deadline or the next sweep."""
    found = []
    for pid in netns.processes_in(netns.names(f"{prefix}-")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a plugin that ended meanwhile
            if FAKE[-1].encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def test_a_lab_killed_with_sigkill_loses_its_agents_and_the_next_sweeps_the_rest(
    lab_process: subprocess.Popen[bytes],
) -> None:
    prefix = f"nl{lab_process.pid}"
    lab_process.send_signal(signal.SIGSTOP)  # it starts no plugin between the look and the kill
    agents = agents_of(prefix)
    assert len(agents) == 3
    lab_process.kill()
    lab_process.wait()
    deadline = time.monotonic() + 5
    while any(map(is_alive, agents)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in agents if is_alive(pid)], "agents outlived the lab"
    assert prefix in labs.sweep()
    assert fabric.leftovers(prefix) == []
    assert not (labs.HOME / prefix).exists()
