"""What a request leaves to be done once its answer is on its way: counting, logging, telling the API, looking at the stock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context


class Afterwards:
    """Call it with work; `run` does what is due, in order, each in the context (and so with the log fields) of the request that left it.

    Work is never lost: one that raises ends this run, and the rest stays due.
    """

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: deque[tuple[Context, Callable[[], None]]] = deque()

    def __call__(self, work: Callable[[], None]) -> None:
        self._due.append((copy_context(), work))

    def run(self) -> None:
        while self._due:
            context, work = self._due.popleft()
            context.run(work)
