"""The leader is killed with -9 while it moves addresses from nodes that have them to one that needs them all.

The other candidate takes over and finishes the work; nodes with addresses at hand never notice. The election's times are those of production.
"""

import os
import signal
import time

from e2e.lab import checks, leaders
from e2e.lab.ledger import Call, Fate, Timing, timing
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
FEW, STEADY, MORE_STEADY = 6, 6, 40
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
    async with run.step(f"{SIZE - FEW} pods on one node; the leader is killed at its first recall") as finding:
        calls = len(lab.ledger.calls)
        await cluster.apply([deployment("surge", "shared", SIZE - FEW, selector=SURGE)])
        await run.until(lambda: _asked(run), SETTLE_S, "a recall")
        pid = leaders.pid_of_leader(lab.agents[first.node])
        assert pid is not None, "the leader has no process"
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        await cluster.scale("Deployment", "default", "steady", MORE_STEADY)
        second, failover_s = await leaders.wait_for_leader(lab.api, FAILOVER_S, first.term)
        finding.note = (
            f"{second.node} leads after {failover_s:.1f} s (lease {ELECTION_LEASE_S:.0f} s), term {second.term}"
        )
        await cluster.wait_settled(SETTLE_S)
        _judge(run, lab.ledger.calls[calls:], killed, failover_s, finding)
        finding.problems += checks.unique(await checks.look(cluster))
    await run.verify("addresses are unique, recorded, reachable")
    await everything_released(run)


async def _asked(run: Run) -> bool:
    nodes, _ = await run.lab.api.list("IPNode")
    return any(_words(node) for node in nodes)


def _words(node: Object) -> bool:
    spec = node.get("spec") or {}
    return bool(spec.get("recalls") or spec.get("offers"))


def _judge(run: Run, calls: list[Call], killed: float, failover_s: float, finding: Finding) -> None:
    """ADDs of the pool with plenty, begun while nobody led, beside all others."""
    times = shim_times(run.lab.times)

    def ours(chosen: list[Call]) -> Timing:
        keys = [("ADD", call.container_id, call.interface) for call in chosen if call.fate is Fate.OK]
        return timing(times[key] for key in keys if key in times)

    adds = [call for call in calls if call.verb == "ADD"]
    orphaned = [call for call in adds if killed <= call.begun <= killed + failover_s and "steady-" in call.pod]
    waiting = [call for call in adds if "surge-" in call.pod]
    calm, moved = ours(orphaned), ours(waiting)
    finding.note += (
        f"; meanwhile {calm.count} ADDs with addresses at hand p50 {calm.p50_ms:.1f} ms p99 {calm.p99_ms:.0f} ms; "
        f"those that needed moved addresses p99 {moved.p99_ms / 1000:.1f} s"
    )
    if not orphaned:
        finding.problems.append("no ADD was begun while nobody led")
    if calm.p99_ms > 1000 * failover_s / 2:
        finding.problems.append("ADDs with addresses at hand waited for the failover")
