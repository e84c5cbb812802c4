"""Many tests at once, without I/O: bounded in flight, paced by the segment's token bucket.

Drive it with `on_time` at `next_wake` and with `on_message` for every frame heard; it ends when `done`. Every
candidate ends in exactly one verdict.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ipam.addresses import Address, Family
from probes.acd import ArpTest
from probes.course import Decided, Effect
from probes.dad import NdTest
from probes.messages import Message, signs
from probes.pacing import TokenBucket
from probes.profiles import Profile
from probes.verdicts import State, Surroundings, Verdict

MAX_CANDIDATES = 4096
DEFAULT_IN_FLIGHT = 256


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address to test, with the randomness for it: `draws` as in `Timing.waits`, `nonce` for IPv6."""

    address: Address
    draws: tuple[float, ...]
    nonce: bytes = b""


@dataclass(frozen=True, slots=True)
class Sender:
    """How probes leave: the MAC they carry, the VLAN, the timing, and how many tokens are left to more urgent
    batches.
    """

    mac: str
    profile: Profile
    vlan: int = 0
    in_flight: int = DEFAULT_IN_FLIGHT
    reserve: float = 0.0


class Batch:
    """The tests of up to MAX_CANDIDATES distinct addresses of both families."""

    def __init__(
        self, candidates: Iterable[Candidate], sender: Sender, around: Surroundings, bucket: TokenBucket
    ) -> None:
        unique = {candidate.address: candidate for candidate in candidates}
        if len(unique) > MAX_CANDIDATES:
            raise ValueError(f"at most {MAX_CANDIDATES} addresses in a batch, not {len(unique)}")
        if sender.in_flight < 1:
            raise ValueError("in_flight must be at least 1")
        self._queue = deque(unique.values())
        self._size = len(unique)
        self._sender = sender
        self._around = around
        self._bucket = bucket
        self._tests: dict[Address, ArpTest | NdTest] = {}
        self._timers: list[tuple[float, int, Address]] = []
        self._ready: deque[Address] = deque()  # due to send, waiting for a token
        self._sequence = 0
        self.verdicts: dict[Address, Verdict] = {}

    @property
    def size(self) -> int:
        """How many distinct addresses the batch was made with."""
        return self._size

    @property
    def done(self) -> bool:
        return not self._queue and not self._tests

    def interested(self, address: Address) -> bool:
        """Whether a frame about `address` can matter now."""
        return address in self._tests

    def next_wake(self, now: float) -> float | None:
        """When to call `on_time` next; None if done."""
        if self.done:
            return None
        wakes = [self._timers[0][0]] if self._timers else []
        if self._ready:
            wakes.append(self._bucket.ready_at(now, reserve=self._sender.reserve))
        if self._queue and len(self._tests) < self._sender.in_flight:
            wakes.append(now)
        return min(wakes, default=now)

    def on_time(self, now: float) -> list[Effect]:
        """Start, send and end what is due at `now`, in order of due time; frames that the bucket refuses stay due."""
        self._start_more(now)
        effects: list[Effect] = []
        while self._timers and self._timers[0][0] <= now:
            address = heapq.heappop(self._timers)[2]
            test = self._tests.get(address)
            if test is None:
                continue
            if test.course.sends_next:
                self._ready.append(address)
            else:
                effects += self._advance(address, test, now)
        while self._ready:
            address = self._ready[0]
            test = self._tests.get(address)
            if test is not None and not self._bucket.take(now, reserve=self._sender.reserve):
                break
            self._ready.popleft()
            if test is not None:
                effects += self._advance(address, test, now)
        self._start_more(now)
        return effects

    def on_message(self, message: Message, now: float) -> list[Effect]:
        """Weigh one frame heard at `now`."""
        effects: list[Effect] = []
        for sign in signs(message):
            test = self._tests.get(sign.address)
            if test is not None:
                after, new = test.on_message(message, self._around, now)
                self._keep(sign.address, after)
                effects += new
        return effects

    def abandon(self, now: float, reason: str) -> list[Effect]:
        """End every open test with `unknown`."""
        open_addresses = [*self._tests, *(candidate.address for candidate in self._queue)]
        self._tests.clear()
        self._queue.clear()
        effects: list[Effect] = []
        for address in open_addresses:
            verdict = Verdict(address, State.UNKNOWN, now, None, reason)
            self.verdicts[address] = verdict
            effects.append(Decided(verdict))
        return effects

    def distrust(self, address: Address, reason: str) -> None:
        """Turn a verdict `clear` into `unknown`; what was heard stays heard."""
        verdict = self.verdicts.get(address)
        if verdict is not None and verdict.state is State.CLEAR:
            self.verdicts[address] = replace(verdict, state=State.UNKNOWN, evidence=None, reason=reason)

    def _start_more(self, now: float) -> None:
        while self._queue and len(self._tests) < self._sender.in_flight:
            candidate = self._queue.popleft()
            test = self._begin(candidate, now)
            self._tests[candidate.address] = test
            self._set_timer(candidate.address, test.course.due)

    def _begin(self, candidate: Candidate, now: float) -> ArpTest | NdTest:
        sender = self._sender
        if candidate.address.family is Family.V4:
            return ArpTest.begin(candidate.address, sender.mac, sender.profile.arp, candidate.draws, now, sender.vlan)
        return NdTest.begin(
            candidate.address, sender.mac, candidate.nonce, sender.profile.nd, candidate.draws, now, sender.vlan
        )

    def _advance(self, address: Address, test: ArpTest | NdTest, now: float) -> tuple[Effect, ...]:
        after, effects = test.on_time(now)
        self._keep(address, after)
        if after.verdict is None:
            self._set_timer(address, after.course.due)
        return effects

    def _keep(self, address: Address, test: ArpTest | NdTest) -> None:
        if test.verdict is None:
            self._tests[address] = test
        else:
            self._tests.pop(address, None)
            self.verdicts[address] = test.verdict

    def _set_timer(self, address: Address, due: float) -> None:
        self._sequence += 1
        heapq.heappush(self._timers, (due, self._sequence, address))
