"""The result of a run as one value: what the table prints and what `JSON=1` prints come from it alone."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from e2e.lab.ledger import Fate, Ledger, Timing, timing
from e2e.lab.outcomes import SHORT_ID, Served

BLOCKS = "ipblocks.nephila.io"
WARM = "warm"


@dataclass(frozen=True, slots=True)
class Step:
    """One part of a scenario. `problems` empty: it passed."""

    name: str
    seconds: float
    problems: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Requests:
    """API requests counted by the server, the lab's own left out; watches count once. The leaders' stand apart from the agents'."""

    total: int
    per_add: float
    by_kind: Mapping[str, int]
    leader: int = 0
    leader_by_kind: Mapping[str, int] = field(default_factory=dict)

    @property
    def lease_writes(self) -> int:
        """Writes of agents to IPBlocks: the only ones that an ADD can wait for, and only a cold one."""
        return sum(self.by_kind.get(f"{verb} {BLOCKS}", 0) for verb in ("create", "patch", "update", "delete"))

    def since(self, before: "Requests") -> "Requests":
        """What came after `before`; `per_add` is not defined for a difference."""
        ours = Counter(self.by_kind) - Counter(before.by_kind)
        leaders = Counter(self.leader_by_kind) - Counter(before.leader_by_kind)
        return Requests(ours.total(), 0.0, dict(ours.most_common()), leaders.total(), dict(leaders.most_common()))


def count_requests(rows: Sequence[Mapping[str, Any]], adds: int) -> Requests | None:
    """None if the server did not count. Whoever does not call itself the lab is the product."""
    ours: Counter[str] = Counter()
    leaders: Counter[str] = Counter()
    for row in rows:
        caller = str(row["userAgent"])
        if not caller.startswith("nephila-lab/"):
            kind = f"{row['verb']} {row['resource']}" + (f"/{row['subresource']}" if row["subresource"] else "")
            (leaders if caller.startswith("nephila-leader/") else ours)[kind] += row["count"]
    if not rows:
        return None
    per_add = round(ours.total() / adds, 3) if adds else 0.0
    return Requests(ours.total(), per_add, dict(ours.most_common()), leaders.total(), dict(leaders.most_common()))


@dataclass(frozen=True, slots=True)
class Vitals:
    """How the product's processes stood at the end. `watchers`: mode → nodes; `reasons`: why it is not eBPF, if so."""

    watchers: Mapping[str, int] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    agent_rss_mib: float = 0.0
    leader_rss_mib: float = 0.0
    leader: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """`add` and `dele` time the whole call of the main plugin, `shim_add` and `shim_del` only our part of it (process start to exit).

    `warm` and `cold` are `shim_add` apart, by what the agents said: served at once from verified stock, or after a wait or an API call (no warm stock
    of a small pool, a pinned address). `warm_inside` is the agent's own share of `warm`. `plain` and `dad` are what the main plugin took besides us,
    without and with an IPv6 address: it waits for the kernel's duplicate address detection.
    """

    scenario: str
    server: str
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
    warm: Timing
    warm_inside: Timing
    cold: Timing
    plain: Timing
    dad: Timing
    retries_agent_down: int
    refused: int
    errors: tuple[str, ...]
    requests: Requests | None
    vitals: Vitals
    steps: tuple[Step, ...]
    leftovers: tuple[str, ...]
    seconds: float
    passed: bool = field(init=False)

    def __post_init__(self) -> None:
        failed = self.errors or self.leftovers or any(step.problems for step in self.steps) or not self.steps
        object.__setattr__(self, "passed", not failed)

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)


@dataclass(frozen=True, slots=True)
class Setting:
    """What was run, and on what."""

    scenario: str
    server: str
    nodes: int


@dataclass(slots=True)
class Tally:
    """What a running scenario collects."""

    steps: list[Step] = field(default_factory=list)
    vitals: Vitals = field(default_factory=Vitals)
    requests: Requests | None = None
    pods_peak: int = 0
    addresses_peak: int = 0
    pings_sent: int = 0
    pings_lost: int = 0

    def saw(self, pods: int, addresses: int) -> None:
        self.pods_peak = max(self.pods_peak, pods)
        self.addresses_peak = max(self.addresses_peak, addresses)


def summarize(
    setting: Setting,
    tally: Tally,
    ledger: Ledger,
    shim: Mapping[tuple[str, str, str], float],
    served: Mapping[tuple[str, str], Served],
    leftovers: tuple[str, ...],
    seconds: float,
) -> Summary:
    """Only calls that succeeded are timed; those that failed are counted."""
    added, deleted = ledger.of("ADD", Fate.OK), ledger.of("DEL", Fate.OK)
    ours = [(call, shim[key]) for call in added if (key := ("ADD", call.container_id, call.interface)) in shim]
    told = [
        (served[call.container_id[:SHORT_ID], call.interface], ms)
        for call, ms in ours
        if (call.container_id[:SHORT_ID], call.interface) in served
    ]
    besides = [(call, call.took_ms - ms) for call, ms in ours]
    shim_del = [shim[key] for call in deleted if (key := ("DEL", call.container_id, call.interface)) in shim]
    down = len(ledger.of("ADD", Fate.AGENT_DOWN)) + len(ledger.of("DEL", Fate.AGENT_DOWN))
    return Summary(
        scenario=setting.scenario,
        server=setting.server,
        nodes=setting.nodes,
        pods_peak=tally.pods_peak,
        addresses_peak=tally.addresses_peak,
        pods_started=len({(call.namespace, call.pod, call.container_id) for call in added}),
        pings_sent=tally.pings_sent,
        pings_lost=tally.pings_lost,
        add=timing(call.took_ms for call in added),
        dele=timing(call.took_ms for call in deleted),
        shim_add=timing(ms for _, ms in ours),
        shim_del=timing(shim_del),
        warm=timing(ms for how, ms in told if how.how == WARM),
        warm_inside=timing(how.ms for how, _ in told if how.how == WARM),
        cold=timing(ms for how, ms in told if how.how != WARM),
        plain=timing(ms for call, ms in besides if not call.has_v6),
        dad=timing(ms for call, ms in besides if call.has_v6),
        retries_agent_down=down,
        refused=len(ledger.of("ADD", Fate.REFUSED)),
        errors=tuple(ledger.errors()),
        requests=tally.requests,
        vitals=tally.vitals,
        steps=tuple(tally.steps),
        leftovers=leftovers,
        seconds=round(seconds, 2),
    )
