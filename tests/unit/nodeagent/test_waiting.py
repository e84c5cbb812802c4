"""The line of waiting ADDs: order, bounds, and that nobody is lost or woken twice."""

from __future__ import annotations

import asyncio

from nodeagent.waiting import Ticket, WaitingLine


async def joined(line: WaitingLine, woken: list[int], *pools: str) -> tuple[Ticket, asyncio.Task[None]]:
    ticket = line.take()

    async def wait() -> None:
        if await line.wait(ticket, pools, timeout_s=5.0):
            woken.append(ticket.number)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    return ticket, task


async def test_first_come_first_served() -> None:
    line, woken = WaitingLine(), list[int]()
    tasks = [(await joined(line, woken, "p"))[1] for _ in range(3)]
    assert line.waiting("p") == 3
    line.wake("p", 2)
    await asyncio.sleep(0.01)
    assert woken == [0, 1]
    line.wake("p", 9)
    await asyncio.gather(*tasks)
    assert woken == [0, 1, 2]
    assert line.pools() == ()


async def test_a_ticket_keeps_its_place_when_it_waits_again() -> None:
    line, woken = WaitingLine(), list[int]()
    early, task = await joined(line, woken, "p")
    line.wake("p", 1)
    await task
    late, other = await joined(line, woken, "p")
    assert line.is_behind(None, "p")
    assert not line.is_behind(early, "p")
    again = asyncio.create_task(line.wait(early, ["p"], 5.0))
    await asyncio.sleep(0)
    assert line.is_behind(late, "p")
    line.wake("p", 1)
    assert await again
    line.wake("p", 1)
    await other


async def test_time_over_leaves_the_line() -> None:
    line = WaitingLine()
    assert not await line.wait(line.take(), ["p", "q"], timeout_s=0.01)
    assert line.pools() == ()


async def test_waiting_for_two_pools_is_woken_once() -> None:
    line, woken = WaitingLine(), list[int]()
    _, first = await joined(line, woken, "p", "q")
    _, second = await joined(line, woken, "q")
    line.wake("p", 1)
    line.wake("q", 1)
    await asyncio.gather(first, second)
    assert sorted(woken) == [0, 1]


async def test_who_waits_for_one_family_counts_on_what_it_found_of_the_other() -> None:
    line = WaitingLine()
    waiting = asyncio.create_task(line.wait(line.take(), ["v4"], 5.0, found=["v6"]))
    await asyncio.sleep(0)
    assert (line.waiting("v4"), line.counting_on("v4")) == (1, 0)
    assert (line.waiting("v6"), line.counting_on("v6")) == (0, 1)
    assert not line.is_behind(None, "v6")
    line.wake("v4", 1)
    assert await waiting
    assert line.counting_on("v6") == 0
    assert not await line.wait(line.take(), ["v4"], 0.01, found=["v6"])
    assert line.counting_on("v6") == 0
