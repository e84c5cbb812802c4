"""Several pieces of work side by side: few at once, and none of them cut off because another has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable


async def abreast(work: Iterable[Coroutine[object, object, None]], most: int) -> None:
    """At most `most` at once, begun in their order. Returns when all have ended; the first error, in that order, is raised then: a write that was
    sent must not be left unread.
    """
    turns = asyncio.Semaphore(most)

    async def one(piece: Coroutine[object, object, None]) -> None:
        async with turns:
            await piece

    for ended in await asyncio.gather(*map(one, work), return_exceptions=True):
        if ended is not None:
            raise ended
