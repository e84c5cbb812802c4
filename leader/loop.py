"""One controller's rhythm: work after every kick, at the latest after a period, never more often than a gap allows; back-off after failures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.kube.store import StoreError
from adapters.waking import Kick

log = structlog.get_logger(__name__)

BACKOFF_S = (0.5, 30.0)


class Loop:
    """`work` is level-triggered: it looks at everything that may need it, and may be called at any time. Run `run()` as a task."""

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        clock: Clock,
        entropy: Entropy,
        *,
        period_s: float,
        gap_s: float = 0.0,
    ) -> None:
        self.name = name
        self.passes = 0
        self.failures = 0
        self.last_pass_s = 0.0
        self._work = work
        self._clock = clock
        self._entropy = entropy
        self._period_s = period_s
        self._gap_s = gap_s
        self._kicked = Kick()

    def kick(self) -> None:
        """Something changed; look soon."""
        self._kicked()

    async def run(self) -> None:
        """Until cancelled. A StoreError is retried with back-off and jitter; anything else ends the reign."""
        failures = 0
        while True:
            self._kicked.clear()
            began = self._clock.now()
            try:
                await self._work()
            except StoreError as error:
                delay = min(BACKOFF_S[0] * 2.0 ** min(failures, 16), BACKOFF_S[1])
                failures += 1
                self.failures += 1
                log.warning("controller_failed", controller=self.name, error=str(error), retry_in_s=round(delay, 1))
                await self._clock.sleep(delay * self._entropy.uniform(1.0, 2.0))
                continue
            failures = 0
            self.passes += 1
            self.last_pass_s = self._clock.now() - began
            await self._clock.sleep(self._gap_s)
            await self._kicked.within(self._clock, self._period_s * self._entropy.uniform(0.9, 1.1))


class Allowance:
    """So many actions per second, at most `burst` at once: a leader must not load the API server because it has much to do."""

    def __init__(self, clock: Clock, per_s: float, burst: float) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at = clock.now()

    def take(self) -> bool:
        """True if one more action may be done now."""
        now = self._clock.now()
        self._left = min(self._left + (now - self._at) * self._per_s, self._burst)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
