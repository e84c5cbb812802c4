"""A leader candidate on a machine: the production `leader.Leader` over the machine's link and clock, killed, paused and started anew."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from adapters.entropy import SeededEntropy
from adapters.kube.memory import MemoryStore
from leader.config import ElectionSettings, LeaderConfig, ReclaimSettings, SweepSettings
from leader.leader import Leader, Ports
from sim.loop import Process, ProcessKilled

if TYPE_CHECKING:
    from sim.machine import Machine
    from sim.world import World

GRACE_S = 8.0


class Candidate:
    def __init__(self, world: World, machine: Machine) -> None:
        self.world = world
        self.machine = machine
        self.process: Process | None = None
        self.leader: Leader | None = None
        self._main: asyncio.Task[None] | None = None
        self._random = random.Random(f"{world.seed}/leader/{machine.name}")
        self._restart: asyncio.TimerHandle | None = None
        self._incarnations = 0
        lease_s = world.plan.lease.lease_s
        self.config = LeaderConfig(
            node=machine.name,
            warm_standby=self._random.random() < 0.5,
            silent_s=3 * world.plan.lease.heartbeat_s,
            election=ElectionSettings(lease_s=6.0, renew_deadline_s=4.0, retry_s=1.0),
            reclaim=ReclaimSettings(agent_lease_s=lease_s, grace_s=max(GRACE_S, 0.5 * lease_s), period_s=2.0),
            sweep=SweepSettings(period_s=5.0, orphan_s=10.0),
        )

    def start(self) -> None:
        if self.process is not None or not self.machine.up:
            return
        self._incarnations += 1
        process = self.process = Process(f"leader/{self.machine.name}/{self._incarnations}")
        process.context.run(self._launch, process)
        self.world.trace("leader_started", node=self.machine.name, incarnation=self._incarnations)

    def _launch(self, process: Process) -> None:
        store = MemoryStore(self.world.cluster, fault=self.machine.link.inject)
        ports = Ports(store, self.machine.clock, SeededEntropy(self._random.getrandbits(32)))
        self.leader = Leader(self.config, ports)
        self._main = self.world.loop.create_task(self.leader.run(), context=process.context.copy())
        self._main.add_done_callback(lambda task: self._ended(process, task), context=self.world.context)

    def _ended(self, process: Process, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self.process is not process:
            return
        if error is not None and not isinstance(error, ProcessKilled):
            self.world.checker.crashed(f"leader on {self.machine.name}", error)
        self.kill()
        self.restart(2.0)

    def kill(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        self.world.trace("leader_killed", node=self.machine.name)
        process.alive = False
        self.world.loop.thaw(process)
        assert self._main is not None
        self._main.cancel()

    def restart(self, after_s: float) -> None:
        if self._restart is not None:
            self._restart.cancel()
        self._restart = self.world.loop.call_later(after_s, self.start, context=self.world.context)
