"""What happens and leaves no state behind: durations and outcomes, counted as they occur. All else is read on scrape (`nodeagent.metrics`)."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric

from adapters.families import counter, histogram
from ipam.errors import NephilaError
from nodeagent.adding import AddOutcome
from nodeagent.front import Served
from probes.prober import Lane
from probes.verdicts import Verdict

ALLOCATION = histogram(
    "nephila_allocation_seconds",
    "CNI ADD inside the agent, by how it was served: warm, waited, moved (a pin), adopted, repeat, failed.",
    "outcome",
)
RELEASE = histogram("nephila_release_seconds", "CNI DEL inside the agent.")
REQUESTS = counter("nephila_requests_total", "CNI requests received, by verb.", "verb")
ERRORS = counter(
    "nephila_request_errors_total",
    "CNI requests that failed, by verb, class (who must act) and reason (the first word of the details in the CNI error object).",
    "verb",
    "class",
    "reason",
)
COMMIT = histogram("nephila_journal_commit_seconds", "One transaction of the node's journal, in the ADD path.")
SYNC = histogram(
    "nephila_journal_sync_seconds", "Making the journal proof against power loss; pins and give-backs wait for it."
)
PROBE = histogram(
    "nephila_probe_seconds",
    "One batch of address tests on the segment, by lane: add (a pod waits), background or audit.",
    "lane",
)
VERDICTS = counter("nephila_probe_verdicts_total", "Addresses tested, by what was found.", "verdict")
REVIEWS = counter(
    "nephila_webhook_reviews_total",
    "Reviews of the admission webhook, by what was asked (mutate, validate) and answered: allowed, refused, or failed (then failurePolicy decides).",
    "asked",
    "answer",
)

HAPPENINGS = (ALLOCATION, RELEASE, REQUESTS, ERRORS, COMMIT, SYNC, PROBE, VERDICTS, REVIEWS)
MAX_UNFILED = 512  # journal operations; then they are filed without waiting for a scrape
OUTCOMES = ("warm", "waited", "moved", "adopted", "repeat", "failed")


class Happenings:
    """Give its methods as observers. One per agent process; it exists before the agent, because the journal and the prober report to it too."""

    def __init__(self) -> None:
        self._inner = CollectorRegistry()
        self._allocation: dict[str, Histogram] = {}
        seconds = ALLOCATION.histogram(self._inner)
        for outcome in OUTCOMES:
            self._allocation[outcome] = seconds.labels(outcome)
        self._release = RELEASE.histogram(self._inner)
        self._requests = REQUESTS.counter(self._inner)
        self._errors = ERRORS.counter(self._inner)
        self._journal = {"commit": COMMIT.histogram(self._inner), "sync": SYNC.histogram(self._inner)}
        self._reviews = REVIEWS.counter(self._inner)
        self._unfiled: list[tuple[str, float]] = []
        probe = PROBE.histogram(self._inner)
        self._probe = {lane: probe.labels(lane.value) for lane in Lane}
        self._verdicts = VERDICTS.counter(self._inner)

    def on_add(self, outcome: AddOutcome) -> None:
        self._allocation[outcome.how].observe(outcome.seconds)

    def on_request(self, served: Served) -> None:
        self._requests.labels(served.verb).inc()
        if served.error is not None:
            self._errors.labels(served.verb, error_class(served.error), served.error.reason).inc()
            if served.verb == "ADD":
                self._allocation["failed"].observe(served.seconds)
        if served.verb == "DEL":
            self._release.observe(served.seconds)

    def on_journal(self, operation: str, seconds: float) -> None:
        """Kept for later: this is called in the ADD path, and filing it costs more than keeping it."""
        self._unfiled.append((operation, seconds))
        if len(self._unfiled) >= MAX_UNFILED:
            self._file()

    def _file(self) -> None:
        unfiled, self._unfiled = self._unfiled, []
        for operation, seconds in unfiled:
            self._journal[operation].observe(seconds)

    def on_review(self, asked: str, answer: str) -> None:
        self._reviews.labels(asked, answer).inc()

    def on_probe(self, lane: Lane, verdicts: Iterable[Verdict], seconds: float) -> None:
        self._probe[lane].observe(seconds)
        for verdict in verdicts:
            self._verdicts.labels(verdict.state.value).inc()

    def collect(self) -> Iterable[Metric]:
        self._file()
        return self._inner.collect()


def error_class(error: NephilaError) -> str:
    """The branch of the error tree: BadRequest, NoPool, TryLater, Moot, …"""
    return next((kind.__name__ for kind in type(error).__mro__ if NephilaError in kind.__bases__), type(error).__name__)
