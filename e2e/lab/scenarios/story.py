"""The whole life once: manifests as a Spiderpool user writes them, pods on three nodes, an agent killed in the middle, everything released."""

import asyncio
import time
from collections.abc import Mapping

from e2e.lab import checks, labs, outcomes
from e2e.lab.ledger import Fate
from e2e.lab.run import Run

TITLE = "The whole life of addresses"
NODES = 3
SETTLE_S = 90.0
OUTAGE_S = 1.0
SWEPT_S = 30.0  # the leader's: two looks at every orphan, after a failover if its node was the victim
VICTIM = "node-2"
WORKLOADS = ("Pod", "Deployment", "StatefulSet")
WARM_PER_NODE, WARM_S = 8, 60.0


async def run(run: Run) -> None:
    cluster = run.lab.cluster
    workloads = [thing for thing in labs.manifests() if thing["kind"] in WORKLOADS]
    async with run.step("pools applied, addresses leased and verified ahead") as finding:
        await cluster.apply(thing for thing in labs.manifests() if thing["kind"] not in WORKLOADS)
        finding.note = await _warmed(run)
    async with run.step("workloads applied, every pod Running") as finding:
        await cluster.apply(workloads)
        took = await cluster.wait_until(
            lambda: len(cluster.pods()) > 0 and cluster.settled(), SETTLE_S, cluster.describe
        )
        finding.note = f"{len(cluster.pods())} pods, {len(cluster.pods()) / took:.1f} a second"
    before = await run.verify("addresses are unique, recorded, reachable")

    async with run.step(f"agent of {VICTIM} killed with -9 amid ADDs and DELs") as finding:
        under_way = await _wave(run)
        if not under_way:
            finding.problems.append(f"no call was under way on {VICTIM} while its agent was away: nothing was tried")
        retries = len(run.lab.ledger.of("ADD", Fate.AGENT_DOWN)) + len(run.lab.ledger.of("DEL", Fate.AGENT_DOWN))
        finding.note = f"{under_way} calls under way meanwhile; {retries} failed and were retried by the runtime"
    after = await run.verify("nothing lost, nothing doubled")
    async with run.step("pods that lived through it kept their addresses") as finding:
        finding.problems += checks.kept(before, after)
        finding.note = f"{len({pod.uid for pod in before} & {pod.uid for pod in after})} pods"

    async with run.step("scaled back") as finding:
        for kind, namespace, name, replicas in (
            ("Deployment", "shop", "web", 15),
            ("Deployment", "shop", "api", 9),
            ("Deployment", "data", "worker", 8),
        ):
            await cluster.scale(kind, namespace, name, replicas)
        await asyncio.sleep(0.3)
        await cluster.wait_settled(SETTLE_S)
    await run.verify("addresses are unique, recorded, reachable")
    await everything_released(run)


async def _warmed(run: Run) -> str:
    """Waits until every node holds verified addresses of some pool, before any pod asks. Raises TimeoutError."""
    held: dict[str, Mapping[str, int]] = {}

    async def met() -> bool:
        for node in run.lab.agents:
            held[node] = await outcomes.verified(run.lab.fabric.node_ns(node))
        return all(max(ready.values(), default=0) >= WARM_PER_NODE for ready in held.values())

    await run.until(met, WARM_S, f"{WARM_PER_NODE} verified addresses of one pool on every node")
    return "; ".join(f"{node}: {sum(ready.values())}" for node, ready in held.items())


async def _wave(run: Run) -> int:
    """Scales up and down at once, and kills the agent when calls are under way on its node; returns how many were, while it was away."""
    lab, cluster = run.lab, run.lab.cluster
    victim = lab.agents[VICTIM]
    seen = len(lab.ledger.calls)
    for kind, namespace, name, replicas in (
        ("Deployment", "shop", "api", 3),
        ("Deployment", "shop", "web", 30),
        ("Deployment", "data", "worker", 16),
    ):
        await cluster.scale(kind, namespace, name, replicas)
    await cluster.wait_until(
        lambda: sum(1 for call in lab.ledger.calls[seen:] if call.node == VICTIM) >= 2,
        SETTLE_S,
        lambda: f"no call reached {VICTIM}",
    )
    killed_at = time.monotonic()
    victim.kill()
    await asyncio.sleep(OUTAGE_S)
    victim.start()
    await victim.ready()
    ready_at = time.monotonic()
    await cluster.wait_settled(SETTLE_S)
    calls = (call for call in lab.ledger.calls if call.node == VICTIM)
    return sum(call.begun < ready_at and call.ended > killed_at for call in calls)


async def everything_released(run: Run) -> None:
    """Deletes all workloads; then no address may be held by anybody, and soon no SpiderEndpoint and no pin be left."""
    lab = run.lab
    async with run.step("everything deleted, every address free again") as finding:
        await lab.cluster.delete_workloads()
        await lab.cluster.wait_until(
            lambda: not lab.cluster.pods() and lab.cluster.settled(), SETTLE_S, lab.cluster.describe
        )
        finding.problems += await checks.held(lab.journals(), [])
        begun = time.monotonic()
        finding.problems += await checks.nothing_remains(lab.api, SWEPT_S)
        finding.note = f"records and pins of StatefulSets gone {time.monotonic() - begun:.1f} s later"
