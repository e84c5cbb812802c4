"""Every agent is stopped and started, one after the other, as a DaemonSet update does, while pods come and go."""

import asyncio

from e2e.lab import checks, labs
from e2e.lab.ledger import Fate
from e2e.lab.run import Run
from e2e.lab.scenarios.story import SETTLE_S, everything_released

TITLE = "All agents updated while pods come and go"
NODES = 3
ROUNDS_MAX = 200


async def run(run: Run) -> None:
    lab, cluster = run.lab, run.lab.cluster
    async with run.step("manifests applied, every pod Running"):
        await cluster.apply(labs.manifests())
        await cluster.wait_until(lambda: len(cluster.pods()) > 0 and cluster.settled(), SETTLE_S, cluster.describe)
    before = await checks.look(cluster)
    async with run.step("agents restarted one by one") as finding:
        done = asyncio.Event()
        churn = asyncio.create_task(_churn(run, done))
        statuses, waits = [], []
        for agent in lab.agents.values():
            statuses.append(await agent.stop())
            agent.start()
            waits.append(await agent.ready())
        done.set()
        await churn
        await cluster.wait_settled(SETTLE_S)
        finding.note = f"ready again after {max(waits):.2f} s at most"
        finding.problems += [f"an agent ended with status {status} after SIGTERM" for status in statuses if status != 0]
        failed = [call for verb in ("ADD", "DEL") for call in lab.ledger.of(verb, Fate.AGENT_DOWN)]
        finding.note += f"; {len(failed)} calls failed meanwhile"
        finding.problems += [f"{call.verb} {call.pod} on {call.node}: {call.error}" for call in failed]
    after = await run.verify("nothing lost, nothing doubled")
    async with run.step("pods that lived through it kept their addresses") as finding:
        finding.problems += checks.kept(before, after)
    await everything_released(run)


async def _churn(run: Run, done: asyncio.Event) -> None:
    """Scales one workload up and down until told to stop; ends at its original size."""
    for turn in range(ROUNDS_MAX):
        if done.is_set():
            break
        await run.lab.cluster.scale("Deployment", "shop", "web", 21 if turn % 2 == 0 else 12)
        await asyncio.sleep(0.5)
    await run.lab.cluster.scale("Deployment", "shop", "web", 15)
