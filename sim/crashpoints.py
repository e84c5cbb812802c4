"""One short life of a node, with a crash at any chosen effect boundary: before or after each journal commit, sync and API write.

The story has ADD, DEL, claims, give-backs, a recall because a pool is full, and a restart. After the crash the agent starts again, the story goes
on, and the world must end quiet and whole (I4, I7, I8), with every answered ADD in the journal (I3) and memory rebuilt as it was (I12).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from adapters.kube.memory import Call
from ipam.addresses import Address, Family
from ipam.slots import SlotId
from ipam.stock import State
from nodeagent.agent import Agent
from nodeagent.config import LeaseSettings
from sim.checkers import Violation
from sim.faults import KINDS
from sim.loop import PROCESS, Process, ProcessKilled, SimLoop, run
from sim.plan import Plan, PlannedPool
from sim.quiet import unfinished
from sim.world import World

NODE = "n1"


@dataclass
class Crash:
    """What a run with a crash at boundary `number` came to. `boundaries`: how many the story has; `where`: the one that was hit."""

    number: int
    boundaries: int
    where: str
    violation: Violation | None
    unfinished: list[tuple[str, str]]

    @property
    def is_harmful(self) -> bool:
        return self.violation is not None or bool(self.unfinished)


class Story(Protocol):
    """What happens in a world; it kills somebody at the boundary it is told, says where that was, and counts all boundaries."""

    count: int
    where: str

    async def tell(self) -> None: ...


async def told(world: World, number: int, story: Story) -> Crash:
    """The story to its end, or to the first broken invariant."""
    telling = asyncio.create_task(story.tell())
    await asyncio.wait((telling, world.checker.failed), return_when=asyncio.FIRST_COMPLETED)
    failed = world.checker.failed.result() if world.checker.failed.done() else None
    if failed is None:
        telling.result()
    return Crash(number, story.count, story.where, failed, unfinished(world))


def _pool(name: str, prefix: str, family: Family, count: int, *, default: bool = True) -> PlannedPool:
    base = Address.parse(prefix).value
    network = f"{prefix}/24" if family is Family.V4 else f"{prefix}/120"
    gateway = str(Address(family, base + 1))
    return PlannedPool(name, family, network, gateway, base + 60, base + 60 + count - 1, (), default=default)


PLAN = Plan(
    nodes=(NODE, "n2"),
    pools=(
        _pool("main4", "10.6.0.0", Family.V4, 8),
        _pool("main6", "fd00:6::", Family.V6, 8),
        _pool("tiny4", "10.7.0.0", Family.V4, 3, default=False),
    ),
    lease=LeaseSettings(
        heartbeat_s=3.0, lease_s=10.0, cooldown_s=2.0, cooldown_floor_s=1.0, wait_s=8.0, leak_confirm_s=2.0
    ),
    pods=4,
    churn_per_s=0.0,
    hostile_s=0.0,
)


class _Story:
    def __init__(self, world: World, crash_at: int, *, power: bool) -> None:
        self.world = world
        self.machine = world.machines[NODE]
        self.crash_at = crash_at
        self.power = power
        self.count = 0
        self.where = ""
        self._before: dict[str, tuple[SlotId, ...]] | None = None
        self.machine.crash_point = self._strikes
        self.machine.on_start = self._compare
        self.machine.link.hook = self._write_boundary

    def _strikes(self, where: str) -> bool:
        number, self.count = self.count, self.count + 1
        if number != self.crash_at:
            return False
        self.where = where
        running = self.machine.running
        if running is not None and not self.power:
            self._before = _held(running.agent)
        if self.power:
            self.world.loop.call_soon(self._power_loss, context=self.world.context)
        else:
            self.machine.restart_agent(0.5)
        return True

    def _power_loss(self) -> None:
        orphans = self.world.kubelets[NODE].power_lost()
        self.machine.up = True  # the kill came first; now the machine goes too
        self.machine.disk.lose_power(
            lost_commits=1000
        )  # before the machine's own, which outside hostile times loses none
        self.machine.lose_power()
        self.world.checker.reloaded(self.machine)
        self.world.loop.call_later(1.0, self._boot, orphans, context=self.world.context)

    def _boot(self, orphans: list[object]) -> None:
        self.machine.boot()
        self.world.kubelets[NODE].booted(orphans)  # type: ignore[arg-type]

    def _compare(self, agent: Agent) -> None:
        """I12: what a restart rebuilds is what memory held, but for the one request that was under way."""
        before, self._before = self._before, None
        after = _held(agent)
        if before is not None:
            changed = {
                container for container in before.keys() | after.keys() if before.get(container) != after.get(container)
            }
            if len(changed) > 1:
                self.world.checker.fail("I12", f"a restart changed {', '.join(sorted(changed))}")
        allocated = {held.slot for held in agent.stock if held.state is State.ALLOCATED}
        if allocated != {slot for slots in after.values() for slot in slots}:
            self.world.checker.fail("I12", "the rebuilt stock does not allocate what the attachments hold")

    def _write_boundary(self, when: str, call: Call) -> None:
        process: Process | None = PROCESS.get()
        if process is None or not process.name.startswith(f"agent/{NODE}/"):
            return
        if self._strikes(f"{when} {call.verb} {call.kind.kind}"):
            self.machine.kill_agent()
            raise ProcessKilled(call.verb)

    async def tell(self) -> None:
        """The life of n1, with n2 needing what it has at the end."""
        world = self.world
        world.begin()
        await asyncio.sleep(1.0)
        for name in ("main-1", "main-2", "main-3"):
            world.create_pod(name, NODE)
        await asyncio.sleep(2.0)
        self._delete("main-1")
        await asyncio.sleep(4.0)
        world.create_pod("main-4", NODE)
        world.create_pod("tiny-1", NODE)  # the first claim on a page since the kernel last wrote the journal back
        await asyncio.sleep(0.6)
        self._delete("tiny-1")
        await asyncio.sleep(0.4)
        self._delete("main-2")
        self._delete("main-3")
        await asyncio.sleep(4.0)
        for number in range(7):
            world.create_pod(f"main-{number + 10}", "n2")
        await asyncio.sleep(2.0)
        self.machine.kill_agent()
        self.machine.restart_agent(0.2)
        for _ in range(60):
            await asyncio.sleep(1.0)
            if not unfinished(world):
                return

    def _delete(self, name: str) -> None:
        for pod in self.world.pods():
            if pod.name == name:
                self.world.delete_pod(pod)


def _held(agent: Agent) -> dict[str, tuple[SlotId, ...]]:
    return {a.key.container_id: tuple(grant.slot for grant in a.grants) for a in agent.allocator.all()}


def crash(number: int, *, power: bool = False) -> Crash:
    """The story with a crash at boundary `number` (-1: none)."""
    loop = SimLoop()

    async def main() -> Crash:
        world = World(1, loop, without=KINDS, plan=PLAN)
        story = _Story(world, number, power=power)
        ended = await told(world, number, story)
        world.end()
        return ended

    return run(main(), loop)
