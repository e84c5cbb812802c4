"""`Clock` of one simulated machine: its own rate, and a wall clock that may be stepped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from adapters.clock import Alarm

WALL_EPOCH = 1_700_000_000.0
BOOT_OFFSET = 1_000.0  # a machine has been up for a while when a run begins
TICK_S = 1e-6  # the shortest sleep: a rest lost to rounding would not move time at all


class SimClock:
    """`rate` seconds of `now()` pass in one second of true (loop) time, and it starts anew at each boot.

    Wall time is disciplined (NTP): it runs at the true rate, but may be stepped.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, rate: float = 1.0, wall_offset: float = 0.0) -> None:
        self._loop = loop
        self._rate = rate
        self._wall = WALL_EPOCH + wall_offset
        self._booted = loop.time() - BOOT_OFFSET

    def now(self) -> float:
        return (self._loop.time() - self._booted) * self._rate

    def wall(self) -> float:
        return self._wall + self._loop.time()

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        await asyncio.sleep(max(seconds / self._rate, TICK_S))

    def alarm(self, seconds: float, ring: Callable[[], object]) -> Alarm:
        return self._loop.call_later(max(seconds / self._rate, TICK_S) if seconds > 0 else 0.0, ring)

    def step_wall(self, seconds: float) -> None:
        self._wall += seconds

    def reboot(self) -> None:
        self._booted = self._loop.time()
