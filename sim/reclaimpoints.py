"""A forced reclaim with the leader killed at any chosen effect boundary: before or after each of its writes but the lock's renewals.

A node loses power with all addresses of the pools on it. The other node's pods need them, and get them by fence mark, wait and forced reclaim,
whatever the leader was doing when it died. Then the node comes back, and the world must end quiet and whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from adapters.kube.memory import Call
from crds.core import NODE
from crds.nephila import IP_NODE
from nodeagent.config import ProbeSettings
from sim.crashpoints import PLAN, Crash, told
from sim.faults import KINDS
from sim.loop import ProcessKilled, SimLoop, current_process, run
from sim.quiet import unfinished
from sim.world import World

DEAD, ALIVE = PLAN.nodes
PODS = PLAN.pools[0].size
LOOK_S = 0.5
BOUND_S = 200.0  # two waits of about 20 s, for mark and taking, twice if the leader died in between, and the sweeps


class _Story:
    """`gone`: the Node object is deleted too, so that everything is taken and the mailbox buried; else its pods are force-deleted."""

    def __init__(self, world: World, crash_at: int, *, gone: bool) -> None:
        self.world = world
        self.crash_at = crash_at
        self.gone = gone
        self.count = 0
        self.where = ""
        self.dead = world.machines[DEAD]
        self.candidate = next(found for found in world.candidates if found.machine.name == ALIVE)

    def _boundary(self, when: str, call: Call) -> None:
        process = current_process()
        if process is None or process is not self.candidate.process or call.kind.kind == "LeaderLock":
            return
        number, self.count = self.count, self.count + 1
        if number == self.crash_at:
            self.where = f"{when} {call.verb} {call.kind.kind}"
            self.candidate.kill()
            self.candidate.restart(0.5)
            raise ProcessKilled(call.verb)

    async def tell(self) -> None:
        world = self.world
        world.begin()
        for number in range(PODS):
            world.create_pod(f"main-{number + 1}", DEAD)
        await self._until(lambda: len(world.wire.holders) == 2 * PODS, 30.0)
        self._power_off()
        self.candidate.machine.link.hook = self._boundary
        for number in range(PODS):
            world.create_pod(f"main-{number + 11}", ALIVE)
        await self._until(lambda: len(world.wire.holders) == 2 * PODS, BOUND_S)
        if self.gone:
            await self._until(lambda: world.cluster.read(IP_NODE, ("", DEAD)) is None, BOUND_S)
        self.candidate.machine.link.hook = None
        if self.gone:
            world.create_node(DEAD)
        self.dead.boot()
        world.kubelets[DEAD].booted([])
        await self._until(lambda: not unfinished(world), BOUND_S)

    def _power_off(self) -> None:
        world = self.world
        world.kubelets[DEAD].power_lost()
        self.dead.lose_power()
        world.checker.reloaded(self.dead)
        for candidate in world.candidates:
            if candidate.machine is self.dead:
                candidate.kill()
        if self.gone:
            world.cluster.delete(NODE, ("", DEAD), uid="", resource_version="")
        for pod in world.pods_of(DEAD):
            world.force_delete_pod(pod, grace_s=0.0)

    async def _until(self, holds: Callable[[], bool], seconds: float) -> None:
        for _ in range(int(seconds / LOOK_S)):
            if holds():
                return
            await asyncio.sleep(LOOK_S)


def crash_leader(number: int, *, gone: bool) -> Crash:
    """The story with the leader's death at boundary `number` (-1: none)."""
    loop = SimLoop()

    async def main() -> Crash:
        plan = replace(PLAN, probe=ProbeSettings(verify_interval_s=20.0, retest_s=2.0))
        world = World(1, loop, without=KINDS, plan=plan)
        story = _Story(world, number, gone=gone)
        ended = await told(world, number, story)
        if len(world.wire.holders) < 2 * PODS:
            ended.unfinished.append(
                ("I8", f"only {len(world.wire.holders)} of {2 * PODS} addresses serve the living node")
            )
        world.end()
        return ended

    return run(main(), loop)
