"""Time as a port: durations from a clock that never steps, wall time for display only.

Deadlines, leases and back-offs use `now()`. `wall()` may step (NTP, an administrator, a restored VM) and is for facts
that people read or that must outlive a boot.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol


class Alarm(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """It shall not ring (any more)."""


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since an arbitrary origin; never steps and counts suspend. Comparable within one boot only."""

    def wall(self) -> float:
        """Unix seconds. May step in either direction."""

    async def sleep(self, seconds: float) -> None:
        """Return once `seconds` have passed on `now()`; at once (after one turn of the loop) if not positive."""

    def alarm(self, seconds: float, ring: Callable[[], object]) -> Alarm:
        """Call `ring` from the event loop once `seconds` have passed. Cheaper than a task that sleeps: see `adapters.waking`."""


class SystemClock:
    """CLOCK_BOOTTIME and asyncio.

    CLOCK_MONOTONIC stands still while a machine is suspended, so a lease measured on it would look alive after it
    lapsed. `asyncio.sleep` runs on CLOCK_MONOTONIC: after a suspend it wakes late, so callers compare deadlines with
    `now()`.
    """

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0))

    def alarm(self, seconds: float, ring: Callable[[], object]) -> Alarm:
        return asyncio.get_running_loop().call_later(max(seconds, 0.0), ring)


class _ManualAlarm:
    """`ring` None: it has rung, or was cancelled."""

    __slots__ = ("ring",)

    def __init__(self, ring: Callable[[], object]) -> None:
        self.ring: Callable[[], object] | None = ring

    def cancel(self) -> None:
        self.ring = None


class ManualClock:
    """A clock that moves only when told. `advance` wakes sleepers in deadline order and lets tasks run in between."""

    def __init__(self, now: float = 1_000.0, wall: float = 1_700_000_000.0) -> None:
        self._now = now
        self._wall = wall
        self._alarms: list[tuple[float, int, _ManualAlarm]] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._wall

    def step_wall(self, seconds: float) -> None:
        """Move wall time alone, as an administrator or NTP would."""
        self._wall += seconds

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        alarm = self.alarm(seconds, partial(_wake, waiter))
        try:
            await waiter
        finally:
            alarm.cancel()

    def alarm(self, seconds: float, ring: Callable[[], object]) -> Alarm:
        if seconds <= 0:
            return asyncio.get_running_loop().call_soon(ring)
        alarm = _ManualAlarm(ring)
        heapq.heappush(self._alarms, (self._now + seconds, next(self._numbers), alarm))
        return alarm

    @property
    def next_deadline(self) -> float | None:
        """When the earliest alarm rings, in `now()` seconds; None if there is none."""
        while self._alarms and self._alarms[0][2].ring is None:
            heapq.heappop(self._alarms)
        return self._alarms[0][0] if self._alarms else None

    async def advance(self, seconds: float, *, turns: int = 20) -> None:
        """Move both clocks; at each deadline the loop runs `turns` turns, so that woken tasks act at their own time."""
        target = self._now + seconds
        await _run(turns)
        while (deadline := self.next_deadline) is not None and deadline <= target:
            self._move(deadline)
            while self.next_deadline is not None and self._alarms[0][0] <= self._now:
                ring = heapq.heappop(self._alarms)[2].ring
                if ring is not None:
                    ring()
            await _run(turns)
        self._move(target)
        await _run(turns)

    def _move(self, target: float) -> None:
        passed = max(target - self._now, 0.0)
        self._now += passed
        self._wall += passed


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _run(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
