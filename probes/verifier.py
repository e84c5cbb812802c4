"""Keeps verdicts fresh in the background, so that an ADD finds an address already tested.

Tracked addresses are tested when they have no verdict, when half of `interval_s` has passed since the last one, and,
while quarantined, on the quarantine's own schedule. Never in the ADD path: probes of this loop leave tokens to it.
An address that a pod waits for (`hurry`) is tested beside that loop, which may be busy with hundreds of others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from adapters.clock import Clock
from adapters.waking import Kick
from ipam.addresses import Address
from probes.messages import How
from probes.prober import Lane, Prober
from probes.profiles import BALANCED, Profile
from probes.quarantine import FIRST_RETEST_S, Quarantine
from probes.verdicts import Evidence, State, Verdict

_PROXYABLE = (How.ARP_REPLY, How.ND_ADVERTISEMENT)
MAX_TRACKED = 65_536
BATCH = 256
FIRST_RETRY_S = 0.5  # after an unknown verdict, doubled each time
LAST_RETRY_S = 60.0
IDLE_S = 5.0
RECHECK_S = (
    30.0  # a doubt about a verdict younger than this is not followed: what it rests on was part of that very test
)


@dataclass(slots=True)
class _Tracked:
    holder: str | None
    due: float
    verdict: Verdict | None = None
    quarantine: Quarantine | None = None
    retry_s: float = FIRST_RETRY_S
    under_test: bool = False


class Verifier:
    """The verdicts of the addresses of one segment. `on_verdict` is called once for each new verdict, on the event
    loop.
    """

    def __init__(
        self,
        prober: Prober,
        clock: Clock,
        on_verdict: Callable[[Verdict], None],
        *,
        interval_s: float,
        profile: Profile = BALANCED,
        retest_s: float = FIRST_RETEST_S,
    ) -> None:
        """`retest_s`: from the first sight of a stranger to the first re-test."""
        self._prober = prober
        self._testing: Counter[Address] = Counter()
        self._clock = clock
        self._on_verdict = on_verdict
        self._interval_s = interval_s
        self._profile = profile
        self._retest_s = retest_s
        self._tracked: dict[Address, _Tracked] = {}
        self._changed = Kick()
        self._hurried: list[Address] = []
        self._called = Kick()

    def track(self, address: Address, holder: str | None = None) -> None:
        """Keep `address` verified from now on; `holder`: the MAC of our pod that uses it. Raises ValueError beyond
        MAX_TRACKED.
        """
        known = self._tracked.get(address)
        if known is not None:
            known.holder = holder
            return
        if len(self._tracked) >= MAX_TRACKED:
            raise ValueError(f"at most {MAX_TRACKED} addresses can be kept verified")
        self._tracked[address] = _Tracked(holder, self._clock.now())
        self._changed()

    def hurry(self, address: Address) -> None:
        """A pod waits for `address`: its first test begins at once, beside all others. Ignored if it has begun."""
        known = self._tracked.get(address)
        if known is None or known.verdict is not None or known.under_test:
            return
        known.under_test = True
        self._hurried.append(address)
        self._called()

    def is_testing(self, address: Address) -> bool:
        """Whether probes for it are under way, be it forgotten meanwhile."""
        return self._testing[address] > 0

    def forget(self, address: Address) -> None:
        """Stop testing `address` and drop its verdict."""
        self._tracked.pop(address, None)

    def verdict(self, address: Address) -> Verdict | None:
        """The last verdict, of whatever age; None before the first."""
        known = self._tracked.get(address)
        return known.verdict if known is not None else None

    def fresh(self, address: Address) -> bool:
        """Whether `address` may be handed out without a probe: clear, young enough, and not quarantined."""
        known = self._tracked.get(address)
        if known is None or known.verdict is None or known.quarantine is not None:
            return False
        return known.verdict.fresh(self._clock.now(), self._interval_s)

    def quarantine(self, address: Address) -> Quarantine | None:
        """Why and until which re-test `address` is held back; None if it is not."""
        known = self._tracked.get(address)
        return known.quarantine if known is not None else None

    def suspect(self, address: Address, evidence: Evidence) -> None:
        """The watcher saw somebody else use `address`: quarantine it at once. Ignored for an address that is not
        tracked.
        """
        known = self._tracked.get(address)
        if known is not None:
            self._settle(known, Verdict(address, State.TAKEN, self._clock.now(), evidence))

    def recheck(self, address: Address) -> None:
        """Something was heard that only a test can weigh: test soon, unless that was done within RECHECK_S."""
        known, now = self._tracked.get(address), self._clock.now()
        if known is None or (known.verdict is not None and now - known.verdict.at < RECHECK_S):
            return
        known.due = min(known.due, now)
        self._changed()

    def pardon(self, macs: Collection[str]) -> tuple[Address, ...]:
        """These MACs turned out to answer for everything: addresses that are held back for their answers alone are tested
        anew, at once, and one silent test is enough. Returns them.
        """
        pardoned = [
            address
            for address, known in self._tracked.items()
            if known.quarantine is not None
            and known.quarantine.evidence.mac in macs
            and known.quarantine.evidence.how in _PROXYABLE
        ]
        for address in pardoned:
            self._tracked[address].quarantine = None
            self._tracked[address].due = self._clock.now()
        self._changed()
        return tuple(pardoned)

    async def run(self) -> None:
        """Test what is due, for ever; cancel to stop."""
        async with asyncio.TaskGroup() as tests:
            tests.create_task(self._keep_fresh(), name="keep fresh")
            while True:
                self._called.clear()
                while few := self._hurried[:BATCH]:
                    del self._hurried[:BATCH]
                    tests.create_task(self.sweep(few, Lane.ADD), name="hurried tests")
                await self._called.within(self._clock, IDLE_S)

    async def _keep_fresh(self) -> None:
        while True:
            self._changed.clear()
            now = self._clock.now()
            due = self._due(now)
            if due:
                await self.sweep(due)
                continue
            waiting = (known.due for known in self._tracked.values() if not known.under_test)
            wake = min(waiting, default=now + IDLE_S)
            await self._changed.within(self._clock, min(wake - now, IDLE_S))

    async def sweep(self, addresses: Iterable[Address], lane: Lane = Lane.BACKGROUND) -> None:
        """Test these addresses now, whether due or not; addresses forgotten meanwhile are left out, also those that are
        tracked again by now: their test is another.
        """
        tested = {address: known for address in addresses if (known := self._tracked.get(address)) is not None}
        holders = {address: known.holder for address, known in tested.items()}
        for known in tested.values():
            known.under_test = True
        under_way = Counter(list(holders))
        self._testing += under_way
        try:
            verdicts = await self._prober.verify(
                holders,
                self._profile,
                lane=lane,
                holders={address: mac for address, mac in holders.items() if mac is not None},
            )
        finally:
            self._testing -= under_way
        for address, verdict in verdicts.items():
            known = tested[address]
            known.under_test = False
            if self._tracked.get(address) is known and known.holder == holders[address]:
                self._settle(known, verdict)
        self._changed()  # what is due next may be due earlier than it was

    def _due(self, now: float) -> list[Address]:
        due = sorted(
            (known.due, address)
            for address, known in self._tracked.items()
            if known.due <= now and not known.under_test
        )
        return [address for _, address in due[:BATCH]]

    def _settle(self, known: _Tracked, verdict: Verdict) -> None:
        now = self._clock.now()
        if known.quarantine is not None:
            known.quarantine = known.quarantine.after(verdict, now)
        elif verdict.state is State.TAKEN and verdict.evidence is not None:
            known.quarantine = Quarantine.begin(verdict.address, verdict.evidence, now, self._retest_s)
        if verdict.state is State.UNKNOWN:
            # Keep the last thing really known; an unknown verdict is reported but replaces nothing that is still true.
            known.due, known.retry_s = now + known.retry_s, min(known.retry_s * 2, LAST_RETRY_S)
            known.verdict = known.verdict or verdict
        else:
            known.verdict, known.retry_s = verdict, FIRST_RETRY_S
            known.due = known.quarantine.next_test if known.quarantine is not None else now + self._interval_s / 2
        self._on_verdict(verdict)
