"""When a self-made serving certificate is made, prepared and replaced, so that its readers trust it at every moment. Pure.

Every certificate has an authority of its own, whose key is thrown away once it has signed: no key is stored that could sign another. A new
certificate is *prepared* long before the old one ends: its authority goes into the list of trusted ones first, and only when that list was out for
a while is the new certificate served. The old authority stays in the list until it ends by itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

LIFE_S = 365 * 86400.0
RENEW_BEFORE_S = 120 * 86400.0  # of a certificate's end
SETTLE_S = 3600.0  # for how long a prepared certificate's authority is published before it is served
SKEW_S = 3600.0  # a certificate is valid from so long before it is made, for readers whose clock is behind


class Step(Enum):
    """`ISSUE`: there is none that can be used; make one and serve it at once."""

    KEEP = "keep"
    ISSUE = "issue"
    PREPARE = "prepare"
    PROMOTE = "promote"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What counts of a certificate; times in Unix seconds. `sound`: its key fits, and its authority is among the trusted."""

    not_before: float
    not_after: float
    names: frozenset[str]
    sound: bool = True

    def is_usable(self, names: Collection[str], now: float) -> bool:
        return self.sound and self.names >= set(names) and self.not_before <= now < self.not_after


def step(serving: Certificate | None, prepared: Certificate | None, names: Collection[str], now: float) -> Step:
    """What to do now. `names`: the host names under which the server is reached."""
    if serving is None or not serving.is_usable(names, now):
        return Step.PROMOTE if prepared is not None and prepared.is_usable(names, now) else Step.ISSUE
    if serving.not_after - now > RENEW_BEFORE_S:
        return Step.KEEP
    if prepared is None or not prepared.is_usable(names, now) or prepared.not_after - now <= RENEW_BEFORE_S:
        return Step.PREPARE
    return Step.PROMOTE if now - (prepared.not_before + SKEW_S) >= SETTLE_S else Step.KEEP
