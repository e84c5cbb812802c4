"""The pulse of an event loop: a task that wakes every second and keeps how late it was.

Liveness is judged by it. A loop that stands still can answer no probe either, so the kubelet's timeout is what catches that case; what the pulse adds
is the 503 when the loop answers but its work has ended, the lag as a number, and `on_beat`, with which the composition root keeps a watchdog armed
that dumps all stacks from a thread of its own while the loop is stuck.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from adapters.clock import Clock

BEAT_S = 1.0
STALL_S = 30.0
REMEMBERED = 60  # beats, which is a minute


class Pulse:
    """Run `run()` as a task of the loop that is watched."""

    def __init__(self, clock: Clock, on_beat: Callable[[], None] | None = None) -> None:
        self._clock = clock
        self._on_beat = on_beat
        self._beaten_at = clock.now()
        self._lags: deque[float] = deque(maxlen=REMEMBERED)

    async def run(self) -> None:
        while True:
            self._beaten_at = self._clock.now()
            if self._on_beat is not None:
                self._on_beat()
            await self._clock.sleep(BEAT_S)
            self._lags.append(max(self._clock.now() - self._beaten_at - BEAT_S, 0.0))

    @property
    def worst_lag_s(self) -> float:
        """By how much the latest of the last minute's beats was late."""
        return max(self._lags, default=0.0)

    def why_dead(self) -> str:
        """Why the process should be restarted; "" if it should not."""
        age = self._clock.now() - self._beaten_at
        return f"the event loop did not turn for {age:.0f} s" if age > STALL_S else ""
