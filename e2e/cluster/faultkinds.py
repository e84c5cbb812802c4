"""What a fault proxy can do to a request, to which requests, and for how long: plain values and one pure decision."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from adapters.entropy import Entropy

REASONS = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}


@dataclass(frozen=True, slots=True)
class Delay:
    """Holds a request back for `fixed_s` plus up to `jitter_s` before it is forwarded."""

    fixed_s: float
    jitter_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answers a request with a Kubernetes Status of this code, without forwarding it."""

    status: int
    retry_after_s: int | None = None

    @property
    def reason(self) -> str:
        return REASONS.get(self.status, "Unknown")


@dataclass(frozen=True, slots=True)
class DropReply:
    """Forwards a request, waits for the upstream's whole reply (so it was applied), then keeps it from the client.

    `reset` resets the client's connection; `silence` leaves it open and says nothing until the client gives up.
    """

    how: Literal["reset", "silence"] = "reset"


@dataclass(frozen=True, slots=True)
class KillWatch:
    """Streams that match, running or new, deliver nothing any more, yet stay open until the client gives up.

    A stream stays dead when the fault has ended: such a connection does not come back in reality either.
    """


RequestFault = Delay | Refuse | DropReply | KillWatch


@dataclass(frozen=True, slots=True)
class Requests:
    """Which requests a fault meets, and its bound. Raises ValueError unless `seconds` or `count` is given."""

    methods: frozenset[str] = frozenset()  # empty: any
    path: str = ""  # regular expression searched in path and query; empty: any
    probability: float = 1.0
    seconds: float | None = None
    count: int | None = None  # of requests that it hit

    def __post_init__(self) -> None:
        if self.seconds is None and self.count is None:
            raise ValueError("a fault needs a bound: give seconds, count or both")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"probability must lie in [0, 1], not {self.probability}")

    def meets(self, method: str, path_and_query: str) -> bool:
        return (not self.methods or method in self.methods) and re.search(self.path, path_and_query) is not None


@dataclass(eq=False, slots=True)
class Injection:
    """A fault in force; `hits` counts the requests (or streams) it met, for the test to look at."""

    fault: RequestFault
    requests: Requests
    deadline: float | None  # event loop time
    hits: int = 0
    ended: bool = False

    def end(self) -> None:
        self.ended = True

    def in_force(self, now: float) -> bool:
        spent = self.requests.count is not None and self.hits >= self.requests.count
        late = self.deadline is not None and now >= self.deadline
        return not (self.ended or spent or late)

    def hit(self, method: str, path_and_query: str, now: float, entropy: Entropy) -> bool:
        """Whether this request is met now; counts it if so. One draw of randomness per matching request."""
        if not self.in_force(now) or not self.requests.meets(method, path_and_query):
            return False
        if self.requests.probability < 1.0 and entropy.uniform(0.0, 1.0) >= self.requests.probability:
            return False
        self.hits += 1
        return True
