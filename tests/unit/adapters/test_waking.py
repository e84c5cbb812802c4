"""Waiting for a kick or for the end of a time, on the manual clock."""

from __future__ import annotations

import asyncio

from adapters.clock import ManualClock, SystemClock
from adapters.waking import Kick, done_within


async def test_a_kick_ends_the_wait_and_stays_until_it_is_cleared() -> None:
    clock, kick = ManualClock(), Kick()
    waiting = asyncio.ensure_future(kick.within(clock, 5.0))
    await clock.advance(4.0)
    assert not waiting.done()
    kick()
    assert await waiting is True
    assert clock.next_deadline is None, "the alarm is forgotten"
    assert await kick.within(clock, 5.0) is True, "a kick that was not cleared is not lost"
    kick.clear()
    assert not kick.is_given


async def test_without_a_kick_the_time_ends_the_wait() -> None:
    clock, kick = ManualClock(), Kick()
    waiting = asyncio.ensure_future(kick.within(clock, 5.0))
    await clock.advance(5.0)
    assert await waiting is False


async def test_a_wait_that_was_cancelled_does_not_take_the_next_kick_with_it() -> None:
    clock, kick = ManualClock(), Kick()
    first = asyncio.ensure_future(kick.within(clock, 5.0))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    kick()
    assert await kick.within(clock, 0.0) is True


async def test_others_get_a_turn_although_the_kick_is_already_there() -> None:
    kick = Kick()
    turns: list[int] = []
    kick()
    asyncio.get_running_loop().call_soon(turns.append, 1)
    await kick.within(ManualClock(), 5.0)
    assert turns == [1]


async def test_a_future_is_waited_for_and_left_alone() -> None:
    clock = ManualClock()
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    late = asyncio.ensure_future(done_within(clock, 2.0, future))
    await clock.advance(2.0)
    assert await late is False and not future.done()
    soon = asyncio.ensure_future(done_within(clock, 2.0, future))
    await asyncio.sleep(0)
    future.set_exception(ValueError("the caller's business"))
    assert await soon is True
    assert await done_within(clock, 0.0, future) is True
    assert isinstance(future.exception(), ValueError)
    assert clock.next_deadline is None


async def test_the_system_clock_rings_and_can_be_told_not_to() -> None:
    rung: list[str] = []
    clock = SystemClock()
    clock.alarm(0.01, lambda: rung.append("a"))
    clock.alarm(0.01, lambda: rung.append("b")).cancel()
    await clock.sleep(0.03)
    assert rung == ["a"]
