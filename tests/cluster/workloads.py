"""What the tests on real nodes do with workloads, in a few words."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster.nodes import manifests
from e2e.cluster.nodes.bench import check_distinct
from e2e.cluster.nodes.kube import Kube, Object, address_of, is_running
from e2e.cluster.nodes.labs import RealCluster

KUBECTL = Path(sys.executable).with_name("kubectl")
GONE_S = 20.0
# What containerd tells kubelet while a node's agent is away: come again (CNI code 11). Nothing else may fail.
COME_AGAIN = ("AgentUnreachable", "the agent is starting")


async def start(api: Kube, app: str, count: int, *, pools: tuple[str, ...] = (), **spec: object) -> Object:
    """A Deployment of which all pods run; gives the manifest."""
    template = manifests.pod_template(app, pools=pools, **spec)  # type: ignore[arg-type]
    deployment = manifests.workload("Deployment", app, count, template)
    await api.apply(deployment)
    await api.running(app, count)
    check_distinct(await api.pods(app))
    return deployment


async def end(api: Kube, thing: Object) -> None:
    """Removes the workload; returns when its pods are gone and no address is held for them."""
    await api.delete(thing)
    await api.gone(thing["metadata"]["name"])
    await endpoints_gone(api, thing["metadata"]["name"])


async def endpoints_gone(api: Kube, app: str) -> None:
    path = "/apis/spiderpool.spidernet.io/v2beta1/spiderendpoints"
    async with asyncio.timeout(GONE_S):
        while any(item["metadata"]["name"].startswith(f"{app}-") for item in (await api.get(path))["items"]):
            await asyncio.sleep(0.2)


async def rebuild(api: Kube, app: str, count: int) -> None:
    """Deletes the workload's pods; returns when as many new ones run."""
    uids = {pod["metadata"]["uid"] for pod in await api.pods(app)}
    await api.delete_pods(app, grace_s=manifests.GRACE_S)
    await api.until(
        app,
        lambda pods: len(pods) == count and all(is_running(pod) and pod["metadata"]["uid"] not in uids for pod in pods),
        timeout_s=60.0,
        what=f"{count} new pods Running",
    )


async def restarted(api: Kube, app: str, node: str, *, timeout_s: float) -> None:
    """Returns when the containers of the workload's pods on that node have been started anew."""

    def again(pods: Sequence[Object]) -> bool:
        there = [pod for pod in pods if pod["spec"]["nodeName"] == node]
        return all(is_running(pod) and pod["status"]["containerStatuses"][0]["restartCount"] > 0 for pod in there)

    await api.until(app, again, timeout_s=timeout_s, what=f"{node}'s pods restarted")


async def check_kept(api: Kube, app: str, before: Sequence[Object], *, crashed: str) -> None:
    """The same pods as `before`, no address twice, and those on other nodes than the crashed one kept theirs.

    A runtime that lost its sandboxes calls DEL for each before it makes new ones, so the crashed node's addresses rest meanwhile.
    """
    after = await api.pods(app)
    check_distinct(after)
    had = {pod["metadata"]["name"]: address_of(pod) for pod in before}
    assert {pod["metadata"]["name"] for pod in after} == set(had)
    for pod in after:
        if pod["spec"]["nodeName"] != crashed:
            assert address_of(pod) == had[pod["metadata"]["name"]]


async def addresses(api: Kube, app: str) -> dict[str, str]:
    return {pod["metadata"]["name"]: address_of(pod) for pod in await api.pods(app)}


async def clear(cluster: RealCluster) -> None:
    """What a failed test leaves would fail the next ones too."""
    client = cluster.plane.client()
    for path in ("apps/v1/namespaces/default/{}", "batch/v1/namespaces/default/{}"):
        for plural in ("deployments", "statefulsets") if path.startswith("apps") else ("jobs",):
            await client.request("DELETE", f"/apis/{path.format(plural)}?propagationPolicy=Background")
    await client.request("DELETE", "/api/v1/namespaces/default/pods?gracePeriodSeconds=1")
    async with asyncio.timeout(60.0):
        while (await cluster.api.get("/api/v1/namespaces/default/pods"))["items"]:
            await asyncio.sleep(0.2)


async def kubectl(cluster: RealCluster, *words: str, timeout_s: float = 60.0) -> str:
    command = [str(KUBECTL), f"--kubeconfig={cluster.plane.kubeconfig}", *words]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


async def links(cluster: RealCluster, pod: str) -> dict[str, str]:
    """The IPv4 address of each interface, as seen inside the pod."""
    said = await kubectl(cluster, "exec", pod, "--", "ip", "-4", "-o", "addr")
    return {line.split()[1]: line.split()[3].partition("/")[0] for line in said.splitlines()}
