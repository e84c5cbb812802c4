"""A pool with exactly as many addresses as pods, in both families: every last one is found, from every node, without a failed attempt.

First the same with plenty of addresses, for the time. Then the tight pool over all nodes; then every pod is deleted and as many come up in another
workload on the upper half of the nodes, so that addresses must change nodes; at last some leave while others come.
"""

import asyncio
import ipaddress
import json

from e2e.lab import checks
from e2e.lab.ledger import Fate, timing
from e2e.lab.objects import Object
from e2e.lab.run import Finding, Run
from e2e.lab.runtime import shim_times
from e2e.lab.scenarios.story import everything_released

TITLE = "As many pods as addresses"
NODES = 10
AGENT_SETTINGS = {"lease": {"cooldownS": 5.0, "cooldownFloorS": 2.0}}
SIZE = 500
RATIO_TARGET = 1.25
RATIO_MAX = 2.0  # what fails: the target is for a quiet machine, and this one is often shared
PLENTY = 4
MOVING_SHARE = 6  # one pod of so many leaves in the last step
SETTLE_S = 180.0
FIRST_V4, FIRST_V6 = "10.6.50.1", "fd00:6::50:1"
PLENTY_V4, PLENTY_V6 = "10.6.100.1", "fd00:6::100:1"
UPPER = {"half": "upper"}


async def run(run: Run) -> None:
    size = run.size or SIZE
    cluster = run.lab.cluster
    names = list(run.lab.agents)
    for name in names[len(names) // 2 :]:
        await run.lab.api.patch("Node", name, "", {"metadata": {"labels": UPPER}})
    async with run.step(f"{size} pods, {PLENTY * size} addresses") as finding:
        await cluster.apply(pools("plenty", PLENTY_V4, PLENTY_V6, PLENTY * size))
        plenty_s = await _wave(run, finding, deployment("many", "plenty", size, pool_v6="plenty-v6"), size)
    await _gone(run)
    async with run.step(f"{size} pods, {size} addresses") as finding:
        await cluster.apply(pools("tight", FIRST_V4, FIRST_V6, size))
        moving = size // MOVING_SHARE
        leavers = deployment("leavers", "tight", moving, pool_v6="tight-v6")
        stayers = deployment("stayers", "tight", size - moving, pool_v6="tight-v6")
        tight_s = await _wave(run, finding, stayers, size, leavers)
        finding.note += f"; {tight_s / plenty_s:.2f} × the time with plenty (target: {RATIO_TARGET} at most)"
        finding.problems += too_slow(tight_s, plenty_s)
    await run.verify("addresses are unique, recorded, reachable")
    async with run.step(f"{moving} pods leave, {moving} come elsewhere") as finding:
        calls = len(run.lab.ledger.calls)
        await cluster.scale("Deployment", "default", "leavers", 0)
        await cluster.apply([deployment("comers", "tight", moving, pool_v6="tight-v6")])
        await asyncio.sleep(0.5)
        took = await cluster.wait_settled(SETTLE_S)
        finding.note = f"{took:.1f} s; {_attempts(run, calls, moving)}"
    await run.verify("addresses are unique, recorded, reachable")
    await _gone(run)
    async with run.step(f"all {size} again, on the upper half of the nodes") as finding:
        elsewhere = deployment("elsewhere", "tight", size, pool_v6="tight-v6", selector=UPPER)
        moved_s = await _wave(run, finding, elsewhere, size)
        finding.note += f"; {moved_s / plenty_s:.2f} × the time with plenty"
    await run.verify("addresses are unique, recorded, reachable")
    await everything_released(run)


def too_slow(tight_s: float, plenty_s: float) -> list[str]:
    """A problem if the tight pool cost far more time than one with plenty."""
    ratio = tight_s / plenty_s
    if ratio <= RATIO_MAX:
        return []
    return [f"{ratio:.2f} × the time with plenty: {RATIO_MAX} at most is bearable, {RATIO_TARGET} the target"]


async def _wave(run: Run, finding: Finding, workload: Object, size: int, *more: Object) -> float:
    """Applies and waits until all pods run; the seconds go into the finding's note with what our part of an ADD took."""
    cluster, calls, before = run.lab.cluster, len(run.lab.ledger.calls), await run.requests()
    await cluster.apply([workload, *more])
    took = await cluster.wait_until(
        lambda: len(cluster.pods()) >= size and cluster.settled(), SETTLE_S, cluster.describe
    )
    spent = (await run.requests()).since(before)
    finding.note = f"{took:.1f} s, {size / took:.1f} pods a second; {_attempts(run, calls, size)}"
    finding.note += f"; {spent.lease_writes / size:.2f} lease writes, {spent.total / size:.2f} requests a pod"
    finding.problems += checks.unique(await checks.look(cluster))
    return took


def _attempts(run: Run, calls: int, pods: int) -> str:
    """Of the ADDs since call number `calls`: how many were too many, and what our part of one took."""
    adds = [call for call in run.lab.ledger.calls[calls:] if call.verb == "ADD"]
    times = shim_times(run.lab.times)
    ours = timing(
        times[key]
        for call in adds
        if call.fate is Fate.OK and (key := ("ADD", call.container_id, call.interface)) in times
    )
    return f"{len(adds) - pods} failed attempts, our part of ADD p50 {ours.p50_ms:.0f} ms p99 {ours.p99_ms:.0f} ms"


async def _gone(run: Run) -> None:
    async with run.step("all of them deleted"):
        await run.lab.cluster.delete_workloads()
        await run.lab.cluster.wait_until(
            lambda: not run.lab.cluster.pods() and run.lab.cluster.settled(), SETTLE_S, run.lab.cluster.describe
        )


def pools(name: str, first_v4: str, first_v6: str, size: int) -> list[Object]:
    """A pool of `size` addresses for each family: `name` and `name`-v6."""
    v4, v6 = ipaddress.IPv4Address(first_v4), ipaddress.IPv6Address(first_v6)
    return [
        _pool(name, "10.6.0.0/16", "10.6.0.1", f"{v4}-{v4 + size - 1}"),
        _pool(f"{name}-v6", "fd00:6::/64", "fd00:6::1", f"{v6}-{v6 + size - 1}"),
    ]


def _pool(name: str, subnet: str, gateway: str, ips: str) -> Object:
    return {
        "apiVersion": "spiderpool.spidernet.io/v2beta1",
        "kind": "SpiderIPPool",
        "metadata": {"name": name},
        "spec": {"subnet": subnet, "gateway": gateway, "ips": [ips]},
    }


def deployment(
    name: str,
    pool: str,
    replicas: int,
    revision: str = "1",
    *,
    pool_v6: str = "",
    selector: dict[str, str] | None = None,
) -> Object:
    """Pods with an address of `pool`, and one of `pool_v6` if that is given; another `revision` is a rolling update."""
    labels = {"app": name}
    wanted = {"ipv4": [pool], **({"ipv6": [pool_v6]} if pool_v6 else {})}
    annotations = {"ipam.spidernet.io/ippool": json.dumps(wanted), "revision": revision}
    spec: Object = {"containers": [{"name": "main", "image": "busybox:1"}]}
    if selector:
        spec["nodeSelector"] = selector
    template = {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }
