"""One seed is one run, bit for bit, whatever the process it runs in; and the simulation itself behaves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.clock import SimClock
from sim.loop import Deadlock, Livelock, Process, SimLoop, run

ROOT = Path(__file__).parents[3]


def digest(seed: int, hash_seed: str) -> str:
    """Digest and steps of a seed's run in a process of its own."""
    answer = subprocess.run(
        [sys.executable, "-m", "sim", "replay", str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    ).stdout
    return next(line for line in answer.splitlines() if "digest " in line)


@pytest.mark.parametrize("seed", [1, 2, 9])
def test_a_seed_gives_one_trace_whatever_the_hash_seed(seed: int) -> None:
    assert len({digest(seed, hash_seed) for hash_seed in ("0", "1", "4242")}) == 1


def test_virtual_time_costs_no_real_time_and_timeouts_follow_it() -> None:
    async def story() -> float:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600.0):
                await asyncio.sleep(1e6)
        return loop.time()

    assert run(story()) == pytest.approx(3600.0, abs=0.01)


def test_a_fast_clock_sleeps_shorter_in_true_time() -> None:
    async def story() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        clock = SimClock(loop, rate=1.25)
        began, true = clock.now(), loop.time()
        await clock.sleep(100.0)
        return clock.now() - began, loop.time() - true

    shown, true = run(story())
    assert shown == pytest.approx(100.0, abs=0.01) and true == pytest.approx(80.0, abs=0.01)


def test_a_frozen_process_does_nothing_until_it_is_thawed() -> None:
    loop = SimLoop()
    seen: list[float] = []

    async def tick() -> None:
        while True:
            await asyncio.sleep(1.0)
            seen.append(loop.time())

    async def story() -> None:
        process = Process("p")
        task = loop.create_task(tick(), context=process.context.copy())
        await asyncio.sleep(2.5)
        loop.freeze(process)
        await asyncio.sleep(10.0)
        loop.thaw(process)
        await asyncio.sleep(0.5)
        task.cancel()

    run(story(), loop)
    assert seen == [pytest.approx(when, abs=0.01) for when in (1.0, 2.0, 12.5)]


def test_a_deadlock_and_a_livelock_are_told_apart_from_waiting() -> None:
    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    async def busy() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Deadlock):
        run(forever())
    with pytest.raises(Livelock):
        run(busy())


def test_threads_are_refused() -> None:
    async def story() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match="thread"):
        run(story())


def test_what_a_callback_of_a_live_process_raises_is_told() -> None:
    loop = SimLoop()
    told: list[str] = []
    loop.on_failure = lambda who, error: told.append(f"{who}: {error}")

    def fail() -> None:
        raise ValueError("a defect")

    async def story() -> None:
        living, dead = Process("living"), Process("dead")
        dead.alive = False
        for process in (living, dead):
            loop.call_soon(fail, context=process.context.copy())
        await asyncio.sleep(0)

    run(story(), loop)
    assert told == ["living: a defect"]
