"""Machines that are away for longer than the leader waits, or whose Node object is: what the leader takes by force, it takes here.

The Node object is deleted and made anew, soon or late; an operator says of a machine that it is out of service. Meanwhile the machine runs, or is
off; it comes back with its old journal, or emptied.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from crds.core import NODE, OUT_OF_SERVICE
from sim.faults import CLOCK_RATE
from sim.machine import SLOWEST
from sim.plan import IDENTITY

if TYPE_CHECKING:
    from sim.machine import Machine
    from sim.world import World

Begin: TypeAlias = Callable[[Coroutine[None, None, None]], None]
Recreate: TypeAlias = Callable[[str], Coroutine[None, None, None]]

SHORT_S = (0.5, 10.0)
BEYOND_S = (2.0, 8.0)  # more than the two waits of a forced reclaim, before the mark and after it
ELECTION_S = 8.0
LATE_S = 30.0  # by how much an outage may outlast the hostile phase
TAINTS = [{"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}]


@dataclass(frozen=True)
class Absence:
    """`object_s`: for how long there is no Node object; `agent_s`: how much longer no agent of its successor. `off`: without power for both."""

    object_s: float
    agent_s: float
    off: bool
    emptied: bool

    @classmethod
    def draw(cls, source: random.Random, lasting: Callable[[random.Random, float], float]) -> Absence:
        off = source.random() < 0.6
        object_s, agent_s = lasting(source, 0.6), source.uniform(*SHORT_S)
        if object_s <= SHORT_S[1]:
            agent_s = lasting(source, 0.5)
        return cls(object_s, agent_s, off, emptied=off and source.random() < 0.5)


class Outages:
    """`begin` starts a task that the end of the hostile phase ends; `evict(node, source)` deletes the node's pods by force."""

    def __init__(
        self,
        world: World,
        begin: Begin,
        recreate: Recreate,
    ) -> None:
        self._world = world
        self._begin = begin
        self._recreate = recreate
        self._away: dict[str, None] = {}
        self._all_back = asyncio.Event()
        self._all_back.set()
        self.ends_at = 0.0  # of the hostile phase

    @property
    def present(self) -> tuple[str, ...]:
        """Where a scheduler would still place pods; everywhere, if nowhere is better."""
        nodes = self._world.plan.nodes
        return tuple(name for name in nodes if name not in self._away) or nodes

    async def over(self) -> None:
        """Those that have begun run to their end."""
        await self._all_back.wait()

    def _leave(self, machine: Machine) -> None:
        self._away[machine.name] = None
        self._all_back.clear()

    def _return(self, machine: Machine) -> None:
        del self._away[machine.name]
        if not self._away:
            self._all_back.set()

    # Power ---------------------------------------------------------------------------------------------------------------------------

    def crash(self, machine: Machine, off_s: float) -> None:
        """A power cut; the machine comes back by itself."""
        if machine.up and machine.name not in self._away:
            self._power_off(machine)
            self._begin(self._come_back(machine, off_s))

    async def _come_back(self, machine: Machine, after_s: float) -> None:
        await asyncio.sleep(after_s)
        if machine.name not in self._away:
            self.boot(machine)

    def _power_off(self, machine: Machine) -> None:
        if not machine.up:
            return
        orphans = self._world.kubelets[machine.name].power_lost()  # first: nobody uses what the journal may lose
        machine.lose_power()
        for candidate in self._world.candidates:
            if candidate.machine is machine:
                candidate.kill()
        self._world.checker.reloaded(machine)
        machine.orphans = orphans

    def boot(self, machine: Machine) -> None:
        if not machine.up:
            machine.boot()
            for candidate in self._world.candidates:
                if candidate.machine is machine:
                    candidate.start()
            self._world.kubelets[machine.name].booted(machine.orphans)

    def _empty(self, machine: Machine) -> None:
        """The machine is installed anew: neither agent nor runtime remembers anything."""
        machine.empty()
        machine.orphans = []
        self._world.checker.reloaded(machine)

    # Outages -------------------------------------------------------------------------------------------------------------------------

    def recreate_node(self, machine: Machine, source: random.Random) -> None:
        if machine.name not in self._away:
            self._begin(self._replace_node(machine, source, Absence.draw(source, self._lasting)))

    async def _replace_node(self, machine: Machine, source: random.Random, absence: Absence) -> None:
        """The Node object is deleted, its pods with it (their sandboxes live on for a while), and the kubelet registers anew."""
        world = self._world
        self._leave(machine)
        world.trace("node_deleted", node=machine.name, absence=absence)
        if absence.off:
            self._power_off(machine)
        world.cluster.delete(NODE, ("", machine.name), uid="", resource_version="")
        evicted = source.random() < 0.5
        # Known: of an emptied machine whose pods kept their UIDs, a full pool's addresses stay leased to its former Node (seed 451).
        if evicted or absence.emptied:
            self._evict(machine, source)
        if absence.object_s > SHORT_S[1]:
            machine.kill_agent()  # evicted too
            machine.restart_agent(absence.object_s + absence.agent_s)
        await asyncio.sleep(absence.object_s)
        world.create_node(machine.name)
        if absence.agent_s > SHORT_S[1]:
            machine.kill_agent()
            machine.restart_agent(absence.agent_s)
        await asyncio.sleep(absence.agent_s)
        self._return(machine)
        if absence.emptied and not machine.up:
            self._empty(machine)
        if absence.off:
            self.boot(machine)
        else:
            machine.kill_agent()
            machine.restart_agent(source.uniform(0.2, 3.0))

    def put_out_of_service(self, source: random.Random) -> None:
        """A machine that has something to lose."""
        blocks = self._world.checker.blocks.values()
        leasing = [name for name in self.present if any(block.leases_named(name) for block in blocks)]
        if leasing and len(self._away) < len(self._world.plan.nodes) - 1:
            self._begin(self._serve_out(self._world.machines[source.choice(leasing)], source))

    async def _serve_out(self, machine: Machine, source: random.Random) -> None:
        """The machine is off while its Node object stays. Mostly an operator says so."""
        self._leave(machine)
        self._power_off(machine)
        if spoken_of := source.random() < 0.7:
            await asyncio.sleep(source.uniform(*SHORT_S))
            self._taint(machine, TAINTS)
            self._evict(machine, source)
        await asyncio.sleep(self._lasting(source, 0.9))
        if source.random() < 0.3:
            self._empty(machine)
        trusting = source.random() < 0.5  # that it will boot
        if trusting:
            self._taint(machine, None)
        self._return(machine)
        self.boot(machine)
        if spoken_of and not trusting:
            await asyncio.sleep(source.uniform(*SHORT_S))
            self._taint(machine, None)

    def _taint(self, machine: Machine, taints: list[dict[str, str]] | None) -> None:
        self._world.trace("tainted", node=machine.name, taints=taints)
        patch = {"spec": {"taints": taints}}
        self._world.cluster.patch(NODE, ("", machine.name), patch, resource_version="", subresource="")

    def _evict(self, machine: Machine, source: random.Random) -> None:
        """As the API server's pod collector does."""
        for pod in self._world.pods_of(machine.name):
            self._world.force_delete_pod(pod, grace_s=source.uniform(0.0, 10.0))
            if pod.name.startswith(IDENTITY):
                self._begin(self._recreate(pod.name))

    def _lasting(self, source: random.Random, likely: float) -> float:
        """Mostly longer than a forced reclaim takes, unless the hostile phase ends much earlier."""
        short, long = source.uniform(*SHORT_S), self._reclaim_s() + source.uniform(*BEYOND_S)
        fits = self._world.loop.time() + long <= self.ends_at + LATE_S
        return long if source.random() < likely and fits else short

    def _reclaim_s(self) -> float:
        """How long after its last heartbeat a silent node loses its slots, at the latest; the leader may have been on it."""
        settings = self._world.candidates[0].config.reclaim
        slowest = SLOWEST if self._world.faults.has(CLOCK_RATE) else 1.0
        return (ELECTION_S + 2 * (settings.rules().wait_s + settings.period_s)) / slowest
