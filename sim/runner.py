"""Many seeds on several processes, shrinking of a failing one, and the hunt for a planted bug."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import structlog

from sim.crashpoints import Crash, crash
from sim.mutants import plant
from sim.world import Outcome, simulate

CONTEXT_LINES = 25
COLLECT_EVERY = 5  # seeds: walking through all objects takes a tenth of a world's time
FAULT_ROUNDS = 1  # passes over the fault kinds when shrinking: each costs a run per kind


def prepare(mutant: str = "") -> None:
    """Once per process: production logs are not read here, and collection of garbage is between seeds only."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if mutant:
        plant(mutant)
    gc.disable()
    gc.freeze()  # modules live as long as the process


def run_seeds(seeds: Iterable[int], jobs: int, budget_s: float = 0.0, mutant: str = "") -> Iterator[Outcome]:
    """Outcomes in the order of the seeds, whatever the number of processes."""
    deadline = time.monotonic() + budget_s if budget_s else float("inf")
    # Fresh processes: a planted bug must not outlive its hunt.
    spawn = multiprocessing.get_context("spawn")
    waiting: deque[Future[Outcome]] = deque()
    with ProcessPoolExecutor(max(jobs, 1), mp_context=spawn, initializer=prepare, initargs=(mutant,)) as pool:
        try:
            for seed in seeds:
                if time.monotonic() > deadline:
                    break
                waiting.append(pool.submit(_one, seed))
                if len(waiting) > 4 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def hunt(mutant: str, seeds: Iterable[int], jobs: int) -> Outcome | None:
    """The first seed that catches the planted bug, and passes without it."""
    for outcome in run_seeds(seeds, jobs, mutant=mutant):
        if outcome.violation is not None and next(run_seeds([outcome.seed], 1)).violation is None:
            return outcome
    return None


def hunt_by_power_loss(mutant: str) -> Crash | None:
    """The first effect boundary at which a power loss shows the planted bug, and shows nothing without it."""
    with _one_process(mutant) as broken, _one_process() as sound:
        for number in range(broken.submit(_power_loss, -1).result().boundaries):
            found = broken.submit(_power_loss, number).result()
            if found.is_harmful and not sound.submit(_power_loss, number).result().is_harmful:
                return found
    return None


def shrink(failed: Outcome) -> tuple[str, ...]:
    """The fault kinds that the failure does not need, found by leaving out one after the other."""
    assert failed.violation is not None
    without: tuple[str, ...] = ()
    for kind in failed.faults * FAULT_ROUNDS:
        tried = simulate(failed.seed, without=(*without, kind))
        if tried.violation is not None and tried.violation.invariant == failed.violation.invariant:
            without = (*without, kind)
    return without


def context(outcome: Outcome) -> list[str]:
    """The last lines of the trace that name what the violation names, else simply the last."""
    if outcome.violation is None:
        return outcome.tail[-3:]
    words = {word.strip(",;:()'") for word in outcome.violation.message.split()}
    subjects = {word for word in words if any(char.isdigit() for char in word) and not word.replace(".", "").isdigit()}
    subjects |= {word for word in words if word.count(".") == 3 or "::" in word}
    related = [line for line in outcome.tail if any(f"={subject}" in line for subject in subjects)]
    return (related or outcome.tail)[-CONTEXT_LINES:]


def _one(seed: int) -> Outcome:
    try:
        return simulate(seed)
    finally:
        if seed % COLLECT_EVERY == 0:
            gc.collect()


def _one_process(mutant: str = "") -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=prepare, initargs=(mutant,))


def _power_loss(number: int) -> Crash:
    try:
        return crash(number, power=True)
    finally:
        if number % COLLECT_EVERY == 0:
            gc.collect()
