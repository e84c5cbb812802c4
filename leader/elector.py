"""The election's shell: reads and writes the `LeaderLock`, runs a reign while `ipam.election` says that we lead, ends it before others may begin."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.kube.reflector import Reflector
from adapters.kube.store import Store, Stored, StoreError
from adapters.waking import Kick, done_within
from crds.meta import ObjectMeta
from crds.nephila import LEADER_LOCK, LeaderLock, LeaderLockSpec
from ipam import election
from ipam.election import Acquire, Candidate, Record, Renew, Rest, StepDown, Timings
from leader.writing import Deposed

log = structlog.get_logger(__name__)

_R = TypeVar("_R")
LOCK = "nephila"
RELEASE_S = 2.0  # how long a clean exit tries to give the lock away


class Elector:
    """`reign` is run while we lead, cancelled when we do not; `highest_term` reads what terms earlier leaders left behind on objects."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        entropy: Entropy,
        identity: str,
        timings: Timings,
        reign: Callable[[Elector], Awaitable[None]],
        highest_term: Callable[[], Awaitable[int]],
    ) -> None:
        self.candidate = Candidate(identity, timings)
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._reign = reign
        self._highest_term = highest_term
        self._version = ""
        self._known = False  # whether the lock was read since it may have changed
        self._changed = Kick()
        self._work: asyncio.Task[None] | None = None
        self._watch = Reflector(store, LEADER_LOCK, clock, entropy, fields=f"metadata.name={LOCK}")
        self._watch.listen(lambda _old, _new: self._changed())

    # Authority -------------------------------------------------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        if self.candidate.reign is None:
            raise Deposed("this process does not lead")
        return self.candidate.reign

    @property
    def is_leading(self) -> bool:
        return election.is_leading(self.candidate, self._clock.now())

    def check(self) -> None:
        if not self.is_leading:
            raise Deposed(f"{self.candidate.identity} does not lead any more")

    # Life ------------------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stand for election until cancelled; then stop the work, and only then give the lock away. A reign that crashes ends this too."""
        watch = asyncio.ensure_future(self._watch.run())
        try:
            await self._campaign()
        finally:
            watch.cancel()
            await self._stop_work()
            await self._release()

    async def _campaign(self) -> None:
        while True:
            if self._work is not None and self._work.done():
                ended, self._work = self._work, None
                ended.result()  # a reign ends by being cancelled or deposed, or by a defect that must be seen
            try:
                if not self._known:
                    await self._read()
                pause = await self._step()
            except StoreError as error:
                log.warning("lock_unreadable", error=str(error))
                self._known = False
                pause = self.candidate.timings.retry_s
                if isinstance(election.step(self.candidate, self._clock.now()), StepDown):
                    await self._step()
            await self._rest(pause)

    async def _step(self) -> float:
        """One step; returns for how long nothing needs to be done. Raises StoreError, but not when it steps down."""
        match election.step(self.candidate, self._clock.now()):
            case Rest(seconds):
                return seconds
            case StepDown():
                log.warning("leadership_lost", identity=self.candidate.identity, term=self.candidate.reign)
                await self._stop_work()
                self.candidate = election.stepped_down(self.candidate)
                self._known = False
                return 0.0
            case Acquire(record):
                if self.candidate.record is None:
                    self.candidate = election.at_least(self.candidate, await self._highest_term())
                    found = election.step(self.candidate, self._clock.now())
                    record = found.record if isinstance(found, Acquire) else record
                await self._write(record)
            case Renew(record):
                await self._write(record)
        if self.is_leading and self._work is None:
            log.info("leadership_won", identity=self.candidate.identity, term=self.candidate.reign)
            self._work = asyncio.create_task(self._run_reign(), name="reign")
        return 0.0 if self.is_leading else self.candidate.timings.retry_s

    async def _run_reign(self) -> None:
        try:
            await self._reign(self)
        except* Deposed:
            log.info("reign_ended", identity=self.candidate.identity)

    async def _write(self, record: Record) -> None:
        """One compare-and-swap; whatever is not a clear success is followed by a read. Ends in time for us to stop before others begin."""
        self.candidate = election.attempted(self.candidate, record, sent_at := self._clock.now())
        until = election.leads_until(self.candidate)
        limit = until - sent_at if until > sent_at else self.candidate.timings.renew_deadline_s
        outcome = await self._within(limit, self._send(record))
        if isinstance(outcome, Stored):
            self._version = outcome.object.resource_version
            self.candidate = election.acknowledged(self.candidate, record, sent_at)
            return
        log.info("lock_not_written", outcome=str(outcome))
        if self.candidate.reign is None or self.is_leading:
            await self._read()

    async def _send(self, record: Record) -> object:
        if not self._version:
            return await self._store.create(LEADER_LOCK, LeaderLock(metadata=ObjectMeta(name=LOCK), spec=_spec(record)))
        changes = {
            "spec": {
                "holder": record.holder,
                "term": record.term,
                "renewCount": record.renew_count,
                "leaseDurationSeconds": record.lease_s,
            }
        }
        return await self._store.patch(LEADER_LOCK, LOCK, changes, resource_version=self._version)

    async def _read(self) -> None:
        """A quorum read. Raises StoreError, also when it takes too long."""
        reading = self._store.get(LEADER_LOCK, LOCK)
        found = await self._within(self.candidate.timings.retry_s, _tell(reading))
        if found is None:
            raise StoreError("the LeaderLock could not be read in time")
        stored = found[0]
        self._known = True
        self._version = stored.resource_version if stored else ""
        self.candidate = election.observed(self.candidate, _record(stored) if stored else None, self._clock.now())

    async def _within(self, seconds: float, work: Awaitable[_R]) -> _R | None:
        """The result, or None if it did not come in time; the request is then given up, its outcome unknown."""
        task = asyncio.ensure_future(work)
        try:
            return task.result() if await done_within(self._clock, seconds, task) else None
        finally:
            task.cancel()

    async def _rest(self, seconds: float) -> None:
        """Until the next step is due; a candidate also looks again when the lock changes."""
        if self.is_leading:
            left = election.leads_until(self.candidate) - self._clock.now()
            rest = min(seconds, left)
            if self._work is None:
                await self._clock.sleep(rest)
            else:
                await done_within(self._clock, rest, self._work)
            return
        if await self._changed.within(self._clock, seconds * self._entropy.uniform(1.0, election.JITTER)):
            self._changed.clear()
            self._known = False

    async def _stop_work(self) -> None:
        work, self._work = self._work, None
        if work is None:
            return
        work.cancel()
        await asyncio.wait({work})
        if not work.cancelled() and (error := work.exception()) is not None:
            log.error("reign_failed", error=repr(error))

    async def _release(self) -> None:
        """Give the lock away, if it is ours, so that nobody need wait for our silence. Reads first: a renewal may have been cut short."""
        self.candidate = election.stepped_down(self.candidate)
        try:
            await self._read()
            record = election.release(self.candidate)
            if record is not None:
                outcome = await self._within(RELEASE_S, self._send(record))
                log.info("lock_released", term=record.term, outcome=type(outcome).__name__)
        except StoreError as error:
            log.warning("lock_not_released", error=str(error))


def _record(stored: LeaderLock) -> Record:
    spec = stored.spec
    return Record(spec.holder, spec.term, spec.renew_count, spec.lease_duration_seconds)


def _spec(record: Record) -> LeaderLockSpec:
    return LeaderLockSpec(
        holder=record.holder,
        term=record.term,
        renew_count=record.renew_count,
        lease_duration_seconds=record.lease_s,
    )


async def _tell(reading: Awaitable[LeaderLock | None]) -> tuple[LeaderLock | None]:
    """Tells "there is none" from "no answer"."""
    return (await reading,)
