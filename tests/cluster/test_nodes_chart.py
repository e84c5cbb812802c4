"""The chart and the image on real nodes: what a user installs, and what happens to it in a cluster's life.

Needs `tools/image build`; skips, with the reason, where the image was not built. After each disturbance: pods run again within a bound, no address is
held twice, `nephila fsck` finds nothing, and once the pods are gone no agent holds an address.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import pytest_asyncio

from e2e.cluster.binaries import Binaries
from e2e.cluster.nodes import agents, manifests, multus, settings
from e2e.cluster.nodes.bench import check_distinct
from e2e.cluster.nodes.chart import AGENT_PORT, IMAGE, LEADER_PODS, ChartInstallation
from e2e.cluster.nodes.churn import Churn
from e2e.cluster.nodes.kube import Kube, Object, address_of, is_running
from e2e.cluster.nodes.labs import RealCluster
from e2e.cluster.nodes.soundness import until_sound
from tests.cluster.workloads import COME_AGAIN, addresses, clear, end, endpoints_gone, kubectl, links, start

pytestmark = [
    pytest.mark.nodes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(420),
    pytest.mark.skipif(not IMAGE.exists(), reason="build/nephila.tar is not there: run tools/image build"),
]

LEASE = {"heartbeatS": 5.0, "leaseS": 60.0, "cooldownS": 5.0, "cooldownFloorS": 2.0}
SWEEP = {"periodS": 2.0, "orphanS": 4.0}
# Bounds on recovery, seconds, from the moment the disturbance ends; two shared cores.
AFTER_DRAIN_S, AFTER_CRASH_S, AFTER_OUTAGE_S, AFTER_KUBELET_S, ROLLOUT_S = 60.0, 60.0, 60.0, 60.0, 120.0
Note = Callable[[str], None]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nephila(binaries: Binaries) -> AsyncIterator[ChartInstallation]:
    cluster = RealCluster(3, binaries)
    async with cluster:
        installation = ChartInstallation(cluster, {"lease": LEASE}, {"sweep": SWEEP})
        await installation.install()
        yield installation
    assert cluster.leftovers() == []


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def tidy(nephila: ChartInstallation) -> AsyncIterator[None]:
    yield
    nephila.use()
    await clear(nephila.cluster)


@pytest.fixture
def cluster(nephila: ChartInstallation) -> RealCluster:
    return nephila.cluster


@pytest.fixture
def api(cluster: RealCluster) -> Kube:
    return cluster.api


async def sound(cluster: RealCluster, pods: int) -> None:
    """fsck finds nothing, and agents hold what these pods use: no more (a leak), no less (a pod that nobody protects)."""
    await until_sound(cluster, port=AGENT_PORT, pods=pods)


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
    before = {pod["metadata"]["name"]: pod for pod in await api.pods("crash")}
    lost = cluster.nodes["node-3"]
    await lost.stop()
    begun = time.monotonic()
    await lost.start()

    def restarted(pods: Sequence[Object]) -> bool:
        there = [pod for pod in pods if pod["spec"]["nodeName"] == "node-3"]
        return all(is_running(pod) and pod["status"]["containerStatuses"][0]["restartCount"] > 0 for pod in there)

    await api.until("crash", restarted, timeout_s=AFTER_CRASH_S, what="node-3's pods restarted")
    await nephila.rolled_out()
    note(f"node crashed and booted: its agent Ready and its pods Running after {time.monotonic() - begun:.1f} s")
    after = await api.pods("crash")
    check_distinct(after)
    assert {pod["metadata"]["name"] for pod in after} == set(before)
    for pod in after:
        if pod["spec"]["nodeName"] != "node-3":
            assert address_of(pod) == address_of(before[pod["metadata"]["name"]])
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


# Multus: the real one, for a second interface ----------------------------------------------------------------------------------------------


async def through_multus(nephila: ChartInstallation) -> None:
    """Multus in front on every node; eth0 from the default pool, and a NetworkAttachmentDefinition `second` whose pool serves nobody else."""
    cluster = nephila.cluster
    # Two links of a pod on one segment: each must answer for its own address only.
    tuning = {"type": "tuning", "sysctl": {"net.ipv4.conf.all.arp_ignore": "1", "net.ipv4.conf.all.arp_announce": "2"}}
    first = settings.macvlan(settings.nephila([agents.DEFAULT_POOL]))
    await multus.install(cluster, multus.ensure(), json.loads(settings.conflist("underlay", [first, tuning])))
    await cluster.api.apply(manifests.pool("second", "10.6.2.101-10.6.2.120", multusName=["default/second"]))
    await cluster.api.apply(multus.definition("second", settings.macvlan(settings.nephila(["second"]))))


def attached(app: str, pools: dict[str, str] | None = None) -> dict[str, object]:
    """A pod template with a second network, and Spiderpool's annotation if `pools` (by interface) is given."""
    template = manifests.pod_template(app)
    template["metadata"]["annotations"] = {multus.NETWORKS: "default/second"}
    if pools:
        named = [{"interface": name, "ipv4": [pool]} for name, pool in pools.items()]
        template["metadata"]["annotations"]["ipam.spidernet.io/ippools"] = json.dumps(named)
    return template


async def test_multus_attaches_a_second_interface_of_the_networks_own_pool(
    nephila: ChartInstallation, cluster: RealCluster, api: Kube
) -> None:
    await through_multus(nephila)
    deployment = manifests.workload("Deployment", "two", 3, attached("two"))
    await api.apply(deployment)
    await api.running("two", 3)
    for pod in await api.pods("two"):
        inside = await links(cluster, pod["metadata"]["name"])
        assert inside["eth0"] == address_of(pod)
        assert inside["eth0"].startswith("10.6.1.")
        assert inside["net1"].startswith("10.6.2.1")
        told = {one["interface"]: one["ips"] for one in json.loads(pod["metadata"]["annotations"][multus.STATUS])}
        assert told == {name: [address] for name, address in inside.items() if name != "lo"}
    await sound(cluster, 6)  # two interfaces each
    await end(api, deployment)
    await sound(cluster, 0)


async def test_spiderpools_annotation_chooses_the_pool_of_each_of_multus_interfaces_and_they_stay_over_a_rebuild(
    nephila: ChartInstallation, cluster: RealCluster, api: Kube
) -> None:
    await through_multus(nephila)
    await api.apply(manifests.pool("chosen", "10.6.2.21-10.6.2.40"))
    template = attached("db", {"eth0": "chosen", "net1": "second"})
    await api.apply(stateful := manifests.stateful_set("db", 3, template))
    await api.running("db", 3)
    before = {pod["metadata"]["name"]: await links(cluster, pod["metadata"]["name"]) for pod in await api.pods("db")}
    for inside in before.values():
        assert inside["eth0"].startswith("10.6.2.2") or inside["eth0"].startswith("10.6.2.3")
        assert inside["net1"].startswith("10.6.2.1")
    uids = {pod["metadata"]["uid"] for pod in await api.pods("db")}
    await api.delete_pods("db", grace_s=manifests.GRACE_S)
    await api.until(
        "db",
        lambda pods: len(pods) == 3 and all(is_running(pod) and pod["metadata"]["uid"] not in uids for pod in pods),
        timeout_s=60.0,
        what="three new pods Running",
    )
    assert {name: await links(cluster, name) for name in before} == before
    await sound(cluster, 6)
    await api.delete(stateful)
    await api.gone("db")
    await endpoints_gone(api, "db")
    await sound(cluster, 0)
