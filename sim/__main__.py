"""`python -m sim run --seeds 1000`, `python -m sim replay SEED`, `python -m sim mutants`: exit code 1 if anything failed."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from ipam.reclaim import Standing
from sim.mutants import BY_POWER_LOSS, MUTANTS
from sim.runner import context, hunt, hunt_by_power_loss, prepare, run_seeds, shrink
from sim.world import Outcome, simulate

PROGRESS = 500  # seeds between two lines that say how far it is


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sim", description="Nephila's deterministic simulation")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="many seeds, one world each")
    running.add_argument("--seeds", type=int, default=100, help="how many")
    running.add_argument("--first", type=int, default=1, help="the first seed")
    running.add_argument("--jobs", type=int, default=2, help="processes")
    running.add_argument(
        "--budget", type=float, default=0.0, help="stop starting seeds after so many seconds (0: never)"
    )
    running.add_argument("--shrink", action="store_true", help="find out which faults a failing seed needs")
    replaying = commands.add_parser("replay", help="one seed again, bit for bit")
    replaying.add_argument("seed", type=int)
    replaying.add_argument("--trace", action="store_true", help="print everything that happened")
    replaying.add_argument("--without", default="", help="fault kinds to leave out, separated by commas")
    replaying.add_argument("--mutant", default="", choices=["", *MUTANTS], help="plant this bug")
    mutating = commands.add_parser("mutants", help="do the checkers catch planted bugs?")
    mutating.add_argument("--seeds", type=int, default=300, help="seeds to try per mutant")
    mutating.add_argument("--jobs", type=int, default=2, help="processes")
    mutating.add_argument("--only", default="", help="mutants to try, separated by commas")
    options = parser.parse_args(arguments)
    if options.command == "replay":
        return _replay(options.seed, options.without, options.mutant, trace=options.trace)
    if options.command == "mutants":
        return _mutants(options.only.split(",") if options.only else list(MUTANTS), options.seeds, options.jobs)
    return _run(
        range(options.first, options.first + options.seeds), options.jobs, options.budget, minimal=options.shrink
    )


def _run(seeds: Iterable[int], jobs: int, budget_s: float, *, minimal: bool) -> int:
    began = time.monotonic()
    passed = failed = started = 0
    virtual = 0.0
    taken: Counter[str] = Counter()
    for outcome in run_seeds(seeds, jobs, budget_s):
        virtual += outcome.virtual_s
        started += outcome.started
        taken.update(outcome.taken)
        if (seen := passed + failed) and seen % PROGRESS == 0:
            print(f"{seen} seeds, {failed} failed, {time.monotonic() - began:.0f} s", flush=True)
        if outcome.violation is None:
            passed += 1
            continue
        failed += 1
        _tell_failure(outcome, minimal=minimal)
    seconds = time.monotonic() - began
    print(f"{started} pods started in {virtual / 3600:.1f} simulated hours, {seconds:.0f} s on {jobs} processes")
    print("leases that lost slots by force: " + ", ".join(f"{taken[s.value]} of nodes {s.value}" for s in Standing))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def _tell_failure(outcome: Outcome, *, minimal: bool) -> None:
    without = shrink(outcome) if minimal else ()
    option = f" --without {','.join(without)}" if without else ""
    print(f"seed {outcome.seed}: {outcome.violation}")
    print(f"  python -m sim replay {outcome.seed}{option}")
    print("\n".join(f"  {line}" for line in context(outcome)), flush=True)


def _replay(seed: int, without: str, mutant: str, *, trace: bool) -> int:
    prepare(mutant)
    outcome = simulate(seed, without=tuple(filter(None, without.split(","))), tracing=trace)
    print("\n".join(outcome.tail if trace else context(outcome)))
    print(f"seed {seed}: digest {outcome.digest}, {outcome.steps} steps, {outcome.virtual_s:.1f} s simulated")
    print(f"faults: {', '.join(outcome.faults) or 'none'}")
    if outcome.violation is not None:
        print(outcome.violation)
    print("0 passed, 1 failed" if outcome.violation else "1 passed, 0 failed")
    return 1 if outcome.violation else 0


def _mutants(names: list[str], seeds: int, jobs: int) -> int:
    caught = 0
    for name in names:
        began = time.monotonic()
        if name in BY_POWER_LOSS:
            caught += _by_power_loss(name)
            continue
        found = hunt(name, range(1, seeds + 1), jobs)
        seconds = time.monotonic() - began
        if found is None:
            print(f"missed  {name:30} not caught by {seeds} seeds in {seconds:.0f} s", flush=True)
            continue
        caught += 1
        assert found.violation is not None
        where = f"{found.violation.invariant} with seed {found.seed} in {seconds:.0f} s"
        print(f"caught  {name:30} {where}: {found.violation.message[:100]}", flush=True)
    print(f"{caught} of {len(names)} caught")
    print(f"{caught} passed, {len(names) - caught} failed")
    return 0 if caught == len(names) else 1


def _by_power_loss(name: str) -> int:
    began = time.monotonic()
    found = hunt_by_power_loss(name)
    seconds = time.monotonic() - began
    if found is None:
        print(f"missed  {name:30} by a power loss at every effect boundary in {seconds:.0f} s", flush=True)
        return 0
    invariant, message = (
        (found.violation.invariant, found.violation.message) if found.violation else found.unfinished[0]
    )
    where = f"{invariant} by a power loss at boundary {found.number}, {found.where}, in {seconds:.0f} s"
    print(f"caught  {name:30} {where}: {message[:100]}", flush=True)
    return 1


def _with_fixed_hashes() -> None:
    """Start over with fixed string hashes: the production code may iterate over sets, and a replay must do so in the same order."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, "-m", "sim", *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})


if __name__ == "__main__":
    _with_fixed_hashes()
    sys.exit(main())
