"""Waiting for whichever comes first: something that happens, or the end of a time.

Agents and leaders do this many times a second, so it costs one future and one timer, and no tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from adapters.clock import Clock


class Kick:
    """A wake-up call for one loop. It stays until it is cleared, so that one that comes while the loop works is not lost."""

    def __init__(self) -> None:
        self._is_given = False
        self._waiter: asyncio.Future[None] | None = None

    def __call__(self) -> None:
        self._is_given = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def is_given(self) -> bool:
        return self._is_given

    def clear(self) -> None:
        self._is_given = False

    async def within(self, clock: Clock, seconds: float) -> bool:
        """Wait for the kick, at most so long; True if there was one. Others get a turn in any case."""
        if self._is_given:
            await asyncio.sleep(0)
            return True
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        alarm = clock.alarm(seconds, _settling(waiter))
        try:
            await waiter
        finally:
            alarm.cancel()
            self._waiter = None
        return self._is_given


async def done_within(clock: Clock, seconds: float, future: asyncio.Future[Any]) -> bool:
    """Wait until the future is done, at most so long; True if it is. It is neither cancelled nor looked into."""
    if future.done():
        return True
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    settle = _settling(waiter)
    alarm = clock.alarm(seconds, settle)
    future.add_done_callback(settle)
    try:
        await waiter
    finally:
        alarm.cancel()
        future.remove_done_callback(settle)
    return future.done()


def _settling(waiter: asyncio.Future[None]) -> Callable[..., None]:
    def settle(_future: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    return settle
