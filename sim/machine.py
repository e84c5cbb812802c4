"""One machine: its clock, disk, spool and boot, and the agent that runs on it; how each of them crashes and comes back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from adapters.entropy import SeededEntropy
from adapters.journal import JournalState, Write
from adapters.journal.memory import MemoryDisk, MemoryJournal
from adapters.kube.memory import MemoryStore
from adapters.sandboxes import ListedSandboxes
from ipam.errors import JournalFailed
from ipam.slots import SlotId
from nodeagent.agent import Agent
from nodeagent.config import AgentConfig, LeaseSettings, ProbeSettings
from nodeagent.ports import Ports
from nodeagent.spool import Spool
from nodeagent.wire import HttpReply, HttpRequest
from sim.clock import SimClock
from sim.loop import Process, ProcessKilled, SimLoop
from sim.network import Link
from sim.segment import SimSegment
from sim.spool import SpoolDirectory
from sim.wire import Sandbox

if TYPE_CHECKING:
    from sim.world import World

SLOWEST, FASTEST = 0.8, 1.25  # of the machines' clocks, in seconds per true second
FLUSH_S = 5.0  # the kernel writes dirty pages back about that often


class NodeJournal:
    """`Journal` of one agent process: the memory journal, with the machine's faults, observers and the process's death."""

    def __init__(self, machine: Machine, process: Process, inner: MemoryJournal) -> None:
        self._machine = machine
        self._process = process
        self._inner = inner

    def load(self) -> JournalState:
        return self._inner.load()

    def commit(self, writes: Sequence[Write]) -> None:
        if not writes:
            return
        self._machine.step("before commit", self._process)
        if self._machine.disk_fails():
            raise JournalFailed("the disk answered EIO")
        self._inner.commit(writes)
        self._machine.on_commit(self._machine, writes)
        self._machine.step("after commit", self._process)

    async def sync(self) -> None:
        self._machine.step("before sync", self._process)
        await asyncio.sleep(self._machine.random.uniform(0.0005, 0.005))
        self._machine.living(self._process)
        if self._machine.disk_fails():
            raise JournalFailed("fsync failed")
        if not self._machine.world.strikes(
            "lost-fsync", self._machine.random
        ):  # a disk that lies keeps it in its cache
            await self._inner.sync()
        self._machine.step("after sync", self._process)

    def close(self) -> None:
        self._inner.close()


@dataclass
class Running:
    """One incarnation of the agent."""

    process: Process
    journal: NodeJournal
    agent: Agent
    main: asyncio.Task[None]
    calls: dict[asyncio.Task[HttpReply], asyncio.Future[HttpReply | None]]


class Machine:
    """`up` is false between a power loss and the next boot; `running` is None while no agent serves."""

    def __init__(self, world: World, name: str, lease: LeaseSettings) -> None:
        self.world = world
        self.name = name
        self.random = random.Random(f"{world.seed}/machine/{name}")
        self.loop: SimLoop = world.loop
        faults = world.faults
        rate = self.random.uniform(SLOWEST, FASTEST) if faults.has("clock-rate") else 1.0
        self.clock = SimClock(world.loop, rate=rate)
        self.disk = MemoryDisk()
        self.has_forgotten = False  # its journal, or the end of it, was lost
        self.link = Link(name, random.Random(f"{world.seed}/link/{name}"), faults, lambda: world.hostile)
        self.spool = SpoolDirectory(lambda: world.strikes("unlink-lost", self.random))
        self.namespaces = ListedSandboxes()
        probe = world.plan.probe
        self.config = AgentConfig(
            node=name, lease=lease, parent="eth0" if probe else "", probe=probe or ProbeSettings()
        )
        self.proven: dict[SlotId, float] = {}  # what the running agent's own probes last found silent, and when
        self.boots = 1
        self.incarnations = 0
        self.up = True
        self.running: Running | None = None
        self.orphans: list[Sandbox] = []  # sandboxes that the last power loss took
        self.on_commit: Callable[[Machine, Sequence[Write]], None] = world.checker.committed
        self.on_start: Callable[[Agent], None] = lambda _agent: None
        self.crash_point: Callable[[str], bool] | None = None
        self._restart: asyncio.TimerHandle | None = None
        world.loop.create_task(self._write_back())

    # Ports' side ---------------------------------------------------------------------------------------------------------------------

    def is_down(self) -> bool:
        return not self.up

    def living(self, process: Process) -> None:
        if not process.alive:
            raise ProcessKilled(process.name)

    def step(self, where: str, process: Process) -> None:
        """One effect boundary: a dead process goes no further, and a crash point may strike."""
        self.living(process)
        if self.crash_point is not None and self.crash_point(where):
            self.kill_agent()
            raise ProcessKilled(where)

    def disk_fails(self) -> bool:
        return self.world.strikes("disk-error", self.random)

    async def _write_back(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self.disk.flush(self.disk.appended)

    # The agent's life ----------------------------------------------------------------------------------------------------------------

    def start_agent(self) -> None:
        if not self.up or self.running is not None:
            return
        self.incarnations += 1
        process = Process(f"agent/{self.name}/{self.incarnations}")
        # Built inside its own context, so that whatever it starts belongs to it.
        self.running = process.context.run(self._launch, process)
        self.world.trace("agent_started", node=self.name, incarnation=self.incarnations)

    def _launch(self, process: Process) -> Running | None:
        inner = self.disk.open()
        journal = NodeJournal(self, process, inner)
        store = MemoryStore(self.world.cluster, fault=self.link.inject)
        entropy = SeededEntropy(self.random.getrandbits(32))
        boot = f"boot-{self.name}-{self.boots}"
        self.proven.clear()
        segment = SimSegment(self, process)
        ports = Ports(
            store=store,
            journal=journal,
            clock=self.clock,
            entropy=entropy,
            sandboxes=self.namespaces,
            boot_id=boot,
            version="sim",
            segments=(segment,) if self.config.parent else (),
            mac_of=segment.mac_of if self.config.parent else None,
        )
        agent = Agent(self.config, ports)
        self.on_start(agent)
        main = self.loop.create_task(self._main(agent), context=process.context.copy())
        running = Running(process, journal, agent, main, {})
        main.add_done_callback(lambda task: self._ended(running, task), context=self.world.context)
        return running

    async def _main(self, agent: Agent) -> None:
        spool = Spool(cast(Path, self.spool), agent.verbs.delete, self.clock)
        await spool.replay()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(agent.run())
            tasks.create_task(spool.run())

    def _ended(self, running: Running, task: asyncio.Task[None]) -> None:
        """The agent ended by itself: its supervisor starts another one. Only a failing journal is a reason to end."""
        if self.running is not running:
            if not task.cancelled():
                task.exception()
            return
        error = None if task.cancelled() else task.exception()
        if error is not None and not _is_journal_failure(error):
            self.world.checker.crashed(self.name, error)
        self.kill_agent()
        self.restart_agent(self.random.uniform(0.5, 3.0))

    def serves_another_than(self, node_uid: str) -> bool:
        """True if the running agent believes to be on another Node object than this one."""
        return self.running is not None and self.running.agent.keeper.me.uid not in ("", node_uid)

    def kill_agent(self) -> None:
        """kill -9: the journal's commits survive, nothing else does, and nobody says goodbye."""
        running, self.running = self.running, None
        if running is None:
            return
        self.world.trace("agent_killed", node=self.name)
        running.process.alive = False
        running.journal.close()
        self.loop.thaw(running.process)
        running.main.cancel()
        for task, reply in list(running.calls.items()):
            task.cancel()
            if not reply.done():
                reply.set_result(None)
        running.calls.clear()
        self.world.checker.killed(self)

    def restart_agent(self, after_s: float) -> None:
        if self._restart is not None:
            self._restart.cancel()
        self._restart = self.loop.call_later(after_s, self.start_agent, context=self.world.context)

    def lose_power(self) -> None:
        """The machine stops at once; commits that were not synced may be gone."""
        self.kill_agent()
        self.up = False
        torn = int(
            self.world.strikes("torn-write", self.random)
        )  # the last commit is on the disk in part, so not at all
        lost = self.random.randint(0, 12) if self.world.strikes("lost-commits", self.random) else torn
        self.world.trace("power_lost", node=self.name, lost=min(lost, self.disk.unsynced))
        self.has_forgotten |= lost > 0 and self.disk.unsynced > 0
        self.disk.lose_power(lost_commits=lost)
        self.spool.files.clear()  # /run is a tmpfs

    def empty(self) -> None:
        """The machine, which is off, gets a new disk."""
        self.world.trace("emptied", node=self.name)
        self.disk = MemoryDisk()
        self.has_forgotten = True

    def boot(self) -> None:
        self.up = True
        self.boots += 1
        self.clock.reboot()
        self.world.trace("booted", node=self.name)
        self.start_agent()

    # CNI -----------------------------------------------------------------------------------------------------------------------------

    async def call(self, request: HttpRequest, timeout_s: float) -> HttpReply | None:
        """One request over the socket; None if the agent is away, dies, or does not answer in time."""
        running = self.running
        if running is None:
            return None
        reply: asyncio.Future[HttpReply | None] = self.loop.create_future()
        task = self.loop.create_task(running.agent.serve(request), context=running.process.context.copy())
        running.calls[task] = reply
        task.add_done_callback(lambda done: _served(running, done), context=self.world.context)
        try:
            async with asyncio.timeout(timeout_s):
                return await reply
        except TimeoutError:
            return None


def _served(running: Running, task: asyncio.Task[HttpReply]) -> None:
    reply = running.calls.pop(task, None)
    error = None if task.cancelled() else task.exception()
    if reply is not None and not reply.done():
        reply.set_result(None if task.cancelled() or error is not None else task.result())


def _is_journal_failure(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_journal_failure(inner) for inner in error.exceptions)
    return isinstance(error, JournalFailed | ProcessKilled)
