"""A token bucket without a clock: bounds how many frames a segment sees from us."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """`rate` tokens a second up to `burst`; starts full. Time is the caller's and must not go back.

    A caller of low priority leaves `reserve` tokens for others: a probe in the ADD path does not queue behind a sweep
    of a reserved range.
    """

    rate: float
    burst: float
    _level: float = 0.0
    _at: float | None = None

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.burst < 1:
            raise ValueError("rate must be positive and burst at least 1")

    def take(self, now: float, *, reserve: float = 0.0) -> bool:
        """Take one token if more than `reserve` would be left over; False, and nothing taken, otherwise."""
        self._fill(now)
        if self._level - 1.0 < min(reserve, self.burst - 1.0) - 1e-6:
            return False
        self._level -= 1.0
        return True

    def ready_at(self, now: float, *, reserve: float = 0.0) -> float:
        """When `take` with the same reserve succeeds if nobody else takes any; `now` if at once."""
        self._fill(now)
        missing = min(reserve, self.burst - 1.0) + 1.0 - self._level
        return now + max(missing, 0.0) / self.rate

    def _fill(self, now: float) -> None:
        if self._at is None:
            self._level, self._at = self.burst, now
        self._level = min(self.burst, self._level + max(now - self._at, 0.0) * self.rate)
        self._at = max(now, self._at)
