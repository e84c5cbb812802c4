"""Pods of a StatefulSet keep their addresses on whichever node they start; a set that shrinks gives back those of the pods it no longer wants."""

import time

from e2e.lab import checks, labs
from e2e.lab.checks import LivePod
from e2e.lab.objects import Object
from e2e.lab.run import Run
from e2e.lab.scenarios.story import SETTLE_S, SWEPT_S, everything_released

TITLE = "StatefulSet pods keep their addresses"
NODES = 3
MOVING = ("data", "db-1")
SHRUNK_TO = 2
SHRUNK_AWAY = {"cache-2", "cache-3"}


async def run(run: Run) -> None:
    lab, cluster = run.lab, run.lab.cluster
    async with run.step("two StatefulSets, every pod Running"):
        await cluster.apply([thing for thing in labs.manifests() if _belongs(thing)])
        await cluster.wait_until(lambda: len(cluster.pods()) > 0 and cluster.settled(), SETTLE_S, cluster.describe)
    before = await run.verify("addresses are unique, recorded, reachable")
    async with run.step(f"{'/'.join(MOVING)} is deleted while its node is cordoned") as finding:
        was = _find(before)
        await lab.api.patch("Node", was.node, "", {"spec": {"unschedulable": True}})
        await lab.api.delete("Pod", MOVING[1], MOVING[0])
        begun = time.monotonic()
        await cluster.wait_until(lambda: _is_back(run, was), SETTLE_S, cluster.describe)
        await cluster.wait_settled(SETTLE_S)
        now = _find(await checks.look(cluster))
        await lab.api.patch("Node", was.node, "", {"spec": {"unschedulable": False}})
        finding.note = f"{was.node} → {now.node} in {time.monotonic() - begun:.1f} s with {' and '.join(now.addresses)}"
        if now.node == was.node or now.addresses != was.addresses:
            finding.problems.append(f"was {was.addresses} on {was.node}")
    await run.verify("addresses are unique, recorded, reachable")
    async with run.step(f"data/cache shrinks to {SHRUNK_TO} pods") as finding:
        await cluster.scale("StatefulSet", "data", "cache", SHRUNK_TO)
        took = await run.until(lambda: _let_go(run), SETTLE_S + SWEPT_S, "pins and records of the pods that went")
        finding.note = f"pins and records of {len(SHRUNK_AWAY)} pods gone after {took:.1f} s"
    await run.verify("addresses are unique, recorded, reachable")
    await everything_released(run)


def _belongs(thing: Object) -> bool:
    return thing["kind"] not in ("Deployment", "Pod")


def _find(pods: list[LivePod]) -> LivePod:
    return next(pod for pod in pods if pod.key == MOVING)


def _is_back(run: Run, was: LivePod) -> bool:
    pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in run.lab.cluster.pods()}
    return pods.get(MOVING[1], was.uid) != was.uid and run.lab.cluster.settled()


async def _let_go(run: Run) -> bool:
    endpoints, _ = await run.lab.api.list("SpiderEndpoint")
    blocks, _ = await run.lab.api.list("IPBlock")
    pinned = {pin["owner"]["name"] for block in blocks for pin in block["spec"].get("pins") or ()}
    return not SHRUNK_AWAY & (pinned | {item["metadata"]["name"] for item in endpoints}) and run.lab.cluster.settled()
