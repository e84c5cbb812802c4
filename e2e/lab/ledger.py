"""What happened in a run, as it happened: every CNI call, and from them the numbers of the summary."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum


class Fate(Enum):
    """How a call ended."""

    OK = "ok"
    AGENT_DOWN = (
        "agent down"  # failed while the lab itself had taken the node's agent away: the runtime's retry is the remedy
    )
    REFUSED = "refused"  # failed while the scenario had made sure that no address is to be had
    MOOT = "moot"  # failed for a pod that was being deleted, which needs no address any more
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Call:
    """One ADD or DEL of one interface, from the start of the main plugin to its end; times are monotonic seconds."""

    verb: str
    namespace: str
    pod: str
    node: str
    container_id: str
    interface: str
    begun: float
    ended: float
    fate: Fate
    addresses: tuple[str, ...] = ()
    error: str = ""

    @property
    def took_ms(self) -> float:
        return (self.ended - self.begun) * 1000

    @property
    def has_v6(self) -> bool:
        return any(":" in address for address in self.addresses)


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds over a set of calls; zeros if there were none."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def timing(values: Iterable[float]) -> Timing:
    """Nearest-rank percentiles."""
    ordered = sorted(values)
    if not ordered:
        return Timing(0, 0.0, 0.0, 0.0)

    def rank(share: float) -> float:
        return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]

    return Timing(len(ordered), round(rank(0.5), 3), round(rank(0.99), 3), round(ordered[-1], 3))


UNAFFECTED_RATIO, UNAFFECTED_MS = 3.0, 250.0


def still_unaffected_ms(before_p99_ms: float) -> float:
    """The highest p99 that still counts as unaffected: three times what it was before, and 250 ms in any case.

    The absolute part is for machines with few cores, where a p99 is how long a process waited for one; it is far below any wait for an
    address, or for a leader.
    """
    return max(UNAFFECTED_RATIO * before_p99_ms, UNAFFECTED_MS)


@dataclass(slots=True)
class Ledger:
    """Grows only; readers look at it between two events of the loop."""

    calls: list[Call] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)  # pods or sandboxes whose retries were used up
    scarce: str = ""  # why an ADD must fail now, if it must; set by scenarios

    def record(self, call: Call) -> None:
        self.calls.append(call)

    def of(self, verb: str, fate: Fate) -> list[Call]:
        return [call for call in self.calls if call.verb == verb and call.fate is fate]

    def errors(self) -> list[str]:
        """Failures that no outage made by the lab explains."""
        failed = [call for call in self.calls if call.fate is Fate.FAILED]
        return [
            f"{call.verb} {call.namespace}/{call.pod} on {call.node}: {call.error}" for call in failed
        ] + self.given_up
