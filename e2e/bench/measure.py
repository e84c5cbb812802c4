"""Interleaved rounds, so that what this machine does meanwhile hits every contender alike."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from e2e.bench.contenders import Contender
from e2e.bench.spawning import Batch, BenchError, Tools, spawn

VERBS = ("ADD", "DEL")


@dataclass(frozen=True, slots=True)
class Mode:
    """How processes are started: ``count`` a round, at most ``in_flight`` at once."""

    name: str
    rounds: int
    count: int
    in_flight: int


@dataclass(slots=True)
class Series:
    """All batches of one contender, mode and verb."""

    contender: str
    mode: str
    verb: str
    elapsed_ns: list[int] = field(default_factory=list)
    totals_ns: list[int] = field(default_factory=list)
    failed: int = 0
    said: str = ""

    def take(self, batch: Batch) -> None:
        self.elapsed_ns += [sample.elapsed_ns for sample in batch.samples]
        self.totals_ns.append(batch.total_ns)
        self.failed += batch.failed
        if batch.failed:
            self.said = batch.said

    def percentile_ms(self, percent: int) -> float:
        """Nearest rank, in milliseconds."""
        ranked = sorted(self.elapsed_ns)
        return ranked[max(0, -(-len(ranked) * percent // 100) - 1)] / 1e6

    @property
    def total_ms(self) -> float:
        """The median over the rounds of the time from the first start to the last exit."""
        return statistics.median(self.totals_ns) / 1e6


def measure(tools: Tools, contenders: Sequence[Contender], modes: Sequence[Mode], first: int = 1) -> list[Series]:
    """Runs every mode; in each round every contender once, in turning order. The first round warms up and is dropped.

    `first`: the number of the first process; those before it are somebody else's.
    """
    found: list[Series] = []
    number = first
    for mode in modes:
        table = {(one.name, verb): Series(one.name, mode.name, verb) for one in contenders for verb in VERBS}
        for turn in range(mode.rounds + 1):
            start = turn % len(contenders)
            for one in (*contenders[start:], *contenders[:start]):
                for verb, batch in one_round(tools, one, mode, number):
                    if turn > 0:
                        table[one.name, verb].take(batch)
                number += mode.count
        found += table.values()
    if not found:
        raise BenchError("nothing to measure: no mode was chosen")
    return found


def one_round(tools: Tools, one: Contender, mode: Mode, first: int) -> list[tuple[str, Batch]]:
    """ADDs for new pods, then their DELs; numbers never repeat in a run, as container ids never do."""
    one.create(first, mode.count)
    try:
        return [
            (
                verb,
                spawn(
                    tools,
                    one.program,
                    {"CNI_COMMAND": verb, **one.env},
                    one.stdin,
                    first=first,
                    count=mode.count,
                    in_flight=mode.in_flight,
                ),
            )
            for verb in VERBS
        ]
    finally:
        one.remove(first, mode.count)
