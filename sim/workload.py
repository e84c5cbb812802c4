"""What users, administrators and misfortune do: pods come and go, pools and nodes are edited, machines and links fail."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from crds.core import NODE, Pod
from crds.nephila import IP_BLOCK
from ipam.slots import SlotId, format_slots
from sim.edits import Edits
from sim.faults import EVENTS, OUTAGES
from sim.outages import Outages
from sim.plan import IDENTITY

if TYPE_CHECKING:
    from sim.machine import Machine
    from sim.world import World

EARLY_S = (3.0, 12.0)  # into the hostile phase: the first outage, so that the leader has the time to take by force

RELEASE_S = 5.0


class Workload:
    def __init__(self, world: World) -> None:
        self.world = world
        self._random = random.Random(f"{world.seed}/workload")
        self._number = 0
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.outages = Outages(world, self._start, self._recreate)
        self.edits = Edits(world, self._start, self._recreate)
        self._strikes: dict[str, Callable[[random.Random], None]] = {
            "agent-crash": self._crash_agent,
            "node-crash": self._crash_node,
            "pause": self._pause,
            "partition": lambda source: self._partition(source, "cut"),
            "one-way": lambda source: self._partition(source, "mute"),
            "clock-step": self._step_clock,
            "compaction": lambda _source: self.world.cluster.compact(),
            "pool-edit": self.edits.edit_range,
            "node-recreate": lambda source: self.outages.recreate_node(self._machine(source), source),
            "upgrade": self._upgrade,
            "leader-crash": self._crash_leader,
            "leader-pause": self._pause_leader,
            "foreign-claim": self._intrude,
            "runtime-gc": self._collect_garbage,
            "out-of-service": self.outages.put_out_of_service,
            "pool-delete": self.edits.delete_pool,
            "affinity-edit": self.edits.edit_affinity,
            "reserve": self.edits.reserve,
        }

    # The hostile phase ---------------------------------------------------------------------------------------------------------------

    async def run(self, seconds: float) -> None:
        """Pods come and go, and every kind of event strikes at its own rate, until the time is over and whoever is away is back."""
        end = self.outages.ends_at = self.world.loop.time() + seconds
        for kind in EVENTS:
            rate = self.world.faults.per_second(kind)
            if rate:
                self._start(self._misfortune(kind, rate, end))
        for name in self._identities():
            self._create(name)
        for _ in range(self.world.plan.pods // 2):
            self._create()
        while (left := end - self.world.loop.time()) > 0:
            await asyncio.sleep(min(self._random.expovariate(self.world.plan.churn_per_s), left))
            self._churn()
        await self.outages.over()

    async def _misfortune(self, kind: str, rate: float, end: float) -> None:
        source = random.Random(f"{self.world.seed}/event/{kind}")
        pause_s = source.uniform(*EARLY_S) if kind in OUTAGES else source.expovariate(rate)
        while True:
            await asyncio.sleep(pause_s)
            pause_s = source.expovariate(rate)
            if self.world.loop.time() >= end:
                return
            self.world.trace("fault", kind=kind)
            self._strikes[kind](source)

    async def repair(self) -> None:
        """All faults end: machines boot, links heal, pools and nodes are as planned; demand is cut to what fits."""
        world = self.world
        world.trace("repaired")
        for task in list(self._tasks):
            task.cancel()
        for candidate in world.candidates:
            if candidate.process is not None:
                world.loop.thaw(candidate.process)
        for machine in world.machines.values():
            self._repair_machine(machine)
        self.edits.repair()
        world.wire.foreign.clear()
        if not world.probes:
            self._start(self._release_suspects())
        present = {pod.name for pod in world.pods() if not pod.deleting}
        for name in self._identities():
            if name not in present:
                self._start(self._recreate(name))
        self._trim()
        self._move_pairs()
        await asyncio.sleep(0)

    def _repair_machine(self, machine: Machine) -> None:
        world, running = self.world, machine.running
        machine.link.heal()
        if running is not None:
            world.loop.thaw(running.process)
        if not machine.up:
            self.outages.boot(machine)
        entry = world.cluster.read(NODE, ("", machine.name))
        if entry is None:
            world.create_node(machine.name)
        if machine.up and (entry is None or machine.running is None or machine.serves_another_than(entry.object.uid)):
            machine.kill_agent()  # evicted with its Node, and started again by the DaemonSet
            machine.restart_agent(0.5)

    async def _release_suspects(self) -> None:
        """Where nobody probes, an operator looks for himself and says so (`nephila release`): else less fits than was planned. Not of pinned ones."""
        world = self.world
        while True:
            await asyncio.sleep(RELEASE_S)
            used = {slot for table in world.checker.journalled.values() for slot in table.values()} | set(
                world.wire.holders
            )
            for block in [block for block in world.checker.blocks.values() if world.is_stored(block)]:
                idle = (
                    block.suspect
                    & block.free
                    & ~block.pinned
                    & ~sum(slot.bit for slot in used if slot.page == block.page)
                )
                if idle:
                    spec = {"suspect": format_slots(block.suspect & ~idle), "epoch": block.epoch + 1}
                    world.cluster.patch(
                        IP_BLOCK, ("", block.page.name), {"spec": spec}, resource_version="", subresource=""
                    )

    def _trim(self) -> None:
        alive = [pod for pod in self.world.pods() if not pod.deleting]
        while kind := self.world.plan.room([pod.name for pod in alive], self.edits.withheld):
            victim = next(pod for pod in alive if pod.name.startswith(f"{kind}-"))
            alive.remove(victim)
            self.world.delete_pod(victim)

    def _move_pairs(self) -> None:
        """All pods of the pair of pools end, and as many begin, on any node, as there are addresses of both families: each is needed, all are
        cooling, most lie elsewhere.
        """
        pools = [pool for name in ("pair4", "pair6") if (pool := self.world.plan.pool(name))]
        if not pools:
            return
        for pod in self.world.pods():
            if pod.name.startswith("pair-") and not pod.deleting:
                self.world.delete_pod(pod)
        for _ in range(min(pool.size - self.edits.withheld(pool) for pool in pools)):
            self._number += 1
            self.world.create_pod(f"pair-{self._number}", self._random.choice(self.world.plan.nodes))

    def _identities(self) -> list[str]:
        return [f"{IDENTITY}{number}" for number in range(self.world.plan.identities)]

    # Pods ----------------------------------------------------------------------------------------------------------------------------

    def _churn(self) -> None:
        alive = [pod for pod in self.world.pods() if not pod.deleting]
        if not alive or self._random.random() < 0.5 * self.world.plan.pods / (len(alive) + 1):
            for _ in range(self._random.choice((1, 1, 1, 2, 5))):
                self._create()
        else:
            self._end(self._random.choice(alive))

    def _create(self, name: str = "", node: str = "") -> None:
        if not name:
            self._number += 1
            name = f"{self._random.choice(self.world.plan.kinds())}-{self._number}"
        self.world.create_pod(name, node or self._random.choice(self.outages.present))

    def _end(self, pod: Pod) -> None:
        world = self.world
        forced = world.strikes("force-delete", self._random)
        grace = self._random.choice((0.0, 0.5, 20.0)) if forced else self._random.choice((0.0, 0.3))
        if forced:
            world.force_delete_pod(pod, grace_s=grace)
        else:
            world.delete_pod(pod, grace_s=grace)
        if pod.name.startswith(IDENTITY) or world.strikes("move", self._random):
            self._start(self._recreate(pod.name))

    async def _recreate(self, name: str) -> None:
        """As a StatefulSet does: the same name, as soon as the object is gone, perhaps elsewhere."""
        node = self._random.choice(self.outages.present)
        while True:
            await asyncio.sleep(0.2)
            if all(pod.name != name for pod in self.world.pods()):
                self.world.create_pod(name, node)
                return

    # Misfortunes ---------------------------------------------------------------------------------------------------------------------

    def _machine(self, source: random.Random) -> Machine:
        return self.world.machines[source.choice(self.world.plan.nodes)]

    def _crash_agent(self, source: random.Random) -> None:
        machine = self._machine(source)
        after = source.choice((0.2, 1.0, 5.0, 20.0))
        if machine.up:
            machine.kill_agent()
            machine.restart_agent(after)

    def _collect_garbage(self, source: random.Random) -> None:
        """CNI GC; of a runtime that has just started and remembers some of its sandboxes, or none."""
        machine = self._machine(source)
        if machine.up:
            forgets = source.choice((0.0, 0.5, 1.0))
            self._start(self.world.kubelets[machine.name].collect_garbage(lambda: source.random() >= forgets))

    def _upgrade(self, source: random.Random) -> None:
        """A rolling update: one agent after the other, each away for a moment."""
        self._start(self._roll(source))

    async def _roll(self, source: random.Random) -> None:
        for machine in list(self.world.machines.values()):
            if machine.up:
                machine.kill_agent()
                machine.restart_agent(source.uniform(0.5, 3.0))
            await asyncio.sleep(source.uniform(0.5, 5.0))

    def _crash_node(self, source: random.Random) -> None:
        machine = self._machine(source)
        if machine.up:
            self.outages.crash(machine, source.choice((2.0, 10.0, 40.0)))

    def _crash_leader(self, source: random.Random) -> None:
        candidate = source.choice(self.world.candidates)
        candidate.kill()
        candidate.restart(source.choice((0.5, 3.0, 20.0)))

    def _pause_leader(self, source: random.Random) -> None:
        """Past its lease and back: it believes that it still leads."""
        process = source.choice(self.world.candidates).process
        if process is not None and not process.frozen:
            self.world.loop.freeze(process)
            self.world.loop.call_later(source.choice((2.0, 12.0, 40.0)), self.world.loop.thaw, process)

    def _pause(self, source: random.Random) -> None:
        machine = self._machine(source)
        running = machine.running
        if running is not None and not running.process.frozen:
            self.world.loop.freeze(running.process)
            seconds = source.choice((0.5, 5.0, 30.0))
            self.world.loop.call_later(seconds, self.world.loop.thaw, running.process)

    def _partition(self, source: random.Random, way: str) -> None:
        link = self._machine(source).link
        if link.is_up:
            link.cut() if way == "cut" else link.mute()
            self.world.loop.call_later(source.choice((1.0, 10.0, 50.0)), link.heal)

    def _step_clock(self, source: random.Random) -> None:
        machine = self._machine(source)
        machine.clock.step_wall(source.choice((-3600.0, -5.0, 5.0, 3600.0)))

    def _intrude(self, source: random.Random) -> None:
        """A host outside the cluster takes an address of a pool for a while. Most look first whether it is free; some do not care."""
        wire, pool = self.world.wire, source.choice(self.world.plan.pools)
        slot = SlotId("", pool.family, source.randint(pool.first, pool.last))
        polite = source.random() < 0.7
        if slot in wire.foreign or (polite and wire.answers(slot, "")):
            return
        self.world.trace("intruded", slot=str(slot))
        wire.intrude(slot, f"0a:00:00:00:{source.randrange(256):02x}:{source.randrange(256):02x}")
        self.world.loop.call_later(source.choice((1.0, 8.0, 40.0)), wire.foreign.pop, slot, None)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task: asyncio.Task[None] = self.world.loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
