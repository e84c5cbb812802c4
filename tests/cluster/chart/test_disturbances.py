"""What happens to the chart's programs in a cluster's life: updates, kills, restarts, drains, crashes, outages of the API server.

After each disturbance: pods run again within a bound, no address is held twice, `nephila fsck` finds nothing, and once the pods are gone no agent
holds an address.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from e2e.cluster.nodes.bench import check_distinct
from e2e.cluster.nodes.chart import LEADER_PODS, ChartInstallation
from e2e.cluster.nodes.churn import Churn
from e2e.cluster.nodes.kube import Kube, address_of
from e2e.cluster.nodes.labs import RealCluster
from tests.cluster.chart import MARKS, sound
from tests.cluster.workloads import COME_AGAIN, addresses, check_kept, end, endpoints_gone, kubectl, restarted, start

pytestmark = MARKS

# Bounds on recovery, seconds, from the moment the disturbance ends; two shared cores.
AFTER_DRAIN_S, AFTER_CRASH_S, AFTER_OUTAGE_S, AFTER_KUBELET_S, ROLLOUT_S = 60.0, 60.0, 60.0, 60.0, 120.0
Note = Callable[[str], None]


async def test_the_charts_agents_give_pods_their_addresses(cluster: RealCluster, api: Kube) -> None:
    deployment = await start(api, "web", 6)
    assert all(address_of(pod).startswith("10.6.1.") for pod in await api.pods("web"))
    await sound(cluster, 6)
    await end(api, deployment)
    await sound(cluster, 0)


async def test_a_rolling_update_of_the_daemon_set_under_load_fails_no_pod(
    nephila: ChartInstallation, cluster: RealCluster, api: Kube, note: Note
) -> None:
    async with Churn(api, "load", 12) as churn:
        took = await nephila.restart_agents()
    note(f"rolling update of 3 agents: {took:.1f} s, {churn.rebuilt} pods rebuilt meanwhile")
    assert took < ROLLOUT_S
    assert churn.rebuilt >= 5
    assert [words for words in churn.failures if not any(reason in words for reason in COME_AGAIN)] == []
    await endpoints_gone(api, "load")
    await sound(cluster, 0)


async def test_a_killed_agent_container_comes_back_by_kubelet_and_pods_start_meanwhile_elsewhere(
    nephila: ChartInstallation, cluster: RealCluster, api: Kube, note: Note
) -> None:
    deployment = await start(api, "calm", 6)
    before = await addresses(api, "calm")
    restarts = await nephila.agent_restarts()
    begun = time.monotonic()
    await nephila.kill_agent("node-1")
    more = await start(api, "later", 6)
    await nephila.rolled_out()
    note(f"agent's container killed: 6 new pods Running after {time.monotonic() - begun:.1f} s")
    after = await nephila.agent_restarts()
    assert after == restarts | {"node-1": restarts["node-1"] + 1}
    assert await addresses(api, "calm") == before
    check_distinct([*await api.pods("calm"), *await api.pods("later")])
    await sound(cluster, 12)
    await end(api, more)
    await end(api, deployment)
    await sound(cluster, 0)


async def test_kubelets_restart_without_a_change_and_new_pods_start(
    nephila: ChartInstallation, cluster: RealCluster, api: Kube, note: Note
) -> None:
    deployment = await start(api, "calm", 6)
    before, restarts = await addresses(api, "calm"), await nephila.agent_restarts()
    begun = time.monotonic()
    for node in cluster.nodes.values():
        await node.restart_kubelet()
    await cluster.ready(timeout_s=AFTER_KUBELET_S)
    more = await start(api, "later", 6)
    took = time.monotonic() - begun
    note(f"three kubelets restarted: Ready and 6 new pods Running after {took:.1f} s")
    assert took < AFTER_KUBELET_S
    assert await addresses(api, "calm") == before
    assert await nephila.agent_restarts() == restarts
    check_distinct([*await api.pods("calm"), *await api.pods("later")])
    await sound(cluster, 12)
    await end(api, more)
    await end(api, deployment)
    await sound(cluster, 0)


async def test_a_drained_nodes_pods_and_leader_move_and_its_agent_stays(
    nephila: ChartInstallation, cluster: RealCluster, api: Kube, note: Note
) -> None:
    deployment = await start(api, "mobile", 9)
    restarts = await nephila.agent_restarts()
    emptied = (await api.get(LEADER_PODS))["items"][0]["spec"]["nodeName"]
    begun = time.monotonic()
    await kubectl(cluster, "drain", emptied, "--ignore-daemonsets", "--force", "--timeout=60s")
    await api.running("mobile", 9, timeout_s=AFTER_DRAIN_S)
    note(f"drain of one of 3 nodes: 9 pods Running on the others after {time.monotonic() - begun:.1f} s")
    pods = await api.pods("mobile")
    check_distinct(pods)
    assert emptied not in {pod["spec"]["nodeName"] for pod in pods}
    assert set(await nephila.agent_restarts()) == set(restarts)
    await nephila.rolled_out()
    assert emptied not in {pod["spec"]["nodeName"] for pod in (await api.get(LEADER_PODS))["items"]}
    await sound(cluster, 9)
    await kubectl(cluster, "uncordon", emptied)
    await end(api, deployment)
    await sound(cluster, 0)


async def test_a_crashed_node_returns_with_its_agent_and_its_pods(
    nephila: ChartInstallation, cluster: RealCluster, api: Kube, note: Note
) -> None:
    """The node's first process is killed: kubelet, containerd, the agent's pod and all others end at once, then the node boots."""
    deployment = await start(api, "crash", 9)
    before = await api.pods("crash")
    lost = cluster.nodes["node-3"]
    await lost.stop()
    begun = time.monotonic()
    await lost.start()
    await restarted(api, "crash", lost.name, timeout_s=AFTER_CRASH_S)
    await nephila.rolled_out()
    note(f"node crashed and booted: its agent Ready and its pods Running after {time.monotonic() - begun:.1f} s")
    await check_kept(api, "crash", before, crashed=lost.name)
    await sound(cluster, 9)
    await end(api, deployment)
    await sound(cluster, 0)


async def test_etcd_and_the_api_server_restart_under_load_and_no_agent_does(
    nephila: ChartInstallation, cluster: RealCluster, api: Kube, note: Note
) -> None:
    deployment = await start(api, "steady", 6)
    before, restarts = await addresses(api, "steady"), await nephila.agent_restarts()
    await cluster.plane.restart_etcd(down_s=2.0)
    await cluster.plane.restart_apiserver(down_s=10.0)
    begun = time.monotonic()
    await cluster.ready(timeout_s=AFTER_OUTAGE_S)
    nodes = time.monotonic() - begun
    more = await start(api, "after", 6)
    pods = time.monotonic() - begun
    await nephila.rolled_out()
    took = time.monotonic() - begun
    note(
        f"etcd away 2 s, API server 10 s: since their return nodes Ready after {nodes:.1f} s, 6 new pods Running {pods:.1f} s, all Ready {took:.1f} s"
    )
    assert took < AFTER_OUTAGE_S
    assert await addresses(api, "steady") == before
    assert await nephila.agent_restarts() == restarts
    check_distinct([*await api.pods("steady"), *await api.pods("after")])
    await sound(cluster, 12)
    await end(api, more)
    await end(api, deployment)
    await sound(cluster, 0)
