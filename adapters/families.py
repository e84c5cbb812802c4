"""Metric families declared once: what is exported, what the reference page says and what a test compares are the same values.

Two ways to fill one: `value` and `samples` on scrape, from the state that decides; `counter` and `histogram` for what happens and leaves no state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

LATENCY_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Type(Enum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """`name` as Prometheus shows it, with the unit and, on counters, `_total`. Labels are bounded sets: never a pod, address or container."""

    name: str
    type: Type
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = LATENCY_S

    def __post_init__(self) -> None:
        if (self.type is Type.COUNTER) != self.name.endswith("_total"):
            raise ValueError(f"{self.name}: counters, and only they, end in _total")

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which Prometheus stores it."""
        if self.type is Type.HISTOGRAM:
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)

    def value(self, value: float) -> Metric:
        """The one sample of a family without labels."""
        return self.samples([((), value)])

    def samples(self, samples: Iterable[tuple[Sequence[str], float]]) -> Metric:
        """One sample per (label values, value)."""
        known = CounterMetricFamily if self.type is Type.COUNTER else GaugeMetricFamily
        family = known(self.name, self.text, labels=self.labels)
        for labels, value in samples:
            family.add_metric(labels, value)
        return family

    def counter(self, registry: CollectorRegistry) -> Counter:
        return Counter(self.name, self.text, self.labels, registry=registry)

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        return Histogram(self.name, self.text, self.labels, buckets=self.buckets, registry=registry)


def gauge(name: str, text: str, *labels: str) -> Family:
    return Family(name, Type.GAUGE, text, labels)


def counter(name: str, text: str, *labels: str) -> Family:
    return Family(name, Type.COUNTER, text, labels)


def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = LATENCY_S) -> Family:
    return Family(name, Type.HISTOGRAM, text, labels, buckets)


# Both programs export these; Prometheus tells them apart by job.
WATCH_AGE = gauge("nephila_watch_age_seconds", "Since the API server last said anything about this kind.", "resource")
LAG = gauge("nephila_loop_lag_seconds", "By how much the event loop was late at worst within the last minute.")
EVENTS_DROPPED = counter("nephila_events_dropped_total", "Events that were not written: too many, or refused.")
