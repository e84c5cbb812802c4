"""`TimedJournal`: another journal with its commits and syncs timed. Failures count too: a slow disk fails last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

from adapters.journal.port import Journal, JournalState, Write

OnOperation = Callable[[str, float], None]  # "commit" or "sync", seconds


class TimedJournal:
    """`Journal`. `observe` is called after every operation, on the caller's thread, and must not raise."""

    def __init__(self, inner: Journal, observe: OnOperation) -> None:
        self._inner = inner
        self._observe = observe

    def load(self) -> JournalState:
        return self._inner.load()

    def commit(self, writes: Sequence[Write]) -> None:
        began = perf_counter()
        try:
            self._inner.commit(writes)
        finally:
            self._observe("commit", perf_counter() - began)

    async def sync(self) -> None:
        began = perf_counter()
        try:
            await self._inner.sync()
        finally:
            self._observe("sync", perf_counter() - began)

    def close(self) -> None:
        self._inner.close()
