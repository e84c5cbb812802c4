"""One seed's world: machines, API server, wire, workload and faults on one virtual loop, and its two phases.

First faults and workload run together (`hostile`); then everything is repaired and the world must become quiet: every pod that can be served runs
(I8), and every slot is accounted for (I7).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Collection
from contextvars import copy_context
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from adapters.kube.memory_cluster import MemoryCluster
from adapters.kube.store import Stored
from crds.core import NAMESPACE, NODE, POD, STATEFUL_SET, Namespace, Node, Pod, PodSpec, StatefulSet, WorkloadSpec
from crds.meta import ObjectMeta, OwnerReference
from crds.nephila import IP_BLOCK
from crds.spiderpool import IP_POOL
from ipam.blocks import Block
from sim.checkers import Checker, Violation
from sim.clock import SimClock
from sim.edits import EDITS, HOSTNAME
from sim.faults import Faults
from sim.kubelet import Kubelet
from sim.leading import Candidate
from sim.loop import Deadlock, Livelock, ProcessKilled, SimLoop, run
from sim.machine import Machine
from sim.plan import IDENTITY, SET, Plan
from sim.quiet import picture, unfinished
from sim.wire import Sandbox, Wire
from sim.workload import Workload

QUIET_BOUND_S = 150.0  # from the end of faults to convergence; a reflector alone may rest for 60 s
STEADY_S = 6.0  # convergence must hold this long
TRACE_TAIL = 60
NAMESPACE_NAME = "default"
FINALIZER = "sim/kubelet"
SET_REFERENCE = OwnerReference(api_version="apps/v1", kind="StatefulSet", name=SET, uid="set-uid", controller=True)
EXPECTED_CODES = frozenset({11, 120, 121})


@dataclass
class Outcome:
    """What became of a seed. `digest` is that of the whole trace: equal for equal seeds."""

    seed: int
    violation: Violation | None
    digest: str
    tail: list[str]
    steps: int
    virtual_s: float
    settled_s: float
    started: int
    faults: tuple[str, ...] = ()
    refusals: dict[str, int] = field(default_factory=dict)
    taken: dict[str, int] = field(
        default_factory=dict
    )  # leases that lost slots by force, by the standing of their node


class World:
    def __init__(
        self,
        seed: int,
        loop: SimLoop,
        *,
        without: Collection[str] = (),
        tracing: bool = False,
        plan: Plan | None = None,
    ) -> None:
        self.seed = seed
        self.loop = loop
        self.context = copy_context()
        self.faults = Faults.draw(seed, without)
        self.plan = plan or Plan.draw(seed)
        self.hostile = False
        self.over = False
        self.tracing = tracing
        self.lines: deque[str] = deque(maxlen=None if tracing else TRACE_TAIL)
        self._digest = blake2b(digest_size=8)
        self.refusals: Counter[str] = Counter()
        self.started = 0
        self.settled_s = -1.0
        self.kubelets: dict[str, Kubelet] = {}
        self.checker = Checker(self)
        self.cluster = MemoryCluster(SimClock(loop), validate=self.checker.validate)
        self.wire = Wire(self.checker.doubled)
        self.machines = {name: Machine(self, name, self.plan.lease) for name in self.plan.nodes}
        self.kubelets |= {name: Kubelet(self, machine) for name, machine in self.machines.items()}
        # The candidates live on the first two machines and die with them.
        self.candidates = [Candidate(self, machine) for machine in list(self.machines.values())[:2]]
        self.workload = Workload(self)
        self.edits = self.workload.edits
        loop.on_failure = self._callback_failed

    @property
    def probes(self) -> bool:
        """Whether addresses are verified in this world."""
        return self.plan.probe is not None

    # What parts ask ------------------------------------------------------------------------------------------------------------------

    def strikes(self, kind: str, source: random.Random) -> bool:
        return self.hostile and self.faults.has(kind) and source.random() < self.faults.chance(kind)

    def trace(self, event: str, **fields: Any) -> None:
        if self.over:
            return
        line = f"{self.loop.time():10.4f} {event} " + " ".join(f"{key}={value}" for key, value in fields.items())
        self._digest.update(line.encode())
        self.lines.append(line)

    def refused(self, sandbox: Sandbox, answer: dict[str, Any]) -> None:
        """An ADD failed. Only some reasons are honest here."""
        code, reason = answer.get("code"), str(answer.get("details", "")).partition(";")[0]
        self.refusals[f"{code} {reason}"] += 1
        self.trace("add_refused", container=sandbox.container_id, code=code, msg=answer.get("msg", "")[:90])
        expected = code in EXPECTED_CODES or (code == 5 and self.faults.has("disk-error"))
        if not expected and not (code in (110, 111, 112) and any(map(self.faults.has, EDITS))):
            self.checker.fail("answer", f"ADD of {sandbox} was refused: {answer}")

    def _callback_failed(self, who: str, error: BaseException) -> None:
        """asyncio only logs what a callback raises; here it is a defect, be it of the product or of the simulation."""
        if not self.over and not isinstance(error, ProcessKilled):
            self.checker.crashed(who, error)

    # API objects ---------------------------------------------------------------------------------------------------------------------

    def pods_of(self, node: str) -> list[Pod]:
        return [pod for pod in self.pods() if pod.spec.node_name == node]

    def pods(self) -> list[Pod]:
        entries = self.cluster._shelf(POD).entries
        return [entries[key].object for key in sorted(entries)]  # type: ignore[misc]

    def create_pod(self, name: str, node: str) -> None:
        metadata = ObjectMeta(
            name=name,
            namespace=NAMESPACE_NAME,
            annotations=self.plan.annotations(name),
            finalizers=(FINALIZER,),
            owner_references=(SET_REFERENCE,) if name.startswith(IDENTITY) else (),
        )
        created = self.cluster.create(POD, Pod(metadata=metadata, spec=PodSpec(node_name=node)))
        if isinstance(created, Stored):
            self.trace("pod_created", pod=name, node=node, uid=created.object.uid[-4:])
            self.kubelets[node].pod_bound(created.object)

    def delete_pod(self, pod: Pod, *, grace_s: float = 0.0) -> None:
        """Gracefully: the object goes when the kubelet has ended the pod."""
        self.trace("pod_deleting", pod=pod.name, uid=pod.uid[-4:])
        self.cluster.delete(POD, (pod.namespace, pod.name), uid=pod.uid, resource_version="")
        self.kubelets[pod.spec.node_name].pod_ending(pod.uid, grace_s)

    def force_delete_pod(self, pod: Pod, *, grace_s: float) -> None:
        """The object goes at once, its sandbox when the kubelet gets to it."""
        self.trace("pod_force_deleted", pod=pod.name, uid=pod.uid[-4:])
        key = (pod.namespace, pod.name)
        self.cluster.delete(POD, key, uid=pod.uid, resource_version="")
        self._finalize(key)
        self.kubelets[pod.spec.node_name].pod_ending(pod.uid, grace_s)

    def pod_ended(self, uid: str) -> None:
        """The kubelet is done with the pod."""
        for pod in self.pods():
            if pod.uid == uid and pod.deleting:
                self._finalize((pod.namespace, pod.name))

    def _finalize(self, key: tuple[str, str]) -> None:
        self.cluster.patch(POD, key, {"metadata": {"finalizers": None}}, resource_version="", subresource="")

    def is_stored(self, block: Block) -> bool:
        return self.cluster.read(IP_BLOCK, ("", block.page.name)) is not None

    def create_node(self, name: str) -> None:
        self.cluster.create(NODE, Node(metadata=ObjectMeta(name=name, labels={HOSTNAME: name})))

    # The run -------------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Raises Violation."""
        story = self.loop.create_task(self._story(), name="story")
        await asyncio.wait((story, self.checker.failed), return_when=asyncio.FIRST_COMPLETED)
        if self.checker.failed.done():
            raise self.checker.failed.result()
        story.result()

    def begin(self) -> None:
        """Pools and nodes exist, agents and leaders start."""
        self.cluster.create(NAMESPACE, Namespace(metadata=ObjectMeta(name=NAMESPACE_NAME)))
        for pool in self.plan.pools:
            wire = {"metadata": {"name": pool.name}, "spec": pool.spec}
            self.cluster.create(IP_POOL, IP_POOL.from_builtins(wire))
        if self.plan.identities:
            spec = WorkloadSpec(replicas=self.plan.identities)
            self.cluster.create(
                STATEFUL_SET, StatefulSet(metadata=ObjectMeta(name=SET, namespace=NAMESPACE_NAME), spec=spec)
            )
        for name, machine in self.machines.items():
            self.create_node(name)
            machine.start_agent()
        for candidate in self.candidates:
            candidate.start()

    async def _story(self) -> None:
        self.begin()
        self.hostile = True
        await self.workload.run(self.plan.hostile_s)
        self.hostile = False
        await self.workload.repair()
        await self._settle()

    async def _settle(self) -> None:
        began = steady_since = self.loop.time()
        while True:
            await asyncio.sleep(1.0)
            now = self.loop.time()
            left = unfinished(self)
            if left:
                steady_since = now
            elif now - steady_since >= STEADY_S:
                self.settled_s = steady_since - began
                self.trace("settled", after=f"{self.settled_s:.1f}")
                return
            if now - began > QUIET_BOUND_S:
                for line in picture(self):
                    self.trace("picture", of=line)
                invariant, message = left[0] if left else ("I7", "the world does not stay quiet")
                self.checker.fail(invariant, f"{message} ({len(left)} such) {QUIET_BOUND_S:.0f} s after the last fault")
                return

    def end(self) -> None:
        """Nothing that unwinds from here on may have an effect, or be traced."""
        self.over = True
        for candidate in self.candidates:
            candidate.kill()
        for name, machine in self.machines.items():
            self.kubelets[name].power_lost()
            machine.lose_power()

    def outcome(self, violation: Violation | None) -> Outcome:
        return Outcome(
            seed=self.seed,
            violation=violation,
            digest=self._digest.hexdigest(),
            tail=list(self.lines),
            steps=self.loop.steps,
            virtual_s=self.loop.time(),
            settled_s=self.settled_s,
            started=self.started,
            faults=self.faults.present(),
            refusals=dict(self.refusals),
            taken=dict(self.checker.taken),
        )


def simulate(seed: int, *, without: Collection[str] = (), tracing: bool = False) -> Outcome:
    """Run one seed to its end."""
    loop = SimLoop()
    world: World | None = None

    async def main() -> Violation | None:
        nonlocal world
        world = World(seed, loop, without=without, tracing=tracing)
        try:
            await world.run()
        except Violation as violation:
            return violation
        finally:
            world.end()
        return None

    try:
        found = run(main(), loop)
    except (Livelock, Deadlock) as error:
        found = Violation(type(error).__name__.lower(), str(error), loop.time())
    except Exception as error:  # noqa: BLE001  # a defect of the simulation must name its seed too, and end no run of thousands
        found = Violation("crash", f"the simulation: {type(error).__name__}: {error}", loop.time())
    assert world is not None
    return world.outcome(found)
