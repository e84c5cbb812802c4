"""No node reaches the API server for half a minute: what is warm is still given out, every DEL still works, and all is told afterwards.

The kubelets of the lab reach the server by another way, so that pods are still started and ended: only the agents are cut off. Round after
round, until the time is over, sandboxes end and others take their place, so that ADDs and DELs are asked for from its first second to its last.
"""

import asyncio
import time
from collections.abc import Collection

from e2e.lab import checks, labs, outcomes
from e2e.lab.checks import LivePod
from e2e.lab.kubelet import PodWorker
from e2e.lab.ledger import Call, Fate, timing
from e2e.lab.objects import key_of, uid_of
from e2e.lab.report import WARM
from e2e.lab.run import Run
from e2e.lab.scenarios.story import SETTLE_S, everything_released

TITLE = "The agents lose the API server"
NODES = 3
OUTAGE_S = 30.0
ENDED, RESTARTED = 6, 3  # pods that end for good; sandboxes restarted in each round
ROUND_S, ROUNDS_MIN = (
    3.0,
    5,
)  # so slow that what was released is not needed again before it has cooled; so many on a slow machine
# Of the racks' pools every node holds addresses in reserve; of the small ones of `api` and `data` it may hold none beyond its pods'.
WITH_STOCK = "shop/web-"
TOLD_S = 45.0  # an entry of the outbox is tried again after 30 s at the latest


async def run(run: Run) -> None:
    lab, cluster = run.lab, run.lab.cluster
    async with run.step("manifests applied, every pod Running"):
        await cluster.apply(labs.manifests())
        await cluster.wait_until(lambda: len(cluster.pods()) > 0 and cluster.settled(), SETTLE_S, cluster.describe)
    before = await run.verify("addresses are unique, recorded, reachable")
    async with run.step(f"API server cut off from all agents for {OUTAGE_S:.0f} s: ADDs and DELs go on") as finding:
        calls = len(lab.ledger.calls)
        for proxy in lab.proxies.values():
            proxy.cut(seconds=OUTAGE_S + 2 * SETTLE_S)
        cut = time.monotonic()
        asked = await run.requests()
        await cluster.scale("Deployment", "shop", "web", 15 - ENDED)
        rounds, restarted = await _rounds(run, cut + OUTAGE_S)
        outage_s = time.monotonic() - cut
        finding.problems += checks.unique(await checks.look(cluster))
        if await run.requests() != asked:
            finding.problems.append("an agent reached the API server: the cut is none")
        for proxy in lab.proxies.values():
            proxy.heal()
        finding.note, problems = judge(lab.ledger.calls[calls:], rounds, outage_s)
        finding.note += f"; {_warm(run, lab.ledger.calls[calls:])} of the ADDs warm, as the agents say"
        finding.problems += problems
    async with run.step("the server is back: every record says what the interfaces have") as finding:
        healed = time.monotonic()
        pods = await checks.look(cluster)
        await run.until(lambda: _told(run, pods), TOLD_S, "every SpiderEndpoint as the interfaces are")
        finding.note = f"{time.monotonic() - healed:.1f} s later"
    after = await run.verify("all is told once the server is back")
    async with run.step("pods that lived through it kept their addresses") as finding:
        finding.problems += checks.kept([pod for pod in before if pod.uid not in restarted], after)
    await everything_released(run)


def _warm(run: Run, calls: Collection[Call]) -> int:
    """How many of them found an address leased and verified, and waited for nothing."""
    how = outcomes.served(agent.log for agent in run.lab.agents.values())
    keys = [(call.container_id[: outcomes.SHORT_ID], call.interface) for call in calls if call.verb == "ADD"]
    return sum(1 for key in keys if key in how and how[key].how == WARM)


async def _told(run: Run, pods: list[LivePod]) -> bool:
    return not await checks.match_endpoints(run.lab.api, pods)


async def _rounds(run: Run, until: float) -> tuple[int, set[str]]:
    """Restarts sandboxes of ever other pods until that time (monotonic seconds); how many rounds, and the pods' UIDs."""
    cluster = run.lab.cluster
    restarted: set[str] = set()
    rounds = 0
    while (now := time.monotonic()) < until and rounds < OUTAGE_S / ROUND_S:
        await cluster.wait_settled(SETTLE_S)
        running = sorted(cluster.running(), key=lambda one: key_of(one[1].pod))
        able = [(kubelet, worker) for kubelet, worker in running if _key(worker).startswith(WITH_STOCK)]
        for place in range(RESTARTED):
            kubelet, worker = able[(rounds * RESTARTED + place) % len(able)]
            kubelet.restart_sandbox(uid_of(worker.pod))
            restarted.add(uid_of(worker.pod))
        await cluster.wait_settled(SETTLE_S)
        rounds += 1
        await asyncio.sleep(max(now + ROUND_S - time.monotonic(), 0))
    await asyncio.sleep(max(until - time.monotonic(), 0))
    return rounds, restarted


def _key(worker: PodWorker) -> str:
    return "/".join(key_of(worker.pod))


def judge(calls: Collection[Call], rounds: int, outage_s: float) -> tuple[str, list[str]]:
    """What to say of the calls that were made while no agent had an API server, and what was wrong with them."""
    good = [call for call in calls if call.fate is Fate.OK]
    added = [call for call in good if call.verb == "ADD"]
    deleted = [call for call in good if call.verb == "DEL"]
    took = timing(call.took_ms for call in added)
    note = (
        f"{outage_s:.1f} s without API server: {len(added)} ADDs and {len(deleted)} DELs served in {rounds} rounds, "
        f"{len(calls) - len(good)} failed; ADD with macvlan p50 {took.p50_ms:.0f} ms p99 {took.p99_ms:.0f} ms"
    )
    problems = [
        f"{call.verb} {call.namespace}/{call.pod} on {call.node}: {call.error}"
        for call in calls
        if call.fate is not Fate.OK
    ]
    if outage_s < OUTAGE_S:
        problems.append(f"the outage was {outage_s:.1f} s, not {OUTAGE_S:.0f}")
    if rounds < ROUNDS_MIN:
        problems.append(f"{rounds} rounds of ADDs and DELs, expected {ROUNDS_MIN} at least")
    if len(added) < RESTARTED * rounds or len(deleted) < ENDED + RESTARTED * rounds:
        problems.append(
            f"expected {RESTARTED * rounds} ADDs and {ENDED + RESTARTED * rounds} DELs, "
            f"saw {len(added)} and {len(deleted)}"
        )
    return note, problems
