"""A pool with exactly as many addresses as pods: every last one is found, from every node, without a failed attempt.

Then pods move: as many leave as come, in another workload on other nodes, so that the addresses they free must change nodes to be of use.
"""

import asyncio
import json

from e2e.lab.objects import Object
from e2e.lab.report import count_requests
from e2e.lab.run import Run
from e2e.lab.scenarios.story import everything_released

TITLE = "As many pods as addresses"
NODES = 5
AGENT_SETTINGS = {"lease": {"cooldownS": 5.0, "cooldownFloorS": 2.0}}
ADDRESSES = 120
MOVING = 20
SETTLE_S = 120.0
POOL: Object = {
    "apiVersion": "spiderpool.spidernet.io/v2beta1",
    "kind": "SpiderIPPool",
    "metadata": {"name": "tight"},
    "spec": {"subnet": "10.6.0.0/16", "gateway": "10.6.0.1", "ips": [f"10.6.50.1-10.6.50.{ADDRESSES}"]},
}


async def run(run: Run) -> None:
    cluster = run.lab.cluster
    async with run.step(f"{ADDRESSES} pods, {ADDRESSES} addresses") as finding:
        before = await _requests(run)
        await cluster.apply(
            [POOL, deployment("stayers", "tight", ADDRESSES - MOVING), deployment("leavers", "tight", MOVING)]
        )
        took = await cluster.wait_until(
            lambda: len(cluster.pods()) >= ADDRESSES and cluster.settled(), SETTLE_S, cluster.describe
        )
        requests = await _requests(run) - before
        finding.note = f"{ADDRESSES / took:.1f} pods a second, {requests / ADDRESSES:.2f} API requests a pod"
    await run.verify("addresses are unique, recorded, reachable")
    async with run.step(f"{MOVING} pods leave, {MOVING} come elsewhere") as finding:
        before, calls = await _requests(run), len(run.lab.ledger.calls)
        await cluster.scale("Deployment", "default", "leavers", 0)
        await cluster.apply([deployment("comers", "tight", MOVING)])
        await asyncio.sleep(0.5)
        took = await cluster.wait_settled(SETTLE_S)
        requests = await _requests(run) - before
        attempts = sum(1 for call in run.lab.ledger.calls[calls:] if call.verb == "ADD") - MOVING
        finding.note = f"{took:.1f} s, {attempts} attempts too many, {requests / MOVING:.2f} API requests a pod"
    await run.verify("addresses are unique, recorded, reachable")
    await everything_released(run)


async def _requests(run: Run) -> int:
    counted = count_requests(await run.lab.server.requests(), 0)
    return counted.total if counted is not None else 0


def deployment(name: str, pool: str, replicas: int, revision: str = "1") -> Object:
    """Pods with one IPv4 address of `pool`; another `revision` is a rolling update."""
    labels = {"app": name}
    annotations = {"ipam.spidernet.io/ippool": json.dumps({"ipv4": [pool]}), "revision": revision}
    containers = [{"name": "main", "image": "busybox:1"}]
    template = {"metadata": {"labels": labels, "annotations": annotations}, "spec": {"containers": containers}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }
