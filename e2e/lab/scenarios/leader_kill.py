"""The leader is killed with -9 while it moves addresses from nodes that have them to one that needs them all.

The other candidate takes over and finishes the work; nodes with addresses at hand never notice. The election's times are those of production.
"""

import os
import signal
import time

from e2e.lab import checks, leaders
from e2e.lab.ledger import Call, Fate, Timing, still_unaffected_ms, timing
from e2e.lab.objects import Object
from e2e.lab.run import Finding, Run
from e2e.lab.runtime import shim_times
from e2e.lab.scenarios.story import SETTLE_S, everything_released
from e2e.lab.scenarios.tight import deployment, pools

TITLE = "The leader dies in the middle of its work"
NODES = 4
ELECTION_LEASE_S = 15.0
AGENT_SETTINGS = {"lease": {"waitS": 19.0}}  # so long may an ADD wait for an address that only a leader can bring
LEADER_SETTINGS = {"election": {"leaseS": ELECTION_LEASE_S, "renewDeadlineS": 10.0, "retryS": 2.0}}
SIZE = 80
FEW, STEADY, MORE_STEADY, STILL_MORE_STEADY = 6, 6, 40, 74  # as many come after the kill as before it
FAILOVER_S = 40.0
SURGE, CALM = {"surge": "yes"}, {"surge": "no"}


async def run(run: Run) -> None:
    lab, cluster = run.lab, run.lab.cluster
    for number, node in enumerate(lab.agents, start=1):
        await lab.api.patch("Node", node, "", {"metadata": {"labels": SURGE if number == NODES else CALM}})
    async with run.step("few pods, much stock on every node") as finding:
        shared, plenty = (
            pools("shared", "10.6.90.1", "fd00:6::90:1", SIZE),
            pools("plenty", "10.6.100.1", "fd00:6::100:1", 1000),
        )
        few = deployment("few", "shared", FEW, selector=CALM)
        await cluster.apply([shared[0], plenty[0], few, deployment("steady", "plenty", STEADY, selector=CALM)])
        await cluster.wait_until(
            lambda: len(cluster.pods()) >= FEW + STEADY and cluster.settled(), SETTLE_S, cluster.describe
        )
        first, _ = await leaders.wait_for_leader(lab.api, SETTLE_S)
        finding.note = f"{first.node} leads, term {first.term}"
    async with run.step(f"{MORE_STEADY - STEADY} ADDs with addresses at hand, under that leader") as finding:
        calls = len(lab.ledger.calls)
        await cluster.scale("Deployment", "default", "steady", MORE_STEADY)
        await cluster.wait_settled(SETTLE_S)
        before = _timing(run, [call for call in lab.ledger.calls[calls:] if "steady-" in call.pod])
        finding.note = f"{before.count} ADDs p50 {before.p50_ms:.1f} ms p99 {before.p99_ms:.0f} ms"
    async with run.step(f"{SIZE - FEW} pods on one node; the leader is killed at its first recall") as finding:
        calls = len(lab.ledger.calls)
        await cluster.apply([deployment("surge", "shared", SIZE - FEW, selector=SURGE)])
        await run.until(lambda: _asked(run), SETTLE_S, "a recall")
        pid = leaders.pid_of_leader(lab.agents[first.node])
        assert pid is not None, "the leader has no process"
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        await cluster.scale("Deployment", "default", "steady", STILL_MORE_STEADY)
        second, failover_s = await leaders.wait_for_leader(lab.api, FAILOVER_S, first.term)
        finding.note = (
            f"{second.node} leads after {failover_s:.1f} s (lease {ELECTION_LEASE_S:.0f} s), term {second.term}"
        )
        await cluster.wait_settled(SETTLE_S)
        _judge(run, lab.ledger.calls[calls:], (killed, killed + failover_s), before, finding)
        finding.problems += checks.unique(await checks.look(cluster))
    await run.verify("addresses are unique, recorded, reachable")
    await everything_released(run)


async def _asked(run: Run) -> bool:
    nodes, _ = await run.lab.api.list("IPNode")
    return any(_words(node) for node in nodes)


def _words(node: Object) -> bool:
    spec = node.get("spec") or {}
    return bool(spec.get("recalls") or spec.get("offers"))


def _timing(run: Run, calls: list[Call]) -> Timing:
    """Our part of the ADDs among these calls that succeeded."""
    times = shim_times(run.lab.times)
    keys = [("ADD", call.container_id, call.interface) for call in calls if call.verb == "ADD" and call.fate is Fate.OK]
    return timing(times[key] for key in keys if key in times)


def _judge(run: Run, calls: list[Call], unled: tuple[float, float], before: Timing, finding: Finding) -> None:
    """ADDs of the pool with plenty, begun while nobody led, beside those of the same pool before, and beside all others.

    `unled`: from when to when nobody led, monotonic seconds.
    """
    begun, ended = unled
    orphaned = [call for call in calls if begun <= call.begun <= ended and "steady-" in call.pod]
    waiting = [call for call in calls if "surge-" in call.pod]
    calm, moved = _timing(run, orphaned), _timing(run, waiting)
    finding.note += (
        f"; meanwhile {calm.count} ADDs with addresses at hand p50 {calm.p50_ms:.1f} ms p99 {calm.p99_ms:.0f} ms "
        f"(before: {before.p50_ms:.1f} and {before.p99_ms:.0f}); "
        f"those that needed moved addresses p99 {moved.p99_ms / 1000:.1f} s"
    )
    finding.problems += affected(before, calm)


def affected(before: Timing, meanwhile: Timing) -> list[str]:
    """What speaks against it that ADDs went on without a leader as before; nothing if nothing does."""
    if not before.count or not meanwhile.count:
        return [f"too few ADDs to compare: {before.count} under a leader, {meanwhile.count} begun while nobody led"]
    allowed_ms = still_unaffected_ms(before.p99_ms)
    if meanwhile.p99_ms > allowed_ms:
        return [
            f"ADDs with addresses at hand took p99 {meanwhile.p99_ms:.0f} ms while nobody led, {allowed_ms:.0f} at most"
        ]
    return []
