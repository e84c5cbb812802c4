"""The names under which Spiderpool documents its metrics, so that dashboards made for it go on working.

They are the documented names, as Prometheus shows them (counters with `_total`); Spiderpool v1.1.1 to v1.2.2 exports misspelt ones by mistake, which
its own dashboards do not query.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from adapters.families import Family, counter, gauge, histogram

BUCKETS_S = (0.1, 0.3, 0.5, 1.0, 3.0, 5.0, 7.0, 10.0, 15.0)


class Durations:
    """One of Spiderpool's groups of duration metrics: a histogram, and average, maximum, minimum and latest since start."""

    def __init__(self, stem: str, infix: str, text: str) -> None:
        self._spread = histogram(f"{stem}{infix}_duration_seconds", f"{text}.", buckets=BUCKETS_S)
        self._gauges = {
            word: gauge(f"{stem}_{word}{infix}_duration_seconds", f"{text}: {word} since start.")
            for word in ("average", "max", "min", "latest")
        }
        self._inner = CollectorRegistry()
        self._histogram = self._spread.histogram(self._inner)
        self._count, self._sum = 0, 0.0
        self._seen = dict.fromkeys(("average", "max", "min", "latest"), 0.0)

    @property
    def families(self) -> tuple[Family, ...]:
        return (self._spread, *self._gauges.values())

    def observe(self, seconds: float) -> None:
        self._histogram.observe(seconds)
        self._count += 1
        self._sum += seconds
        seen = self._seen
        seen["min"] = min(seen["min"], seconds) if self._count > 1 else seconds
        seen["max"] = max(seen["max"], seconds)
        seen["average"], seen["latest"] = self._sum / self._count, seconds

    def collect(self) -> Iterator[Metric]:
        yield from self._inner.collect()
        for word, family in self._gauges.items():
            yield family.value(self._seen[word])


GC = counter("spiderpool_ip_gc_counts_total", "Addresses that were freed because nobody would ever have released them.")
GC_FAILURES = counter("spiderpool_ip_gc_failure_counts_total", "Such addresses that could not be freed.")
