"""No node reaches the API server for a while: what is warm is still given out, every DEL still works, and all is told afterwards.

The kubelets of the lab reach the server by another way, so that pods are still started and ended: only the agents are cut off.
"""

import asyncio

from e2e.lab import checks, labs
from e2e.lab.run import Run
from e2e.lab.scenarios.story import SETTLE_S, everything_released

TITLE = "The agents lose the API server"
NODES = 3
OUTAGE_S = 20.0
ENDED, RESTARTED = 6, 4


async def run(run: Run) -> None:
    lab, cluster = run.lab, run.lab.cluster
    async with run.step("manifests applied, every pod Running"):
        await cluster.apply(labs.manifests())
        await cluster.wait_until(lambda: len(cluster.pods()) > 0 and cluster.settled(), SETTLE_S, cluster.describe)
    before = await run.verify("addresses are unique, recorded, reachable")
    async with run.step("API server cut off from all agents: pods end, sandboxes restart") as finding:
        for proxy in lab.proxies.values():
            proxy.cut(seconds=SETTLE_S)
        asked = await run.requests()
        calls = len(lab.ledger.calls)
        await cluster.scale("Deployment", "shop", "web", 15 - ENDED)
        await asyncio.sleep(0.3)
        ended_s = await cluster.wait_settled(OUTAGE_S)
        restarted = cluster.restart_sandboxes("shop/web-", RESTARTED)
        restarted_s = await cluster.wait_settled(OUTAGE_S)
        finding.problems += checks.unique(await checks.look(cluster))
        fresh = lab.ledger.calls[calls:]
        added, deleted = (sum(1 for call in fresh if call.verb == verb) for verb in ("ADD", "DEL"))
        finding.note = f"{deleted} DELs and {added} ADDs answered in {ended_s + restarted_s:.1f} s"
        if added < RESTARTED or deleted < ENDED + RESTARTED:
            finding.problems.append(
                f"expected {RESTARTED} ADDs and {ENDED + RESTARTED} DELs, saw {added} and {deleted}"
            )
        if await run.requests() != asked:
            finding.problems.append("an agent reached the API server: the cut is none")
        for proxy in lab.proxies.values():
            proxy.heal()
    after = await run.verify("all is told once the server is back")
    async with run.step("pods that lived through it kept their addresses") as finding:
        finding.problems += checks.kept([pod for pod in before if pod.uid not in restarted], after)
    await everything_released(run)
