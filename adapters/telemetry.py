"""Logs and metrics: structlog as JSON lines on stdout, and a Prometheus registry of one's own.

Events are past-tense names with fields (`log.info("lease_claimed", block=…)`). Inside `request_scope` every line carries the request's fields.
Metrics about state are collected on scrape from that state (prometheus_client's `Collector`), so only API requests are counted here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from adapters.bareimport import absent_packages
from crds.meta import Kind

with absent_packages("rich", "better_exceptions"):
    # For coloured consoles only, which this program does not have: 3.4 MiB, if nobody imported structlog before.
    import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_SCOPE: ContextVar[Mapping[str, Any]] = ContextVar("request_scope", default=MappingProxyType({}))
_API_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def configure_logging(level: str = "info", *, output: TextIO | None = None) -> None:
    """One JSON object per line: `timestamp` (RFC 3339, UTC), `level`, `event`, then fields; exceptions as text in `exception`.

    Lines of the standard library's loggers (aiohttp, kubernetes) take the same form, from warnings on. Raises ValueError for an unknown level.
    """
    if level not in _LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(_LEVELS)}")
    output = output or sys.stdout
    shared: list[structlog.typing.Processor] = [
        _merge_scope,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(ensure_ascii=False)],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(output),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_LEVELS[level], logging.WARNING))


class request_scope:  # noqa: N801 - it is used like contextlib's functions
    """Every log line of this task and of the tasks it starts carries `fields` (e.g. request, pod) until the block ends.

    Entering costs one assignment: structlog's own bound_contextvars takes longer than an allocation's bookkeeping.
    """

    __slots__ = ("_fields", "_token")

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        self._token = _SCOPE.set(self._fields)

    def __exit__(self, *_raised: object) -> None:
        _SCOPE.reset(self._token)


def _merge_scope(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {**_SCOPE.get(), **event}


def new_registry(component: str, version: str) -> CollectorRegistry:
    """A registry with this process's resources (`process_*`) and `nephila_build_info`.

    The library's `_created` series, which would double the number of series, are switched off for the whole process.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    build = Gauge(
        "nephila_build_info", "Always 1; the labels say what runs.", ("component", "version"), registry=registry
    )
    build.labels(component, version).set(1)
    return registry


def exposition(registry: CollectorRegistry) -> tuple[bytes, str]:
    """The body and the content type of an answer to a scrape."""
    return generate_latest(registry), CONTENT_TYPE_LATEST


class ApiMetrics:
    """Counts and times API requests; give it to `KubeStore(on_request=…)`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("method", "resource")
        self._requests = Counter(
            "nephila_api_requests_total",
            "Requests to the API server; code 0 means that no answer came.",
            (*labels, "code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "nephila_api_request_seconds",
            "Time from sending to the answer, watches excluded.",
            labels,
            buckets=_API_BUCKETS,
            registry=registry,
        )

    def __call__(self, method: str, kind: Kind[Any], status: int, seconds: float) -> None:
        self._requests.labels(method, kind.plural, str(status)).inc()
        if method != "WATCH":
            self._seconds.labels(method, kind.plural).observe(seconds)
