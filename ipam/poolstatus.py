"""What the leader says of a pool: counts, the list of addresses in use, and conditions. Pure; the API's form is made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ipam.addresses import Address
from ipam.errors import Problem
from ipam.pools import Pool
from ipam.ranges import RangeSet

MAX_RECORDS = 5_000  # as in Spiderpool: the text stays far below what one object may hold

READY, OVERLAPPING, EXHAUSTED, CONFLICT_SEEN = "Ready", "Overlapping", "Exhausted", "ConflictSeen"


@dataclass(frozen=True, slots=True)
class Use:
    """An address that a pod has."""

    address: Address
    namespace: str
    pod: str
    pod_uid: str


@dataclass(frozen=True, slots=True)
class Counts:
    """`free` = what a pod could get, leased ahead or not: in no way dependent on how much of it nodes hold warm, so that what nodes derive
    from it does not swing. `nodes`: how many hold or want addresses of the pool."""

    total: int
    allocated: int
    free: int
    cooling: int
    quarantined: int
    nodes: int


@dataclass(frozen=True, slots=True)
class Holdings:
    """Sums of what all nodes report of one pool."""

    used: int = 0
    cooling: int = 0
    quarantined: int = 0
    nodes: int = 0


def count(
    pool: Pool, effective: RangeSet, uses: Sequence[Use], holdings: Holdings, idle: Collection[int] = ()
) -> Counts:
    """`uses`: one per address (SpiderEndpoints). Where not every pod has an endpoint, the nodes' own counts are higher and win.

    `idle`: addresses of the pool that are pinned to identities which do not run now; those that have a SpiderEndpoint are among `uses` too.
    """
    kept = sum(1 for use in uses if use.address.value in idle)
    running = max(len(uses) - kept, holdings.used)
    outside = sum(1 for use in uses if use.address.value not in effective)
    taken = running + len(idle) - outside + holdings.quarantined
    return Counts(
        total=pool.total_count,
        allocated=running + kept,
        free=max(effective.size - taken, 0),
        cooling=holdings.cooling,
        quarantined=holdings.quarantined,
        nodes=holdings.nodes,
    )


def allocated_text(uses: Sequence[Use]) -> str | None:
    """`status.allocatedIPs`: JSON of the lowest `MAX_RECORDS` addresses, None if there is none."""
    if not uses:
        return None
    lowest = sorted(uses, key=lambda use: use.address.value)[:MAX_RECORDS]
    return json.dumps(
        {str(use.address): {"pod": f"{use.namespace}/{use.pod}", "podUid": use.pod_uid} for use in lowest},
        separators=(",", ":"),
    )


@dataclass(frozen=True, slots=True)
class Observation:
    """Whether a condition holds now, and why."""

    holds: bool
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """An observation with when `holds` last changed (Unix seconds)."""

    type: str
    observation: Observation
    since: float


def observations(
    pool: Pool,
    counts: Counts,
    *,
    problems: Sequence[Problem],
    senior: Sequence[str],
    junior: Sequence[str],
    conflicts: Sequence[str],
) -> dict[str, Observation]:
    """The conditions of a pool.

    `senior`: older pools that also claim addresses of this one, and get them; `junior`: younger ones that lose theirs to it. `conflicts`:
    addresses that other stations were seen to use.
    """
    return {
        READY: _ready(pool, counts, problems),
        OVERLAPPING: _overlapping(senior, junior),
        EXHAUSTED: _exhausted(counts),
        CONFLICT_SEEN: Observation(True, "SeenOnTheWire", f"someone else uses {_some(conflicts)}")
        if conflicts
        else Observation(False, "NoneSeen"),
    }


def _ready(pool: Pool, counts: Counts, problems: Sequence[Problem]) -> Observation:
    if problems:
        return Observation(False, "Invalid", "; ".join(str(problem) for problem in problems)[:1024])
    if pool.deleting:
        return Observation(
            False, "Deleting", f"waits until {counts.allocated} addresses are released" if counts.allocated else ""
        )
    if pool.disable:
        return Observation(False, "Disabled", "spec.disable is true: no new allocation")
    if not pool.usable:
        return Observation(False, "NoAddresses", "spec.ips, less excludeIPs and the gateway, is empty")
    return Observation(True, "Serving")


def _overlapping(senior: Sequence[str], junior: Sequence[str]) -> Observation:
    if senior:
        return Observation(
            True, "OlderPoolWins", f"addresses also claimed by older pools ({_some(senior)}) are not used here"
        )
    if junior:
        return Observation(
            True, "YoungerPoolLoses", f"younger pools ({_some(junior)}) claim some of these addresses in vain"
        )
    return Observation(False, "Disjoint")


def _exhausted(counts: Counts) -> Observation:
    if counts.free:
        return Observation(False, "AddressesLeft")
    rest = f"; {counts.quarantined} quarantined" if counts.quarantined else ""
    return Observation(True, "NoAddressLeft", f"{counts.allocated} of {counts.total} addresses are in use{rest}")


def transition(
    previous: Mapping[str, Condition], seen: Mapping[str, Observation], wall: float
) -> tuple[Condition, ...]:
    """The conditions to write: `since` changes only when `holds` does."""
    found: list[Condition] = []
    for name, observation in seen.items():
        before = previous.get(name)
        since = before.since if before is not None and before.observation.holds == observation.holds else wall
        found.append(Condition(name, observation, since))
    return tuple(found)


def _some(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
