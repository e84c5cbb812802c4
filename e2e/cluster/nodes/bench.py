"""What kubelets see: time until all pods run, with Nephila beside host-local, and in a pool that has no address to spare.

Same cluster, same run, rounds in turns. host-local is the floor: it writes one file per address and asks nobody.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from e2e.cluster.nodes import manifests, underlay
from e2e.cluster.nodes.agents import Installation
from e2e.cluster.nodes.kube import Kube, address_of, is_running
from e2e.cluster.nodes.labs import RealCluster
from e2e.cluster.program import ClusterFailed

NODES, PODS, ROUNDS = 3, 60, 3
LEASE = {"cooldownS": 5.0, "cooldownFloorS": 2.0}
APP = "bench"
GONE_TIMEOUT_S = 180.0
RUNNING_TIMEOUT_S = 240.0
# The product's defaults are 60 s and 10 s; the last rounds are with those.
POOLS = {"tight": f"10.6.3.1-10.6.3.{PODS}", "plenty": "10.6.4.1-10.6.4.240"}


@dataclass(slots=True)
class Figures:
    """Seconds of each round, by what was measured."""

    nodes: int = NODES
    pods: int = PODS
    ready_s: dict[str, float] = field(default_factory=dict)
    start_s: dict[str, list[float]] = field(default_factory=dict)
    rebuild_s: dict[str, list[float]] = field(default_factory=dict)
    rss_mib: dict[str, float] = field(default_factory=dict)

    def lines(self) -> list[str]:
        found = [f"{self.nodes} kubelets, {self.pods} pods; cluster ready: {self.ready_s}"]
        for title, rounds in (
            ("start, all Running", self.start_s),
            ("rebuild of all pods, all Running", self.rebuild_s),
        ):
            for name, values in rounds.items():
                each = " ".join(f"{value:.1f}" for value in values)
                found.append(f"{title:36} {name:24} median {statistics.median(values):6.1f} s   ({each})")
        for title, ratio in self.ratios().items():
            found.append(f"{title:36} {ratio:.2f}")
        found.append(f"no address was held twice; resident MiB a node: {self.rss_mib}")
        return found

    def ratios(self) -> dict[str, float]:
        """Of medians; only those of which both were measured."""
        wanted = {
            "start, Nephila to host-local": (self.start_s, "nephila", "host-local"),
            "rebuild, tight pool to plenty": (self.rebuild_s, "tight", "plenty"),
        }
        return {
            title: statistics.median(rounds[over]) / statistics.median(rounds[under])
            for title, (rounds, over, under) in wanted.items()
            if over in rounds and under in rounds
        }


class What(Enum):
    """The parts, each in turns of its own; together they take more than ten minutes."""

    STARTS = "starts"
    REBUILDS = "rebuilds"
    DEFAULTS = "defaults"  # rebuilds with the product's own cooldown
    ALL = "all"


async def run(rounds: int = ROUNDS, what: What = What.ALL) -> Figures:
    """Raises ClusterFailed if pods do not come up or an address is seen twice."""
    figures = Figures()
    async with RealCluster(NODES) as cluster:
        figures.ready_s = {name: round(seconds, 1) for name, seconds in cluster.timings_s.items()}
        nephila = Installation(cluster, {"lease": LEASE})
        await nephila.install()
        for name, ips in POOLS.items():
            await cluster.api.apply(manifests.pool(name, ips))
        await _start(
            "warm-up", cluster, (), Figures()
        )  # images unpacked, page cache filled: the same for all that follow
        if what in (What.STARTS, What.ALL):
            await _starts(nephila, rounds, figures)
        if what in (What.REBUILDS, What.ALL):
            await _rebuilds(nephila.cluster, rounds, figures)
        if what in (What.DEFAULTS, What.ALL):
            await nephila.reconfigure({})
            for pool in POOLS:
                await _rebuild(f"{pool}, default cooldown", pool, cluster, figures)
        names = ("agent", "kubelet", "containerd")
        figures.rss_mib = {name: round(cluster.nodes["node-1"].rss_bytes(name) / 2**20, 1) for name in names}
    return figures


async def _starts(nephila: Installation, rounds: int, figures: Figures) -> None:
    for number in range(rounds):
        for kind in ("host-local", "nephila") if number % 2 == 0 else ("nephila", "host-local"):
            await _use(kind, nephila)
            await _start(kind, nephila.cluster, (), figures)
    await _use("nephila", nephila)


async def _rebuilds(cluster: RealCluster, rounds: int, figures: Figures) -> None:
    for number in range(rounds):
        for pool in ("plenty", "tight") if number % 2 == 0 else ("tight", "plenty"):
            await _rebuild(pool, pool, cluster, figures)


async def _use(kind: str, nephila: Installation) -> None:
    if kind == "nephila":
        nephila.use()
    else:
        for node in nephila.cluster.nodes.values():
            node.set_network(underlay.floor_network(node.name))
    await asyncio.sleep(1.0)  # containerd reads the file when the kernel tells it


async def _start(kind: str, cluster: RealCluster, pools: Sequence[str], figures: Figures) -> None:
    deployment = manifests.workload("Deployment", APP, PODS, manifests.pod_template(APP, pools=pools))
    begun = time.monotonic()
    await cluster.api.apply(deployment)
    await cluster.api.running(APP, PODS, timeout_s=RUNNING_TIMEOUT_S)
    figures.start_s.setdefault(kind, []).append(time.monotonic() - begun)
    check_distinct(await cluster.api.pods(APP))
    await _remove(cluster.api, deployment)


async def _rebuild(title: str, pool: str, cluster: RealCluster, figures: Figures) -> None:
    """All pods deleted at once, as by a rollout without surge limits; with `tight` every address is in use when their successors come."""
    template = manifests.pod_template(APP, pools=(pool,))
    deployment = manifests.workload("Deployment", APP, PODS, template)
    await cluster.api.apply(deployment)
    await cluster.api.running(APP, PODS, timeout_s=RUNNING_TIMEOUT_S)
    before = {pod["metadata"]["uid"] for pod in await cluster.api.pods(APP)}
    begun = time.monotonic()
    await cluster.api.delete_pods(APP, grace_s=manifests.GRACE_S)
    while True:
        pods = await cluster.api.pods(APP)
        fresh = [pod for pod in pods if pod["metadata"]["uid"] not in before]
        if len(fresh) == PODS and all(is_running(pod) for pod in fresh):
            break
        if time.monotonic() - begun > RUNNING_TIMEOUT_S:
            await cluster.api.running(APP, PODS, timeout_s=0.0)  # raises with the states and the newest warnings
        await asyncio.sleep(0.2)
    figures.rebuild_s.setdefault(title, []).append(time.monotonic() - begun)
    check_distinct(await cluster.api.pods(APP))
    await _remove(cluster.api, deployment)


async def _remove(api: Kube, deployment: manifests.Object) -> None:
    await api.delete(deployment)
    await api.gone(APP, timeout_s=GONE_TIMEOUT_S)
    await asyncio.sleep(LEASE["cooldownS"])


def check_distinct(pods: Sequence[Mapping[str, Any]]) -> None:
    """Raises ClusterFailed if two pods that run have one address (I4)."""
    held = Counter(address_of(pod) for pod in pods if is_running(pod))
    doubles = {address: count for address, count in held.items() if count > 1}
    if doubles:
        raise ClusterFailed(f"addresses held twice: {doubles}")


def as_json(figures: Figures) -> str:
    return json.dumps(
        {
            "nodes": figures.nodes,
            "pods": figures.pods,
            "ready_s": figures.ready_s,
            "start_s": figures.start_s,
            "rebuild_s": figures.rebuild_s,
            "ratios": figures.ratios(),
            "rss_mib": figures.rss_mib,
        },
        indent=1,
    )
