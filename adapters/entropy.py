"""Randomness as a port, so that a run can be replayed from its seed."""

from __future__ import annotations

import random
from typing import Protocol


class Entropy(Protocol):
    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high], evenly distributed."""

    def bits(self, count: int) -> int:
        """An integer in [0, 2**count), evenly distributed; `count` >= 1."""


class SystemEntropy:
    """The kernel's random source: fit for identities as well as for jitter."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def bits(self, count: int) -> int:
        return self._random.getrandbits(count)


class SeededEntropy:
    """The same sequence for the same seed, on every machine."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def bits(self, count: int) -> int:
        return self._random.getrandbits(count)
