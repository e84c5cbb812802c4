"""One node, one sandbox after the other: what an ADD and a DEL cost when nothing else runs, with addresses at hand."""

import asyncio
import time

from e2e.lab import checks, netns
from e2e.lab.labs import MANIFESTS
from e2e.lab.ledger import Call, Fate
from e2e.lab.networks import load_conflist, on_node
from e2e.lab.objects import Object, uid_of
from e2e.lab.run import Run
from e2e.lab.runtime import Attachment, Sandbox
from e2e.lab.scenarios.crowd import POOL

TITLE = "ADD and DEL one by one"
NODES = 1
NODE = "node-1"
SANDBOXES = 100
WARMING_S = 1.0
PODS_AT_ONCE = 10


async def run(run: Run) -> None:
    lab = run.lab
    lab.cluster.kubelets.clear()  # the scenario is the runtime
    agent = lab.agents[NODE]
    attachment = Attachment(on_node(load_conflist(MANIFESTS / "underlay.conflist"), agent.socket), "eth0")
    async with run.step("pool and pods made"):
        await lab.cluster.apply([POOL])
        pods = [await lab.api.apply(_pod(f"pod-{number}")) for number in range(PODS_AT_ONCE)]
        await asyncio.sleep(WARMING_S)
    async with run.step(f"{SANDBOXES} sandboxes of {PODS_AT_ONCE} pods, one after the other") as finding:
        for number in range(SANDBOXES):
            pod = pods[number % PODS_AT_ONCE]
            name = lab.fabric.pod_ns(f"pace-{number}")
            path = await asyncio.to_thread(netns.create, name)
            sandbox = Sandbox(f"{number:064x}", path, "default", pod["metadata"]["name"], uid_of(pod))
            begun = time.monotonic()
            result, _ = await agent.executor.add(sandbox, attachment)
            added = time.monotonic()
            await agent.executor.delete(sandbox, attachment, result)
            deleted = time.monotonic()
            netns.delete(name)
            for verb, start, end in (("ADD", begun, added), ("DEL", added, deleted)):
                lab.ledger.record(
                    Call(verb, "default", sandbox.pod, NODE, sandbox.container_id, "eth0", start, end, Fate.OK)
                )
        finding.problems += await checks.held(lab.journals(), [])


def _pod(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "annotations": {"ipam.spidernet.io/ippool": '{"ipv4": ["crowd"]}'},
        },
        "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "busybox:1"}]},
    }
