"""Five hundred pods on ten nodes at once, one family, plenty of addresses: how fast, and whether everything still holds."""

import asyncio

from e2e.lab.objects import Object
from e2e.lab.run import Run
from e2e.lab.scenarios.story import everything_released
from e2e.lab.scenarios.tight import deployment

TITLE = "Five hundred pods on ten nodes"
NODES = 10
PODS = 500
SETTLE_S = 180.0
LEASE_WRITES_MAX = 0.1
POOL: Object = {
    "apiVersion": "spiderpool.spidernet.io/v2beta1",
    "kind": "SpiderIPPool",
    "metadata": {"name": "crowd"},
    "spec": {"subnet": "10.6.0.0/16", "gateway": "10.6.0.1", "ips": ["10.6.60.0-10.6.75.255"]},
}


async def run(run: Run) -> None:
    cluster = run.lab.cluster
    async with run.step(f"{PODS} pods") as finding:
        before = await run.requests()
        await cluster.apply([POOL, deployment("crowd", "crowd", PODS)])
        took = await cluster.wait_until(
            lambda: len(cluster.pods()) >= PODS and cluster.settled(), SETTLE_S, cluster.describe
        )
        spent = (await run.requests()).since(before)
        per_pod = spent.lease_writes / PODS
        finding.note = f"{PODS / took:.1f} pods a second; {per_pod:.3f} lease writes a pod ({LEASE_WRITES_MAX} at most)"
        if per_pod > LEASE_WRITES_MAX:
            finding.problems.append(f"{spent.lease_writes} lease writes for {PODS} pods")
    await run.verify("addresses are unique, recorded, reachable")
    async with run.step("rolling restart of all of them") as finding:
        await cluster.apply([deployment("crowd", "crowd", PODS, revision="2")])
        await asyncio.sleep(0.5)
        took = await cluster.wait_settled(SETTLE_S)
        finding.note = f"{PODS / took:.1f} pods a second"
    await run.verify("addresses are unique, recorded, reachable")
    await everything_released(run)
