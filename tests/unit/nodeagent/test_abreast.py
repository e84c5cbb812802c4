"""Pieces of work side by side."""

from __future__ import annotations

import asyncio
import gc

import pytest

from nodeagent.abreast import abreast


async def test_few_run_at_once_and_all_run() -> None:
    running, most, done = 0, 0, []

    async def piece(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        done.append(number)

    await abreast(piece, range(9), 3)
    assert most == 3
    assert sorted(done) == [*range(9)]


async def test_what_fails_cuts_nothing_else_off_and_is_told_at_the_end() -> None:
    done = []

    async def piece(number: int) -> None:
        await asyncio.sleep(0.001 * number)
        if number == 0:
            raise LookupError("the first")
        done.append(number)

    with pytest.raises(LookupError, match="the first"):
        await abreast(piece, range(5), 2)
    assert done == [1, 2, 3, 4]


async def test_cut_off_before_anything_began_it_leaves_nothing_behind() -> None:
    """A coroutine that nobody awaits would be told as a warning, which here is an error."""

    async def piece(_number: int) -> None:
        await asyncio.sleep(10)

    cut = asyncio.create_task(abreast(piece, range(5), 2))
    await asyncio.sleep(0)
    cut.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cut
    gc.collect()
