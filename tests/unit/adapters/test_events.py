"""Events: aggregated, bounded, and never in anybody's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from adapters.clock import ManualClock
from adapters.entropy import SeededEntropy
from adapters.kube.events import EventLimits, EventRecorder, reference
from adapters.kube.memory import Call, Fault, MemoryStore, RequestLost
from adapters.kube.memory_cluster import MemoryCluster
from crds.core import EVENT, POD, Event, EventSeries
from crds.nephila import IP_NODE

WEB = reference(POD, "web-0", "shop", "uid-1")


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(MemoryCluster(self.clock))
        self.recorder = EventRecorder(
            self.store,
            self.clock,
            SeededEntropy(1),
            controller="nephila.io/agent",
            instance="n1",
            limits=EventLimits(queue=4, burst=3),
        )

    async def events(self) -> list[Event]:
        await self.clock.advance(0)
        return list((await self.store.list(EVENT)).items)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    running = asyncio.create_task(world.recorder.run())
    yield world
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_an_event_says_who_saw_what_about_whom(world: World) -> None:
    world.recorder.warning(WEB, "PoolExhausted", "Allocate", "pool a has no free address " + "x" * 2_000)
    (event,) = await world.events()
    assert event.namespace == "shop"
    assert event.name.startswith("web-0.")
    assert (event.type, event.reason, event.action) == ("Warning", "PoolExhausted", "Allocate")
    assert (event.reporting_controller, event.reporting_instance) == ("nephila.io/agent", "n1")
    assert event.regarding == WEB
    assert event.event_time == "2023-11-14T22:13:20.000000Z"
    assert len(event.note) == 1_024


async def test_events_about_cluster_objects_live_in_default(world: World) -> None:
    world.recorder.normal(reference(IP_NODE, "n1"), "Fenced", "Heartbeat", "note")
    assert [event.namespace for event in await world.events()] == ["default"]


async def test_repetitions_become_one_series_written_now_and_then(world: World) -> None:
    for _ in range(100):
        world.recorder.warning(WEB, "PoolExhausted", "Allocate", "note")
        await world.clock.advance(1)
    (event,) = await world.events()
    assert isinstance(event.series, EventSeries)
    assert 60 <= event.series.count <= 100
    assert world.store.calls["create", "events"] == 1
    assert world.store.calls["patch", "events"] <= 4


async def test_after_a_long_silence_a_new_event_begins(world: World) -> None:
    world.recorder.warning(WEB, "PoolExhausted", "Allocate", "note")
    await world.clock.advance(400)
    world.recorder.warning(WEB, "PoolExhausted", "Allocate", "note")
    assert len(await world.events()) == 2


async def test_one_object_cannot_flood(world: World) -> None:
    for number in range(10):
        world.recorder.warning(WEB, f"Reason{number}", "Allocate", "note")
        await world.clock.advance(0)
    assert len(await world.events()) == 3
    assert world.recorder.dropped == 7


async def test_a_full_queue_drops_and_counts(world: World) -> None:
    release = asyncio.Event()

    async def slow(call: Call) -> Fault | None:
        await release.wait()
        return None

    world.store.fault = slow
    for number in range(10):
        world.recorder.warning(reference(POD, f"p{number}", "shop"), "PoolExhausted", "Allocate", "note")
    assert world.recorder.dropped == 6
    release.set()
    assert len(await world.events()) == 4


async def test_an_event_that_could_not_be_written_is_told_with_the_next_repetition(world: World) -> None:
    async def lost(call: Call) -> Fault | None:
        return RequestLost()

    world.store.fault = lost
    world.recorder.warning(WEB, "PoolExhausted", "Allocate", "note")
    await world.clock.advance(31)
    world.store.fault = None
    assert await world.events() == []
    world.recorder.warning(WEB, "PoolExhausted", "Allocate", "note")
    assert len(await world.events()) == 1
