"""A node loses its power: its pods come up elsewhere, and its addresses serve them after the fence, never before.

The pool has fewer free addresses than the dead node had pods, so that some of the pods must get what the node held.
"""

import asyncio
import time
from dataclasses import dataclass, field

from e2e.lab import checks, stock
from e2e.lab.ledger import Call, Fate
from e2e.lab.objects import Object, is_running, node_of
from e2e.lab.run import Finding, Run
from e2e.lab.scenarios.story import SETTLE_S, everything_released
from e2e.lab.scenarios.tight import deployment, pools

TITLE = "A node loses its power"
NODES = 3
VICTIM = "node-3"  # no candidate: what becomes of a dead leader is another scenario
LEASE_S, GRACE_S, RATE_MARGIN = 4.0, 1.0, 1.1
WAIT_S = LEASE_S * RATE_MARGIN + GRACE_S
"""How long a fence mark stands before the leader may take anything (docs/architecture.md)."""
LEASE = {"heartbeatS": 1.0, "leaseS": LEASE_S, "cooldownS": 2.0, "cooldownFloorS": 1.0}
AGENT_SETTINGS = {"lease": {**LEASE, "waitS": 17.0, "leakConfirmS": 2.0}}
LEADER_SETTINGS = {"reclaim": {"agentLeaseS": LEASE_S, "graceS": GRACE_S, "periodS": 0.2}}
SIZE, PODS = 60, 48
OUT_OF_SERVICE: Object = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}


async def run(run: Run) -> None:
    lab, cluster = run.lab, run.lab.cluster
    async with run.step(f"{PODS} pods on {len(lab.agents)} nodes, {SIZE} addresses"):
        await cluster.apply([pools("scarce", "10.6.95.1", "fd00:6::95:1", SIZE)[0], deployment("app", "scarce", PODS)])
        await cluster.wait_until(lambda: len(cluster.pods()) >= PODS and cluster.settled(), SETTLE_S, cluster.describe)
    before = await run.verify("addresses are unique, recorded, reachable")
    async with run.step(f"{VICTIM} loses its power, and is declared out of service") as finding:
        watch = FenceWatch(run, VICTIM)
        held = (await stock.leases(lab.api))[VICTIM]
        calls, died = len(lab.ledger.calls), time.monotonic()
        await power_off(run, VICTIM)
        await cluster.taint(VICTIM, OUT_OF_SERVICE)
        moved = await cluster.evict(VICTIM)
        async with watch:
            await asyncio.sleep(0.5)
            await cluster.wait_settled(SETTLE_S)
        _judge(finding, watch, lab.ledger.calls[calls:], held, died)
        finding.note = f"{moved} pods came up elsewhere in {time.monotonic() - died:.1f} s; {finding.note}"
    after = await run.verify("addresses are unique, recorded, reachable")
    async with run.step("pods of the other nodes kept their addresses") as finding:
        finding.problems += checks.kept([pod for pod in before if pod.node != VICTIM], after)
    async with run.step(f"{VICTIM} comes back with an old journal") as finding:
        await cluster.taint(VICTIM)
        back_s = await power_on(run, VICTIM)
        await cluster.scale("Deployment", "default", "app", SIZE)
        await cluster.wait_until(lambda: len(cluster.pods()) >= SIZE, SETTLE_S, cluster.describe)
        await cluster.wait_settled(SETTLE_S)
        here = sum(1 for pod in cluster.pods() if node_of(pod) == VICTIM and is_running(pod))
        finding.note = f"ready after {back_s:.1f} s; {here} of {SIZE} pods run on it, every address of the pool in use"
    await run.verify("addresses are unique, recorded, reachable")
    await everything_released(run)


async def power_off(run: Run, node: str) -> list[str]:
    """Agent and pods end at once, without a word to anybody. Returns the addresses that the pods had."""
    run.lab.dead.add(node)
    run.lab.agents[node].kill()
    return await run.lab.cluster.kubelets[node].power_off()


async def power_on(run: Run, node: str) -> float:
    """The same disk, nothing of the former pods. Returns the seconds until the agent was ready."""
    run.lab.agents[node].start()
    took = await run.lab.agents[node].ready()
    run.lab.cluster.kubelets[node].reconnect()
    run.lab.dead.discard(node)
    return took


@dataclass(slots=True)
class FenceWatch:
    """Notes when the fence mark of a node was first seen (monotonic seconds), while its block runs."""

    run: Run
    node: str
    marked: float | None = None
    _task: asyncio.Task[None] | None = field(default=None, repr=False)

    async def __aenter__(self) -> "FenceWatch":
        self._task = asyncio.create_task(self._look(), name="fence watch")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        while self.marked is None:
            asked = time.monotonic()
            box = await self.run.lab.api.get("IPNode", self.node)
            if (box.get("spec") or {}).get("fence"):
                self.marked = asked
            await asyncio.sleep(0.02)


def reuses(calls: list[Call], held: set[str], elsewhere_than: str) -> list[Call]:
    """ADDs of other nodes that gave out one of these addresses."""
    return [
        call
        for call in calls
        if call.verb == "ADD"
        and call.fate is Fate.OK
        and call.node != elsewhere_than
        and held & {text.partition("/")[0] for text in call.addresses}
    ]


def _judge(finding: Finding, watch: FenceWatch, calls: list[Call], held: set[str], died: float) -> None:
    """The fence: nothing that the node held was given out before the mark had stood for WAIT_S."""
    reused = reuses(calls, held, watch.node)
    if watch.marked is None or not reused:
        finding.problems.append(f"mark seen: {watch.marked is not None}; addresses used again: {len(reused)}")
        return
    first = min(call.ended for call in reused)
    finding.note = (
        f"fence mark {watch.marked - died:.1f} s after the death, first of {len(reused)} of its addresses used again "
        f"{first - died:.1f} s after it (at the earliest allowed: {watch.marked + WAIT_S - died:.1f} s)"
    )
    if first < watch.marked + WAIT_S:
        finding.problems.append("an address of the dead node was used before the fence")
