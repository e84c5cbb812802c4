"""The line in which an ADD waits when its pools have no address on this node: first come, first served, per pool, bounded in time.

Nobody who waits holds anything: not a lock, not an address of another family or pool.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Collection, Iterable


class Ticket:
    """One ADD's place. It keeps its number when it has to wait again, so that a late arrival cannot overtake it."""

    __slots__ = ("future", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.future: asyncio.Future[None] | None = None


class WaitingLine:
    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._lines: dict[str, dict[int, Ticket]] = {}
        self._counting: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()  # by pool, since start

    def take(self) -> Ticket:
        return Ticket(next(self._numbers))

    def waiting(self, pool: str) -> int:
        """How many ADDs wait for an address of the pool."""
        return len(self._lines.get(pool, ()))

    def counting_on(self, pool: str) -> int:
        """How many ADDs wait for an address of another family only: they found one of this pool, do not hold it, and will take it then."""
        return self._counting[pool]

    def pools(self) -> tuple[str, ...]:
        """The pools for which somebody waits."""
        return tuple(self._lines)

    def is_behind(self, ticket: Ticket | None, pool: str) -> bool:
        """True if somebody who came earlier than `ticket` (None: than anybody new) still waits for this pool."""
        line = self._lines.get(pool)
        if not line:
            return False
        return ticket is None or any(number < ticket.number for number in line)

    async def wait(
        self, ticket: Ticket, pools: Iterable[str], timeout_s: float, *, found: Collection[str] = ()
    ) -> bool:
        """Sleep until one of the pools has something to look at; False if the time is over first.

        `found`: the pools of the families that have an address here. It must not leave meanwhile as if nobody needed it, or the families of a
        request come in turns, and never together.
        """
        joined = tuple(pools)
        ticket.future = asyncio.get_running_loop().create_future()
        self.waits.update(joined)
        self._counting.update(found)
        for pool in joined:
            self._lines.setdefault(pool, {})[ticket.number] = ticket
        try:
            async with asyncio.timeout(timeout_s):
                await ticket.future
            return True
        except TimeoutError:
            return False
        finally:
            ticket.future = None
            self._counting.subtract(found)
            for pool in joined:
                line = self._lines.get(pool, {})
                line.pop(ticket.number, None)
                if not line:
                    self._lines.pop(pool, None)

    def wake(self, pool: str, count: int) -> None:
        """`count` addresses of the pool became free: let as many go and look, in the order of their tickets."""
        for number in sorted(self._lines.get(pool, ())):
            future = self._lines[pool][number].future
            if count <= 0:
                return
            if future is not None and not future.done():
                future.set_result(None)
                count -= 1
