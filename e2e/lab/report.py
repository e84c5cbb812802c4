"""The result of a run as one value: what the table prints and what `JSON=1` prints come from it alone."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from e2e.lab.ledger import Fate, Ledger, Timing, timing


@dataclass(frozen=True, slots=True)
class Step:
    """One part of a scenario. `problems` empty: it passed."""

    name: str
    seconds: float
    problems: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Requests:
    """API requests counted by the server, the lab's own left out; watches count once."""

    total: int
    per_add: float
    by_kind: Mapping[str, int]


def count_requests(rows: Sequence[Mapping[str, Any]], adds: int) -> Requests | None:
    """None if the server did not count. Whoever does not call itself the lab is the product."""
    ours: Counter[str] = Counter()
    for row in rows:
        if not row["userAgent"].startswith("nephila-lab/"):
            ours[f"{row['verb']} {row['resource']}" + (f"/{row['subresource']}" if row["subresource"] else "")] += row[
                "count"
            ]
    total = ours.total()
    return Requests(total, round(total / adds, 3) if adds else 0.0, dict(ours.most_common())) if rows else None


@dataclass(frozen=True, slots=True)
class Summary:
    """`add` and `dele` time the whole call of the main plugin, `shim_add` and `shim_del` only our part of it (process start to exit)."""

    scenario: str
    nodes: int
    pods_peak: int
    addresses_peak: int
    pods_started: int
    pings_sent: int
    pings_lost: int
    add: Timing
    dele: Timing
    shim_add: Timing
    shim_del: Timing
    retries_agent_down: int
    errors: tuple[str, ...]
    requests: Requests | None
    steps: tuple[Step, ...]
    leftovers: tuple[str, ...]
    seconds: float
    passed: bool = field(init=False)

    def __post_init__(self) -> None:
        failed = self.errors or self.leftovers or any(step.problems for step in self.steps) or not self.steps
        object.__setattr__(self, "passed", not failed)

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)


@dataclass(slots=True)
class Tally:
    """What a running scenario collects."""

    steps: list[Step] = field(default_factory=list)
    pods_peak: int = 0
    addresses_peak: int = 0
    pings_sent: int = 0
    pings_lost: int = 0

    def saw(self, pods: int, addresses: int) -> None:
        self.pods_peak = max(self.pods_peak, pods)
        self.addresses_peak = max(self.addresses_peak, addresses)


def summarize(
    scenario: str,
    nodes: int,
    tally: Tally,
    ledger: Ledger,
    shim: Mapping[tuple[str, str, str], float],
    requests: Requests | None,
    leftovers: tuple[str, ...],
    seconds: float,
) -> Summary:
    """Only calls that succeeded are timed; those that failed are counted."""
    added, deleted = ledger.of("ADD", Fate.OK), ledger.of("DEL", Fate.OK)
    shim_add = [shim[key] for call in added if (key := ("ADD", call.container_id, call.interface)) in shim]
    shim_del = [shim[key] for call in deleted if (key := ("DEL", call.container_id, call.interface)) in shim]
    down = len(ledger.of("ADD", Fate.AGENT_DOWN)) + len(ledger.of("DEL", Fate.AGENT_DOWN))
    return Summary(
        scenario=scenario,
        nodes=nodes,
        pods_peak=tally.pods_peak,
        addresses_peak=tally.addresses_peak,
        pods_started=len({(call.namespace, call.pod, call.container_id) for call in added}),
        pings_sent=tally.pings_sent,
        pings_lost=tally.pings_lost,
        add=timing(call.took_ms for call in added),
        dele=timing(call.took_ms for call in deleted),
        shim_add=timing(shim_add),
        shim_del=timing(shim_del),
        retries_agent_down=down,
        errors=tuple(ledger.errors()),
        requests=requests,
        steps=tuple(tally.steps),
        leftovers=leftovers,
        seconds=round(seconds, 2),
    )
