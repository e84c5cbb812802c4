"""A node loses the API server while its pods live and answer on the segment; the control plane gives its pods up, the wire does not.

The node stops handing out addresses after its lease time; the leader takes by force the addresses of pods that are gone from the API; whoever claims
them probes first, finds them in use and holds them back. No address is ever on two pods. When the cut heals, everything converges.
"""

import asyncio
import time
import uuid

from e2e.lab import checks, netns, stock
from e2e.lab.labs import MANIFESTS
from e2e.lab.ledger import Fate
from e2e.lab.networks import load_conflist, on_node
from e2e.lab.objects import Object, uid_of
from e2e.lab.run import Run
from e2e.lab.runtime import Attachment, CniFailure, Sandbox
from e2e.lab.scenarios.node_death import AGENT_SETTINGS as DEATH_SETTINGS
from e2e.lab.scenarios.node_death import LEADER_SETTINGS as LEADER_SETTINGS
from e2e.lab.scenarios.node_death import LEASE_S, WAIT_S
from e2e.lab.scenarios.story import SETTLE_S, everything_released
from e2e.lab.scenarios.tight import deployment, pools

TITLE = "A node loses the API server, its pods live on"
NODES = 3
AGENT_SETTINGS = {**DEATH_SETTINGS, "probe": {"retestS": 0.5}}
VICTIM = "node-3"
SIZE, PODS = 40, 30
MORE = 4  # so many pods can only get addresses of those that the API has given up
CUT_S = 120.0
UNREACHABLE: Object = {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}


async def run(run: Run) -> None:
    lab, cluster = run.lab, run.lab.cluster
    kubelet = cluster.kubelets[VICTIM]
    async with run.step(f"{PODS} pods on {len(lab.agents)} nodes, {SIZE} addresses"):
        pool = pools("scarce", "10.6.96.1", "fd00:6::96:1", SIZE)[0]
        await cluster.apply(
            [pool, *pools("own", "10.6.97.1", "fd00:6::97:1", 200)[:1], deployment("app", "scarce", PODS)]
        )
        await cluster.wait_until(lambda: len(cluster.pods()) >= PODS and cluster.settled(), SETTLE_S, cluster.describe)
    await run.verify("addresses are unique, recorded, reachable")
    async with run.step(
        f"{VICTIM} is cut off: it serves from its leases, and stops when their time is over"
    ) as finding:
        kubelet.cut_off()
        late = [await lab.api.apply(_bare_pod(f"late-{number}")) for number in range(2)]
        await asyncio.sleep(1.0)  # the agent sees the pods and has addresses for them
        lab.proxies[VICTIM].cut(seconds=CUT_S)
        cut = time.monotonic()
        early = await _add(run, late[0])
        await asyncio.sleep(LEASE_S + 0.5)
        refused = await _add(run, late[1])
        finding.note = f"ADD at once: {early or 'served'}; {time.monotonic() - cut:.1f} s later: {refused or 'served'}"
        if early:
            finding.problems.append("an ADD within the lease time failed")
        if not refused:
            finding.problems.append("an ADD was served after the lease time")
    async with run.step("its pods are given up; their addresses are taken by force, and found in use") as finding:
        await cluster.taint(VICTIM, UNREACHABLE)
        lab.ledger.scarce = "the addresses that are left are in use by pods that the API has given up"
        await cluster.evict(VICTIM)
        await cluster.scale("Deployment", "default", "app", PODS + MORE)
        quarantined_s = await run.until(lambda: _some_quarantined(run), 4 * WAIT_S, "a suspect found in use")
        await asyncio.sleep(2.0)
        pods = await checks.look(cluster)
        finding.problems += checks.unique(pods)
        here = sum(1 for pod in pods if pod.node == VICTIM)
        finding.note = (
            f"{here} pods still live there; first suspect in quarantine after {quarantined_s:.1f} s, "
            f"{await stock.quarantined(lab.api, ['scarce'])} in all"
        )
    async with run.step("the cut heals: everything converges") as finding:
        lab.proxies[VICTIM].heal()
        await cluster.taint(VICTIM)
        kubelet.reconnect()
        took = await cluster.wait_settled(SETTLE_S)
        lab.ledger.scarce = ""
        finding.note = f"{took:.1f} s; {len(lab.ledger.of('ADD', Fate.REFUSED))} ADDs were refused meanwhile"
    await run.verify("addresses are unique, recorded, reachable")
    await everything_released(run)


async def _some_quarantined(run: Run) -> bool:
    finding = checks.unique(await checks.look(run.lab.cluster))
    if finding:
        raise RuntimeError("; ".join(finding))
    return await stock.quarantined(run.lab.api, ["scarce"]) > 0


async def _add(run: Run, pod: Object) -> str:
    """One ADD on the node that is cut off, by a runtime that knows the pod; "" if it was served, else the plugin's words."""
    agent = run.lab.agents[VICTIM]
    attachment = Attachment(on_node(load_conflist(MANIFESTS / "underlay.conflist"), agent.socket), "eth0")
    container = uuid.uuid4().hex + uuid.uuid4().hex
    path = await asyncio.to_thread(netns.create, run.lab.fabric.pod_ns(container[:12]))
    sandbox = Sandbox(container, path, "default", pod["metadata"]["name"], uid_of(pod))
    try:
        result, _ = await agent.executor.add(sandbox, attachment)
    except CniFailure as failure:
        return str(failure)
    else:
        await agent.executor.delete(sandbox, attachment, result)
        return ""
    finally:
        await asyncio.to_thread(netns.delete, path.name)


def _bare_pod(name: str) -> Object:
    annotations = {"ipam.spidernet.io/ippool": '{"ipv4": ["own"]}'}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {"nodeName": VICTIM, "containers": [{"name": "main", "image": "busybox:1"}]},
    }
