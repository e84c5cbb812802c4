"""What may go wrong in a run, and how often: drawn per seed, each kind absent from some seeds, so that simple and hostile worlds both occur."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass

# Kinds that strike a whole process, machine or object, with their mean number per 100 s at rate 1.
EVENTS: Mapping[str, float] = {
    "agent-crash": 4.0,
    "node-crash": 2.0,
    "pause": 3.0,
    "partition": 3.0,
    "one-way": 2.0,
    "clock-step": 3.0,
    "compaction": 3.0,
    "pool-edit": 4.0,
    "node-recreate": 1.5,
    "upgrade": 2.0,
    "leader-crash": 4.0,
    "leader-pause": 4.0,
    "foreign-claim": 4.0,
    "runtime-gc": 6.0,
    "out-of-service": 3.0,
    "pool-delete": 3.0,
    "affinity-edit": 4.0,
    "reserve": 8.0,
}

OUTAGES = ("node-recreate", "out-of-service")

# Kinds that strike one request, commit, CNI call or pod, with their probability at rate 1.
CHANCES: Mapping[str, float] = {
    "delay": 0.2,
    "reorder": 0.3,
    "duplicate": 0.05,
    "stale-read": 0.1,
    "lost-request": 0.08,
    "lost-reply": 0.08,
    "late-apply": 0.05,
    "conflict": 0.05,
    "gone": 0.03,
    "throttle": 0.08,
    "server-error": 0.08,
    "disk-error": 0.01,
    "lost-commits": 0.8,
    "force-delete": 0.4,
    "lost-add": 0.25,
    "never-del": 0.2,
    "late-del": 0.4,
    "dup-add": 0.2,
    "dup-del": 0.2,
    "unlink-lost": 0.2,
    "sandbox-crash": 0.2,
    "move": 0.4,
    "arp-loss": 0.5,
    "lost-fsync": 0.3,
    "torn-write": 0.5,
}

CLOCK_RATE = "clock-rate"
# In the order in which they are drawn. A new kind goes to the end: then every seed draws for the others what it always did.
_LATER = ("runtime-gc", "out-of-service", "pool-delete", "affinity-edit", "reserve")
KINDS = (*(kind for kind in EVENTS if kind not in _LATER), *CHANCES, CLOCK_RATE, *_LATER)


@dataclass(frozen=True)
class Faults:
    """`rates`: 0 to 1 per kind. Kinds in `without` are drawn, so that all other draws stay the same, and then dropped."""

    rates: Mapping[str, float]

    @classmethod
    def draw(cls, seed: int, without: Collection[str] = ()) -> Faults:
        source = random.Random(f"{seed}/faults")
        absent = source.choice((0.2, 0.5, 0.8, 1.0)) if source.random() < 0.9 else 0.0
        rates = {}
        for kind in KINDS:
            drawn = 0.0 if source.random() < absent else source.choice((0.1, 0.3, 1.0))
            rates[kind] = 0.0 if kind in without else drawn
        return cls(rates)

    def per_second(self, kind: str) -> float:
        return self.rates[kind] * EVENTS[kind] / 100.0

    def chance(self, kind: str) -> float:
        return self.rates[kind] * CHANCES[kind]

    def has(self, kind: str) -> bool:
        return self.rates[kind] > 0

    def present(self) -> tuple[str, ...]:
        return tuple(kind for kind in KINDS if self.rates[kind] > 0)
