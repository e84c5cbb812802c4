"""The reflector on the in-memory store and a clock that moves only when told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from adapters.clock import ManualClock
from adapters.entropy import SeededEntropy
from adapters.kube.memory import Answered, Call, Fault, MemoryStore, NotSent
from adapters.kube.memory_cluster import MemoryCluster
from adapters.kube.reflector import Reflector
from crds.meta import ObjectMeta
from crds.nephila import IP_BLOCK, IPBlock, IPBlockSpec


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.cluster = MemoryCluster(self.clock)
        self.admin = MemoryStore(self.cluster)
        self.store = MemoryStore(self.cluster, fault=self.fault)
        self.answers: dict[str, Fault] = {}
        self.running: asyncio.Future[None] | None = None
        self.silent = False
        self.asked: list[tuple[str, float]] = []
        self.seen: list[str] = []
        self.failures: list[str] = []
        self.reflector = Reflector(
            self.store,
            IP_BLOCK,
            self.clock,
            SeededEntropy(1),
            on_change=self.changed,
            on_failure=lambda error: self.failures.append(type(error).__name__),
        )

    def start(self) -> None:
        self.running = asyncio.ensure_future(self.reflector.run())

    async def fault(self, call: Call) -> Fault | None:
        if call.verb == "event":
            if self.silent:
                await asyncio.Event().wait()
            return None
        self.asked.append((call.verb, self.clock.now()))
        return self.answers.get(call.verb)

    def changed(self, old: IPBlock | None, new: IPBlock | None) -> None:
        some = new or old
        assert some is not None
        verb = "added" if old is None else "gone" if new is None else "changed"
        self.seen.append(f"{verb} {some.name} {some.spec.epoch}")
        if some.name == "poison":
            raise RuntimeError("listener")

    async def put(self, name: str, epoch: int = 1) -> None:
        await self.admin.create(
            IP_BLOCK,
            IPBlock(metadata=ObjectMeta(name=name), spec=IPBlockSpec(page="10.6.0.0/26", epoch=epoch, term=0)),
        )

    async def set_epoch(self, name: str, epoch: int) -> None:
        await self.admin.patch(IP_BLOCK, name, {"spec": {"epoch": epoch}})

    def count(self, verb: str) -> int:
        return sum(asked == verb for asked, _ in self.asked)


@pytest.fixture
async def idle() -> AsyncIterator[World]:
    """A world whose reflector has not begun."""
    world = World()
    await world.put("a")
    yield world
    if world.running is not None:
        world.running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await world.running


@pytest.fixture
async def world(idle: World) -> World:
    idle.start()
    return idle


async def test_it_lists_once_then_follows_by_watch(world: World) -> None:
    await world.clock.advance(0)
    await world.reflector.synced()
    await world.set_epoch("a", 2)
    await world.put("b")
    await world.admin.delete(IP_BLOCK, "a")
    await world.clock.advance(0)
    assert world.seen == ["added a 1", "changed a 2", "added b 1", "gone a 2"]
    assert [held.name for held in world.reflector] == ["b"]
    assert world.reflector.get("a") is None
    assert world.count("list") == 1


async def test_it_goes_on_from_where_it_was_when_the_server_ends_the_watch(world: World) -> None:
    await world.clock.advance(3_600)
    await world.set_epoch("a", 2)
    await world.clock.advance(1)
    assert world.seen == ["added a 1", "changed a 2"]
    assert world.count("list") == 1
    starts = [at for verb, at in world.asked if verb == "watch"]
    gaps = [round(later - earlier) for earlier, later in pairwise(starts)]
    assert all(300 <= gap <= 600 for gap in gaps)
    assert len(set(gaps)) > 1


async def test_after_410_a_new_list_tells_what_vanished_and_what_was_recreated(world: World) -> None:
    await world.put("b")
    await world.put("c")
    await world.clock.advance(0)
    world.answers["watch"] = NotSent()
    world.answers["list"] = NotSent()
    await world.clock.advance(700)
    world.seen.clear()
    await world.admin.delete(IP_BLOCK, "a")
    await world.admin.delete(IP_BLOCK, "b")
    await world.put("b", epoch=7)
    world.cluster.compact()
    world.answers.clear()
    await world.clock.advance(120)
    assert world.seen == ["gone a 1", "gone b 1", "added b 7"]
    assert world.reflector.has_synced
    assert "Gone" in world.failures


async def test_between_failures_it_waits_longer_each_time_up_to_a_minute_and_never_in_step(idle: World) -> None:
    idle.answers["list"] = Answered(500)
    idle.start()
    world = idle
    await world.clock.advance(600)
    times = [at for verb, at in world.asked if verb == "list"]
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert 0.8 <= waits[0] <= 1.6
    assert all(2**i * 0.8 <= wait <= 2**i * 1.6 for i, wait in enumerate(waits[:5]))
    assert all(30 <= wait <= 60 for wait in waits[6:])
    assert len({round(wait, 3) for wait in waits[6:]}) == len(waits[6:])


async def test_after_two_healthy_minutes_waiting_starts_short_again(idle: World) -> None:
    world = idle
    world.answers["list"] = Answered(503)
    world.start()
    await world.clock.advance(200)
    assert world.reflector.last_error is not None
    world.answers.clear()
    await world.clock.advance(300)
    assert world.reflector.has_synced
    world.answers["watch"] = Answered(503)
    world.asked.clear()
    await world.clock.advance(700)
    times = [at for verb, at in world.asked if verb == "watch"]
    assert times[1] - times[0] <= 1.6


async def test_a_watch_that_fell_silent_is_opened_anew_from_the_last_version(world: World) -> None:
    await world.clock.advance(0)
    world.silent = True
    await world.set_epoch("a", 2)
    await world.clock.advance(149)
    assert world.seen == ["added a 1"]
    world.silent = False
    await world.clock.advance(5)
    assert world.seen == ["added a 1", "changed a 2"]
    assert world.failures == ["Unreachable"]
    assert world.count("list") == 1


async def test_bookmarks_keep_a_quiet_watch_alive_and_its_version_fresh(world: World) -> None:
    await world.clock.advance(0)
    world.cluster.version += 100
    began = world.clock.now()
    await world.clock.advance(290)
    assert world.count("watch") == 1
    assert world.reflector.resource_version == str(world.cluster.version)
    assert world.reflector.last_contact is not None
    assert world.reflector.last_contact >= began + 240


async def test_a_listener_that_fails_on_one_object_still_hears_of_the_others(world: World) -> None:
    await world.clock.advance(0)
    await world.put("poison")
    await world.put("z")
    await world.clock.advance(0)
    assert world.seen[-2:] == ["added poison 1", "added z 1"]
    assert world.failures == ["RuntimeError"]


async def test_a_late_listener_is_told_what_is_there(world: World) -> None:
    await world.clock.advance(0)
    told: list[str] = []
    world.reflector.listen(lambda old, new: told.append(f"{old and old.name} {new and new.name}"))
    await world.put("b")
    await world.clock.advance(0)
    assert told == ["None a", "None b"]


async def test_a_list_that_never_answers_is_given_up(idle: World) -> None:
    world = idle
    hanging = asyncio.Event()

    async def hang(call: Call) -> Fault | None:
        if call.verb == "list":
            await hanging.wait()
        return None

    world.store.fault = hang
    world.start()
    await world.clock.advance(125)
    assert world.failures == ["Unreachable"]
    assert world.reflector.last_error is not None
    hanging.set()
    await world.clock.advance(5)
    assert world.reflector.has_synced
    assert world.reflector.last_error is None
