"""Which of the addresses that nobody may be given are in use, and by whom: reserved ones (`SpiderReservedIP`) and `excludeIPs` of the pools.

Probed slowly in a lane of its own, so that no pod waits for it; results stand in `IPNode.status.audit`. Only nodes with `probe.audit` do it: one or
two of a segment are enough, and every node more would only add frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice

from adapters.clock import Clock
from crds.nephila import AUDIT_MAX, AuditEntry
from ipam.addresses import Address, Family
from ipam.pools import Pool
from ipam.ranges import RangeSet
from probes.prober import Lane, Prober
from probes.profiles import FAST
from probes.verdicts import Question, State, Verdict

MAX_AUDITED = 4096  # addresses of one turn; what lies beyond is not audited
BATCH = 10
LOOK_S = 5.0  # how soon a changed reservation is looked at
IN_USE, SILENT = "in-use", "silent"


def withheld(
    pools: Iterable[Pool], reserved: Mapping[Family, RangeSet], sees: Callable[[str, Address], bool]
) -> tuple[Address, ...]:
    """The addresses that pools leave out (excluded, or reserved inside a pool's subnet) and that can be seen, by L2 domain and address. At most
    MAX_AUDITED of each family are looked at in each domain.
    """
    found: dict[tuple[str, Family], RangeSet] = {}
    for pool in pools:
        left_out = pool.exclude | (reserved[pool.family] & RangeSet.of_network(pool.subnet))
        key = pool.domain, pool.family
        found[key] = found.get(key, RangeSet.empty(pool.family)) | left_out
    listed = (
        (domain, Address(family, value))
        for (domain, family), ranges in sorted(found.items())
        for value in islice(ranges, MAX_AUDITED)
    )
    return tuple(address for domain, address in listed if sees(domain, address))


class Audit:
    """Run `run()` as a task. `addresses` is asked before each turn; `told` is called after one that changed the table."""

    def __init__(
        self,
        prober: Prober,
        clock: Clock,
        addresses: Callable[[], Sequence[Address]],
        told: Callable[[], None],
        *,
        interval_s: float,
        per_s: float,
    ) -> None:
        self._prober = prober
        self._clock = clock
        self._addresses = addresses
        self._told = told
        self._interval_s = interval_s
        self._per_s = per_s
        self._table: dict[Address, AuditEntry] = {}

    def entries(self) -> tuple[AuditEntry, ...]:
        """The table: addresses in use first, and no more than fit into the object."""
        ordered = sorted(self._table.items(), key=lambda item: (item[1].state != IN_USE, item[0]))
        return tuple(entry for _, entry in ordered[:AUDIT_MAX])

    async def run(self) -> None:
        """One turn after the other, for ever."""
        while True:
            began, wanted = self._clock.now(), tuple(self._addresses())
            await self.turn(wanted)
            while self._clock.now() - began < self._interval_s and tuple(self._addresses()) == wanted:
                await self._clock.sleep(min(LOOK_S, self._interval_s))

    async def turn(self, wanted: Sequence[Address]) -> None:
        """Test each address once."""
        before = [(entry.ip, entry.state, entry.mac) for entry in self.entries()]
        for gone in self._table.keys() - set(wanted):
            del self._table[gone]
        for start in range(0, len(wanted), BATCH):
            batch = wanted[start : start + BATCH]
            verdicts = await self._prober.verify(batch, FAST, lane=Lane.AUDIT, question=Question.USED)
            for verdict in verdicts.values():
                self._note(verdict)
            await self._clock.sleep(len(batch) / self._per_s)
        if [(entry.ip, entry.state, entry.mac) for entry in self.entries()] != before:
            self._told()

    def _note(self, verdict: Verdict) -> None:
        """An unknown verdict leaves what was known."""
        if verdict.state is State.UNKNOWN:
            return
        taken = verdict.state is State.TAKEN
        self._table[verdict.address] = AuditEntry(
            ip=str(verdict.address),
            state=IN_USE if taken else SILENT,
            mac=verdict.evidence.mac if taken and verdict.evidence is not None else "",
            checked=datetime.fromtimestamp(self._clock.wall(), UTC),
        )
