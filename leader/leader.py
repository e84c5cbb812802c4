"""The leader as one object over its ports: stands for election, and while it leads runs every controller.

`service.py` gives it the real adapters, the simulation its own; nothing in here knows which. A reign begins when everything was listed once, and
with machines that know nothing: all timers start at this reign's own first observation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.kube.store import Store
from crds.meta import UNSET, KubeObject
from crds.nephila import IP_BLOCK, IP_NODE, IPNode
from ipam.applications import AppOwner, PoolNumber
from leader.announce import Announcer, LogAnnouncer
from leader.config import LeaderConfig
from leader.controllers.applications import Applications
from leader.controllers.consistency import Consistency
from leader.controllers.derived import Derived
from leader.controllers.endpoints import Endpoints
from leader.controllers.pins import Pins
from leader.controllers.pools import Pools
from leader.controllers.recalls import Recalls
from leader.controllers.reclaim import Reclaim
from leader.elector import Elector
from leader.loop import Allowance, Loop
from leader.sight import Sight
from leader.telling import PoolTeller
from leader.workloads import Workloads
from leader.writing import Authority, Writer

log = structlog.get_logger(__name__)

RECALL_GAP_S = 0.01
RECALL_PERIOD_S = 1.0
POOLS_GAP_S = 0.1
POOLS_PERIOD_S = 0.5  # a change right after a pass, of a pool written just then, waits for the gap and for two passes: below two seconds
APPLICATIONS_GAP_S, APPLICATIONS_PERIOD_S = 0.02, 1.0
CONSISTENCY_PERIOD_S = 600.0
SWEEPS_PER_S, SWEEP_BURST = 20.0, 100.0


@dataclass(frozen=True, slots=True)
class Ports:
    """The impure edges."""

    store: Store
    clock: Clock
    entropy: Entropy
    announcer: Announcer = field(default_factory=LogAnnouncer)


@dataclass(slots=True)
class Reign:
    """One uninterrupted time of leading: fresh controllers over the picture."""

    recalls: Recalls
    reclaim: Reclaim
    endpoints: Endpoints
    pins: Pins
    pools: Pools
    consistency: Consistency
    applications: Applications
    derived: Derived
    sight: Sight
    workloads: Workloads
    loops: tuple[Loop, ...] = ()

    def loop(self, name: str) -> Loop:
        return next(loop for loop in self.loops if loop.name == name)


class Leader:
    """`reign` is None while this process does not lead."""

    def __init__(self, config: LeaderConfig, ports: Ports) -> None:
        self.config = config
        self._ports = ports
        self.reign: Reign | None = None
        self._standby = self._new_sight() if config.warm_standby else None
        identity = f"{config.node}-{ports.entropy.bits(32):08x}"
        self.elector = Elector(
            ports.store,
            ports.clock,
            ports.entropy,
            identity,
            config.election.timings(),
            self._lead,
            self._highest_term,
        )

    async def run(self) -> None:
        """Until cancelled; then the work stops first, and the lock is given away last."""
        running = asyncio.create_task(self.elector.run(), name="election")
        tasks = {running}
        if self._standby is not None:
            tasks.add(asyncio.create_task(self._standby.run(), name="sight"))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in (running, *(tasks - {running})):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def why_not_ready(self) -> str:
        """A standby is ready; a leader is when it has seen everything."""
        if self.elector.is_leading and self.reign is None:
            return "leading, but the cluster was not listed yet"
        return ""

    def _new_sight(self) -> Sight:
        return Sight(self._ports.store, self._ports.clock, self._ports.entropy)

    async def _lead(self, authority: Authority) -> None:
        """One reign, until cancelled or deposed."""
        async with asyncio.TaskGroup() as tasks:
            sight = self._standby
            if sight is None:
                sight = self._new_sight()
                tasks.create_task(sight.run(), name="sight")
            await sight.synced()
            workloads = Workloads(
                self._ports.store, self._ports.clock, self._ports.entropy, self.config.applications.features()
            )
            tasks.create_task(workloads.run(), name="workloads")
            await workloads.synced()
            for pod in sight.pods:
                workloads.pod_changed(None, pod)
            reign = self._controllers(sight, workloads, authority)
            kicks = self._kicks(reign, workloads)
            sight.kicks.append(kicks)
            sight.pod_changes.append(workloads.pod_changed)
            try:
                self.reign = reign
                log.info("reign_began", term=authority.term, blocks=len(sight.blocks), nodes=len(sight.mailboxes))
                async with asyncio.TaskGroup() as loops:
                    for loop in reign.loops:
                        loops.create_task(loop.run(), name=loop.name)
            finally:
                self.reign = None
                sight.kicks.remove(kicks)
                sight.pod_changes.remove(workloads.pod_changed)

    def _controllers(self, sight: Sight, workloads: Workloads, authority: Authority) -> Reign:
        clock, entropy, config = self._ports.clock, self._ports.entropy, self.config
        writer = Writer(self._ports.store, clock, authority)
        sweeps = Allowance(clock, SWEEPS_PER_S, SWEEP_BURST)
        statuses = Allowance(clock, config.status.writes_per_s, 2 * config.status.writes_per_s)
        reign = Reign(
            recalls=Recalls(sight, writer, clock, entropy, config.silent_s),
            reclaim=Reclaim(sight, writer, clock, entropy, config.reclaim.rules(), self._ports.announcer, sweeps),
            endpoints=Endpoints(sight, writer, clock, config.sweep.orphan_s, sweeps),
            pins=Pins(sight, writer, clock, config.sweep.orphan_s, sweeps),
            pools=Pools(sight, writer, clock, config.status.gap_s, statuses),
            consistency=Consistency(sight, writer, self._ports.announcer, clock),
            applications=Applications(
                sight,
                workloads,
                writer,
                clock,
                self._ports.announcer,
                PoolNumber(extra=config.applications.default_flexible_ip_number),
                config.applications.period_s,
            ),
            derived=Derived(sight, workloads, writer, statuses),
            sight=sight,
            workloads=workloads,
        )
        reign.pools.observers.append(PoolTeller(sight, self._ports.announcer).on_conditions)
        reign.loops = self._loops(reign)
        reign.derived.retry = reign.loop("derived").kick
        if config.webhook.enabled:
            reign.loops = (*reign.loops, self._certificates(writer))
        return reign

    def _loops(self, reign: Reign) -> tuple[Loop, ...]:
        clock, entropy, config = self._ports.clock, self._ports.entropy, self.config

        async def nodes() -> None:
            await reign.reclaim.unmark()
            await reign.reclaim.work()

        return (
            Loop("recalls", reign.recalls.work, clock, entropy, period_s=RECALL_PERIOD_S, gap_s=RECALL_GAP_S),
            Loop("reclaim", nodes, clock, entropy, period_s=config.reclaim.period_s),
            Loop("endpoints", reign.endpoints.work, clock, entropy, period_s=config.sweep.period_s),
            Loop("pins", reign.pins.work, clock, entropy, period_s=config.sweep.period_s),
            Loop(
                "pools",
                reign.pools.work,
                clock,
                entropy,
                period_s=min(config.status.gap_s / 2, POOLS_PERIOD_S),
                gap_s=POOLS_GAP_S,
            ),
            Loop(
                "applications",
                reign.applications.work,
                clock,
                entropy,
                period_s=APPLICATIONS_PERIOD_S,
                gap_s=APPLICATIONS_GAP_S,
            ),
            Loop(
                "derived", reign.derived.work, clock, entropy, period_s=config.applications.period_s, gap_s=POOLS_GAP_S
            ),
            Loop("consistency", reign.consistency.work, clock, entropy, period_s=CONSISTENCY_PERIOD_S),
        )

    def _certificates(self, writer: Writer) -> Loop:
        # Only where it is wanted: the library behind it costs memory.
        from leader.controllers.certificates import Certificates

        ports, wanted = self._ports, self.config.webhook
        keeper = Certificates(
            ports.store,
            writer,
            ports.clock,
            (wanted.namespace, wanted.secret),
            wanted.configuration,
            wanted.hosts(),
        )
        return Loop("certificates", keeper.work, ports.clock, ports.entropy, period_s=wanted.period_s)

    def _kicks(self, reign: Reign, workloads: Workloads) -> Callable[[KubeObject], None]:
        recalls, pools = reign.loop("recalls"), reign.loop("pools")
        applications, derived = reign.loop("applications"), reign.loop("derived")

        def asked(_subnets: frozenset[str], _app: AppOwner | None) -> None:
            applications.kick()
            derived.kick()

        workloads.touched.append(asked)

        def kick(changed: KubeObject) -> None:
            if reign.recalls.concerns(changed):
                recalls.kick()
            if changed.kind == "SpiderIPPool":
                pools.kick()
            if changed.kind in ("SpiderIPPool", "SpiderReservedIP"):
                derived.kick()
            if reign.applications.concerns(changed):
                applications.kick()

        return kick

    async def _highest_term(self) -> int:
        """What earlier leaders left behind, read from the API: only when there is no lock object."""
        blocks = (await self._ports.store.list(IP_BLOCK)).items
        nodes = (await self._ports.store.list(IP_NODE)).items
        return max(_terms((block.spec.term for block in blocks), nodes), default=0)


def _terms(blocks: Iterable[int], nodes: Iterable[IPNode]) -> Iterable[int]:
    yield from blocks
    for node in nodes:
        if node.spec.fence is not UNSET:
            yield node.spec.fence.term
