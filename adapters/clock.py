"""Time as a port: durations from a clock that never steps, wall time for display only.

Deadlines, leases and back-offs use `now()`. `wall()` may step (NTP, an administrator, a restored VM) and is for facts
that people read or that must outlive a boot.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since an arbitrary origin; never steps and counts suspend. Comparable within one boot only."""

    def wall(self) -> float:
        """Unix seconds. May step in either direction."""

    async def sleep(self, seconds: float) -> None:
        """Return once `seconds` have passed on `now()`; at once (after one turn of the loop) if not positive."""


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


class ManualClock:
    """A clock that moves only when told. `advance` wakes sleepers in deadline order and lets tasks run in between."""

    def __init__(self, now: float = 1_000.0, wall: float = 1_700_000_000.0) -> None:
        self._now = now
        self._wall = wall
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._sequence = 0

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
        self._sequence += 1
        heapq.heappush(self._sleepers, (self._now + seconds, self._sequence, waiter))
        await waiter

    @property
    def next_deadline(self) -> float | None:
        """When the earliest sleeper wakes, in `now()` seconds; None if nobody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    async def advance(self, seconds: float, *, turns: int = 20) -> None:
        """Move both clocks; at each deadline the loop runs `turns` turns, so that woken tasks act at their own time."""
        target = self._now + seconds
        await _run(turns)
        while (deadline := self.next_deadline) is not None and deadline <= target:
            self._move(deadline)
            while self.next_deadline is not None and self._sleepers[0][0] <= self._now:
                heapq.heappop(self._sleepers)[2].set_result(None)
            await _run(turns)
        self._move(target)
        await _run(turns)

    def _move(self, target: float) -> None:
        passed = max(target - self._now, 0.0)
        self._now += passed
        self._wall += passed


async def _run(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
