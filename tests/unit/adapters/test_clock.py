"""The clocks and the sources of randomness."""

from __future__ import annotations

import asyncio

from adapters.clock import ManualClock, SystemClock
from adapters.entropy import SeededEntropy, SystemEntropy


async def test_the_manual_clock_wakes_sleepers_at_their_own_time_and_in_order() -> None:
    clock = ManualClock(now=0.0)
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.now()))

    tasks = [asyncio.ensure_future(sleeper("a", 3, 3)), asyncio.ensure_future(sleeper("b", 2, 2, 0))]
    await clock.advance(4.5)
    assert woken == [("b", 2), ("a", 3), ("b", 4), ("b", 4)]
    assert clock.now() == 4.5
    await clock.advance(10)
    await asyncio.gather(*tasks)
    assert woken[-1] == ("a", 6.0)
    assert clock.next_deadline is None


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock()
    task = asyncio.ensure_future(clock.sleep(5))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert clock.next_deadline is None
    await clock.advance(10)


async def test_wall_time_steps_alone() -> None:
    clock = ManualClock(now=0.0, wall=100.0)
    clock.step_wall(-50)
    await clock.advance(1)
    assert (clock.now(), clock.wall()) == (1.0, 51.0)


async def test_the_system_clock_moves_forward() -> None:
    clock = SystemClock()
    before = clock.now()
    await clock.sleep(0.01)
    assert 0.009 <= clock.now() - before < 5
    assert clock.wall() > 1_700_000_000
    await clock.sleep(-1)


def test_seeded_entropy_repeats_and_stays_in_range() -> None:
    one, two = SeededEntropy(7), SeededEntropy(7)
    for _ in range(100):
        assert one.bits(48) == two.bits(48) < 2**48
        assert one.uniform(1.0, 2.0) == two.uniform(1.0, 2.0)
    assert SeededEntropy(8).bits(64) != SeededEntropy(7).bits(64)
    assert 3.0 <= SystemEntropy().uniform(3.0, 4.0) <= 4.0
    assert SystemEntropy().bits(8) < 256
