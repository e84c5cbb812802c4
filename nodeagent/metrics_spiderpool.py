"""The agent's metrics under Spiderpool's documented names (compatibility facts, section 7.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from adapters.families import Family, counter
from adapters.spiderpool_metrics import GC, Durations
from ipam.errors import DeadlineExceeded, NephilaError, NoPool, PoolExhausted
from nodeagent.adding import AddOutcome
from nodeagent.agent import Agent
from nodeagent.front import Served

_X = "spiderpool_ipam_"
_STEMS = {"ADD": f"{_X}allocation", "DEL": f"{_X}release"}
_COUNTS = {
    "counts": "Requests received",
    "failure_counts": "Requests that failed",
    "update_ippool_conflict_counts": "Writes that another writer won (here: of blocks, off the ADD path)",
    "err_internal_counts": "Requests that failed for a reason that has no counter of its own",
    "err_retries_exhausted_counts": "Requests whose time was over",
}
_ALLOCATION_ONLY = {
    "err_no_available_pool_counts": "Requests for which every candidate pool was refused",
    "err_ip_used_out_counts": "Requests whose pools had no address left",
}
AUTO_WAITS = counter(
    "spiderpool_debug_auto_pool_waited_for_available_counts_total", "Waits for an address of an application's own pool."
)


def _families() -> dict[tuple[str, str], Family]:
    found = {}
    for verb, stem in _STEMS.items():
        for name, text in {**_COUNTS, **(_ALLOCATION_ONLY if verb == "ADD" else {})}.items():
            found[verb, name] = counter(f"{stem}_{name}_total", f"{text}.")
    return found


COUNTER_FAMILIES = _families()


def duration_groups() -> tuple[dict[str, Durations], dict[str, Durations]]:
    """By verb: of the whole request, and of the wait before it."""
    whole = {verb: Durations(stem, "", "The whole request") for verb, stem in _STEMS.items()}
    text = "Waiting before the work (here: in line for an address)"
    return whole, {verb: Durations(stem, "_limit", text) for verb, stem in _STEMS.items()}


class SpiderpoolAgentCollector(Collector):
    """Building it attaches it to the agent. `debug`: Spiderpool's `debug_` names too."""

    def __init__(self, agent: Agent, *, debug: bool = False) -> None:
        self._agent = agent
        self._debug = debug
        self._counts: Counter[tuple[str, str]] = Counter()
        self._whole, self._waits = duration_groups()
        agent.front.observers.append(self._on_request)
        agent.adding.observers.append(self._on_add)

    def collect(self) -> Iterator[Metric]:
        agent = self._agent
        for key, family in COUNTER_FAMILIES.items():
            conflicts = agent.keeper.counters.conflicts if key == ("ADD", "update_ippool_conflict_counts") else 0
            yield family.value(conflicts or self._counts[key])
        for kind in (self._whole, self._waits):
            for durations in kind.values():
                yield from durations.collect()
        yield GC.value(agent.reconciler.released)
        if self._debug:
            yield AUTO_WAITS.value(sum(n for pool, n in agent.line.waits.items() if pool.startswith("auto")))

    def _on_request(self, served: Served) -> None:
        if served.verb not in _STEMS:
            return
        self._counts[served.verb, "counts"] += 1
        self._whole[served.verb].observe(served.seconds)
        if served.verb == "DEL":
            self._waits["DEL"].observe(0.0)
        if served.error is not None:
            self._counts[served.verb, "failure_counts"] += 1
            self._counts[served.verb, _kind_of(served.error)] += 1

    def _on_add(self, outcome: AddOutcome) -> None:
        self._waits["ADD"].observe(outcome.seconds if outcome.how == "waited" else 0.0)


def _kind_of(error: NephilaError) -> str:
    match error:
        case NoPool():
            return "err_no_available_pool_counts"
        case PoolExhausted():
            return "err_ip_used_out_counts"
        case DeadlineExceeded():
            return "err_retries_exhausted_counts"
        case _:
            return "err_internal_counts"
