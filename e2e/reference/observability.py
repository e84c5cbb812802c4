"""The pages of metrics and Events, from the families and notices that the programs declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry

from adapters.families import Family, Type
from adapters.notices import Notice
from adapters.spiderpool_metrics import Durations
from adapters.telemetry import ApiMetrics, new_registry
from leader.metrics import LEADER_FAMILIES, OF_POOLS
from leader.metrics_spiderpool import CONTROLLER_FAMILIES, DEBUG_FAMILIES
from leader.notices import LEADER_NOTICES
from nodeagent.metrics import AGENT_FAMILIES
from nodeagent.metrics_spiderpool import AUTO_WAITS, COUNTER_FAMILIES, duration_groups
from nodeagent.notices import AGENT_NOTICES

_NOTE = "Generated from the code by `make generate`; do not edit."


def spiderpool_agent_families() -> tuple[Family, ...]:
    groups: Iterable[Durations] = (one for kind in duration_groups() for one in kind.values())
    return (*COUNTER_FAMILIES.values(), *(family for one in groups for family in one.families), CONTROLLER_FAMILIES[0])


def common_families() -> tuple[Family, ...]:
    """Those that `adapters.telemetry` registers."""
    registry: CollectorRegistry = new_registry("agent", "0")
    ApiMetrics(registry)
    found = []
    for metric in registry.collect():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        labels = sorted({label for sample in metric.samples for label in sample.labels})
        found.append(Family(name, Type(metric.type), metric.documentation, _LABELS.get(name, tuple(labels))))
    return tuple(found)


_LABELS = {
    "nephila_api_requests_total": ("method", "resource", "code"),
    "nephila_api_request_seconds": ("method", "resource"),
}


def metrics_page() -> str:
    parts = [
        "# Metrics",
        "",
        _NOTE,
        "",
        "Each program serves `/metrics` at its `healthAddress`. Values are read on scrape from the state that decides; only what happens and leaves",
        "no state is counted. No pod, address or container is ever a label. Histogram buckets of our own names start at 0.5 ms.",
    ]
    own_leader = tuple(family for family in LEADER_FAMILIES if family not in OF_POOLS)
    sections = (
        ("Both programs", "", common_families()),
        ("Agent", "One per node. Sums over nodes are meaningful.", AGENT_FAMILIES),
        ("Leader", "Counters start over with each reign.", own_leader),
        ("Pools", "Cluster-wide, shown by the one candidate that leads.", OF_POOLS),
        (
            "Spiderpool's names: agent",
            "For dashboards made for Spiderpool (`metrics.spiderpoolNames`). Buckets as there, from 0.1 s: prefer our own.",
            spiderpool_agent_families(),
        ),
        ("Spiderpool's names: leader", "", CONTROLLER_FAMILIES),
        (
            "Spiderpool's debug names",
            "Only with `metrics.spiderpoolDebugNames`, as there. Their labels are not in snake_case, which `promtool check metrics` refuses.",
            (AUTO_WAITS, *DEBUG_FAMILIES),
        ),
    )
    for title, text, families in sections:
        parts += ["", f"## {title}", ""]
        if text:
            parts += [text, ""]
        parts += _table(
            ("name", "type", "labels", "meaning"),
            (
                (f"`{family.name}`", family.type.value, ", ".join(f"`{label}`" for label in family.labels), family.text)
                for family in families
            ),
        )
    return "\n".join([*parts, ""])


def events_page() -> str:
    parts = [
        "# Events",
        "",
        _NOTE,
        "",
        "`kubectl describe` shows them on the object they are about. The same reason for the same object within six minutes is one Event",
        "whose series counts up. Events are told aside and in moderation, and nothing depends on them: `nephila_events_dropped_total` counts",
        "those that were dropped.",
    ]
    sections: Sequence[tuple[str, Mapping[str, Notice]]] = (
        ("Agent (`nephila.io/agent`)", AGENT_NOTICES),
        ("Leader (`nephila.io/leader`)", LEADER_NOTICES),
    )
    for title, notices in sections:
        parts += ["", f"## {title}", ""]
        parts += _table(
            ("reason", "type", "on", "meaning", "what to do"),
            ((f"`{n.reason}`", n.type, ", ".join(n.on), n.meaning, n.cure) for n in notices.values()),
        )
    return "\n".join([*parts, ""])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
