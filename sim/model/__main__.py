"""`python -m sim.model`: the protocol must have no double address, and every weakening of it must have one. Exit code 1 otherwise."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping

from sim.model.explorer import explore
from sim.model.steps import Variant

WEAKENINGS: Mapping[str, Variant] = {
    "epochs are not compared": Variant(compare_epochs=False),
    "leases are remembered only after the mark": Variant(remember_before_mark=False),
    "the leader does not wait": Variant(wait=False),
    "the node resumes on a read": Variant(resume_by_write=False),
    "a missing mailbox counts as unfenced": Variant(missing_mailbox_fences=False),
    "the leader reclaims by belief": Variant(mark=False),
    "leases that were re-taken long ago open the node": Variant(retake_in_time=False),
    "the journal learns of a mailbox while its mark stands": Variant(keep_uid_when_acknowledged=False),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="sim.model", description="Exhaustive search of the lease protocol")
    parser.add_argument("--limit", type=int, default=5_000_000, help="states to look at before giving up")
    parser.add_argument("--weakenings-only", action="store_true", help="leave out the full search")
    options = parser.parse_args()
    passed = failed = 0
    if not options.weakenings_only:
        began = time.monotonic()
        found = explore(Variant(), options.limit)
        good = found.exhausted and not found.run
        passed, failed = passed + good, failed + (not good)
        verdict = "no double address, all states seen" if good else "FAILED"
        print(f"the protocol: {verdict}; {found.states} states, {time.monotonic() - began:.1f} s", flush=True)
        _print_run(found.run)
    for name, variant in WEAKENINGS.items():
        began = time.monotonic()
        found = explore(variant, options.limit)
        good = bool(found.run)
        passed, failed = passed + good, failed + (not good)
        verdict = f"a double address after {len(found.run)} steps" if good else "FAILED: no double address"
        print(f"if {name}: {verdict}; {found.states} states, {time.monotonic() - began:.1f} s", flush=True)
        _print_run(found.run)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def _print_run(run: tuple[str, ...]) -> None:
    for number, label in enumerate(run, 1):
        print(f"  {number:3} {label}")


if __name__ == "__main__":
    sys.exit(main())
