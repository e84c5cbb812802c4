"""Several pieces of work side by side: few at once, and none of them cut off because another has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def abreast(work: Callable[[T], Awaitable[None]], items: Iterable[T], most: int) -> None:
    """`work` on every item, at most `most` at once, begun in their order. Returns when all have ended; the first error, in that order, is raised
    then: a write that was sent must not be left unread.
    """
    turns = asyncio.Semaphore(most)

    async def one(item: T) -> None:
        async with turns:
            await work(item)

    for ended in await asyncio.gather(*map(one, items), return_exceptions=True):
        if ended is not None:
            raise ended
