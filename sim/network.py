"""The way between one client and the API server: latency, partitions, lost and late answers, refusals.

`Link.inject` is the fault callback of one `MemoryStore`. A request and its answer travel separately, so a crash can fall before the write is
applied or after it, and before the caller knows.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from adapters.kube.memory import Answered, AnswerLost, AnswerSlow, AppliedLate, Call, Fault, NotSent, RequestLost
from sim.faults import CHANCES, Faults
from sim.loop import ProcessKilled, current_process

READS = ("get", "list", "watch")
TIMEOUT_S = 5.0


class Link:
    """`hostile` tells whether faults may strike now; a cut link stays cut until it is healed."""

    def __init__(self, name: str, source: random.Random, faults: Faults, hostile: Callable[[], bool]) -> None:
        self.name = name
        self._random = source
        self._chances = {kind: faults.chance(kind) for kind in CHANCES}
        self._hostile = hostile
        self._cut = False
        self._mute = False
        self._healed = asyncio.Event()
        self._healed.set()
        self.hook: Callable[[str, Call], None] | None = None  # called before and after a write is applied

    # Partitions

    @property
    def is_up(self) -> bool:
        return not (self._cut or self._mute)

    def cut(self) -> None:
        """Nothing passes in either direction."""
        self._cut = True
        self._healed.clear()

    def mute(self) -> None:
        """Requests arrive, answers and events do not."""
        self._mute = True
        self._healed.clear()

    def heal(self) -> None:
        self._cut = self._mute = False
        self._healed.set()

    async def reachable(self) -> None:
        await self._healed.wait()

    # One request

    async def inject(self, call: Call) -> Fault | None:
        self._living()
        fault = await (self._event() if call.verb == "event" else self._request(call))
        self._living()
        if self.hook is not None and isinstance(fault, AnswerSlow):
            self.hook("before", call)
        return fault

    def _living(self) -> None:
        process = current_process()
        if process is not None and not process.alive:
            raise ProcessKilled(process.name)

    async def _event(self) -> Fault | None:
        """One watch event on its way: late, or stuck behind a partition until the connection is found dead."""
        if self._strikes("stale-read"):
            await asyncio.sleep(self._random.uniform(0.1, 12.0))
        if not self.is_up:
            try:
                async with asyncio.timeout(30.0):
                    await self._healed.wait()
            except TimeoutError:
                return RequestLost()
            if self._random.random() < 0.5:
                return RequestLost()
        return None

    async def _request(self, call: Call) -> Fault | None:
        await asyncio.sleep(self._latency())
        if self._cut:
            if self._random.random() < 0.3:
                return NotSent()
            await asyncio.sleep(TIMEOUT_S)
            return RequestLost()
        if self._mute:
            return AnswerLost() if self._random.random() < 0.5 else self._late(TIMEOUT_S)
        if call.verb in READS:
            return self._read_fault(call)
        return self._write_fault() or AnswerSlow(lambda: self._answer(call))

    def _read_fault(self, call: Call) -> Fault | None:
        if not self._hostile():
            return None
        if self._strikes("lost-request") or self._strikes("lost-reply"):
            return RequestLost()
        if call.verb != "get" and self._strikes("gone"):
            return Answered(410)
        return self._refusal()

    def _write_fault(self) -> Fault | None:
        if not self._hostile():
            return None
        if self._strikes("lost-request"):
            return RequestLost()
        if self._strikes("lost-reply"):
            return AnswerLost()
        if self._strikes("late-apply"):
            return self._late(self._random.choice((0.05, 1.0, 6.0, 40.0)))
        if self._strikes("duplicate"):
            return self._late(0.0, again_after=self._random.uniform(0.01, 10.0))
        if self._strikes("conflict"):
            return Answered(409)
        return self._refusal()

    def _refusal(self) -> Fault | None:
        if self._strikes("throttle"):
            return Answered(429)
        if self._strikes("server-error"):
            return Answered(self._random.choice((500, 503, 504)))
        return None

    def _late(self, delay: float, *, again_after: float = 0.0) -> AppliedLate:
        """The write is under way while the caller has given up; `again_after`: a proxy sends it a second time."""
        loop = asyncio.get_running_loop()

        def schedule(apply: Callable[[], object]) -> None:
            loop.call_later(delay, apply)
            if again_after:
                loop.call_later(delay + again_after, apply)

        return AppliedLate(schedule)

    async def _answer(self, call: Call) -> None:
        if self.hook is not None:
            self.hook("after", call)
        await asyncio.sleep(self._latency())
        self._living()

    def _latency(self) -> float:
        usual = self._random.uniform(0.001, 0.004)
        if self._strikes("reorder"):
            usual += self._random.uniform(0.0, 0.2)
        if self._strikes("delay"):
            usual += self._random.uniform(0.1, 4.0)
        return usual

    def _strikes(self, kind: str) -> bool:
        chance = self._chances[kind]
        return chance > 0 and self._hostile() and self._random.random() < chance
