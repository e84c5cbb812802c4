"""Pods on real nodes: kubelet, containerd, macvlan and Nephila, on a real control plane; and what happens to nodes in a cluster's life.

One cluster for the module. Tests leave it as they found it: three nodes Ready, no pod, no address held.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from e2e.cluster.binaries import Binaries
from e2e.cluster.client import MERGE_PATCH
from e2e.cluster.nodes import agents, cgroups, manifests, settings
from e2e.cluster.nodes.agents import Installation
from e2e.cluster.nodes.bench import check_distinct
from e2e.cluster.nodes.churn import Churn
from e2e.cluster.nodes.fakes import FakeNodes
from e2e.cluster.nodes.kube import Kube, address_of
from e2e.cluster.nodes.labs import RealCluster
from e2e.cluster.nodes.node import Node
from e2e.lab import fabric
from tests.cluster.workloads import (
    COME_AGAIN,
    addresses,
    check_kept,
    clear,
    end,
    endpoints_gone,
    kubectl,
    rebuild,
    restarted,
    start,
)

pytestmark = [pytest.mark.nodes, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

NODES = 3
LEASE = {"heartbeatS": 5.0, "leaseS": 60.0, "cooldownS": 5.0, "cooldownFloorS": 2.0, "leakConfirmS": 5.0}
CTR = ("ctr", "-a", settings.CONTAINERD_SOCKET, "-n", "k8s.io")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nephila(binaries: Binaries) -> AsyncIterator[Installation]:
    cluster = RealCluster(NODES, binaries)
    async with cluster:
        installation = Installation(cluster, {"lease": LEASE}, {"sweep": {"periodS": 2.0, "orphanS": 4.0}})
        await installation.install()
        yield installation
    assert cluster.leftovers() == []


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def tidy(nephila: Installation) -> AsyncIterator[None]:
    yield
    nephila.use()
    await clear(nephila.cluster)


@pytest.fixture
def cluster(nephila: Installation) -> RealCluster:
    return nephila.cluster


@pytest.fixture
def api(cluster: RealCluster) -> Kube:
    return cluster.api


async def test_pods_of_a_deployment_reach_each_other_and_are_probed_by_kubelet(cluster: RealCluster, api: Kube) -> None:
    template = manifests.pod_template("web", command=("sh", "-c", manifests.SERVE))
    template["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"port": 80, "path": "/"}, "periodSeconds": 1}
    deployment = manifests.workload("Deployment", "web", 6, template)
    await api.apply(deployment)
    await api.running("web", 6)
    held = await addresses(api, "web")
    assert len(set(held.values())) == 6
    assert all(address.startswith("10.6.1.") for address in held.values())
    assert {pod["spec"]["nodeName"] for pod in await api.pods("web")} == set(cluster.nodes)
    first = min(held)
    # Not wget: busybox's static build looks up the service's name and dies of it.
    script = "; ".join(
        f"printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80" for address in held.values()
    )
    said = await kubectl(cluster, "exec", first, "--", "sh", "-c", script)
    assert sorted(line for line in said.splitlines() if line.startswith("web-")) == sorted(held), said
    await end(api, deployment)


async def test_a_stateful_sets_pods_keep_their_addresses_over_a_rebuild(api: Kube) -> None:
    await api.apply(stateful := manifests.stateful_set("db", 3, manifests.pod_template("db")))
    await api.running("db", 3)
    before = await addresses(api, "db")
    await rebuild(api, "db", 3)
    assert await addresses(api, "db") == before
    await api.delete(stateful)
    await api.gone("db")
    await endpoints_gone(api, "db")


async def test_a_jobs_pods_take_addresses_of_the_named_pool_and_give_them_back_when_done(api: Kube) -> None:
    await api.apply(manifests.pool("jobs", "10.6.2.1-10.6.2.4"))
    template = manifests.pod_template("batch", pools=("jobs",), command=("sh", "-c", "ip -4 addr show eth0; sleep 1"))
    await api.apply(task := manifests.job("batch", 4, template))
    seen: dict[str, str] = {}

    def all_done(pods: Any) -> bool:
        seen.update({pod["metadata"]["name"]: address_of(pod) for pod in pods if address_of(pod)})
        return [pod["status"].get("phase") for pod in pods] == ["Succeeded"] * 4

    await api.until("batch", all_done, timeout_s=60.0, what="4 pods done")
    assert set(seen.values()) <= {f"10.6.2.{number}" for number in range(1, 5)}
    await endpoints_gone(api, "batch")  # the pods are still there, done: they hold nothing
    await end(api, task)


async def test_pods_survive_a_restart_of_kubelet_and_new_ones_start(cluster: RealCluster, api: Kube) -> None:
    deployment = await start(api, "calm", 3)
    before = await addresses(api, "calm")
    for node in cluster.nodes.values():
        await node.restart_kubelet()
    await cluster.ready()
    await asyncio.sleep(3.0)
    assert await addresses(api, "calm") == before
    more = await start(api, "later", 3)
    assert not set((await addresses(api, "later")).values()) & set(before.values())
    await end(api, more)
    await end(api, deployment)


async def test_agents_restarted_one_by_one_under_load_fail_no_pod(
    nephila: Installation, cluster: RealCluster, api: Kube
) -> None:
    async with Churn(api, "load", 12) as churn:
        for node in cluster.nodes.values():
            await nephila.agent(node.name).kill()
            await asyncio.sleep(1.0)
            assert await nephila.start_agent(node) < 10.0
            await asyncio.sleep(2.0)
    assert churn.rebuilt >= 5
    assert [words for words in churn.failures if not any(reason in words for reason in COME_AGAIN)] == []
    await endpoints_gone(api, "load")


async def test_drained_nodes_pods_move_and_take_other_addresses(cluster: RealCluster, api: Kube) -> None:
    deployment = await start(api, "mobile", 6)
    await kubectl(cluster, "drain", "node-2", "--ignore-daemonsets", "--force", "--timeout=60s")
    await api.running("mobile", 6)
    pods = await api.pods("mobile")
    check_distinct(pods)
    assert "node-2" not in {pod["spec"]["nodeName"] for pod in pods}
    await kubectl(cluster, "uncordon", "node-2")
    await end(api, deployment)


async def test_a_crashed_nodes_pods_come_back_with_it_and_no_address_leaks_or_doubles(
    nephila: Installation, cluster: RealCluster, api: Kube
) -> None:
    deployment = await start(api, "crash", 6)
    before = await api.pods("crash")
    lost = cluster.nodes["node-3"]
    await lost.stop()
    await lost.start()
    await nephila.start_agent(lost)
    await cluster.ready()
    await restarted(api, "crash", lost.name, timeout_s=90.0)
    await check_kept(api, "crash", before, crashed=lost.name)
    await end(api, deployment)


@pytest.mark.case("R00002")
async def test_running_pods_and_new_ones_survive_restarts_of_etcd_and_the_api_server(
    cluster: RealCluster, api: Kube
) -> None:
    deployment = await start(api, "steady", 6)
    before = await addresses(api, "steady")
    await cluster.plane.restart_etcd(down_s=2.0)
    await cluster.plane.restart_apiserver(down_s=2.0)
    await cluster.ready()
    assert await addresses(api, "steady") == before
    more = await start(api, "after", 6)
    assert not set((await addresses(api, "after")).values()) & set(before.values())
    await end(api, more)
    await end(api, deployment)


async def test_a_sandbox_that_dies_while_the_api_server_is_silent_comes_back_without_it(
    nephila: Installation, cluster: RealCluster, api: Kube
) -> None:
    deployment = await start(api, "silent", 3)
    pod = (await api.pods("silent"))[0]
    node, uid = cluster.nodes[pod["spec"]["nodeName"]], pod["metadata"]["uid"]
    cluster.plane.apiserver.pause()
    try:
        old = await sandboxes(node, uid)
        assert len(old) == 1
        code, said = await node.run(*CTR, "tasks", "kill", "-s", "SIGKILL", *old)
        assert code == 0, said
        begun = time.monotonic()
        while not await sandboxes(node, uid) - old:
            words = f"{node.kubelet.tail()}\n{nephila.agent(node.name).tail()}"
            assert time.monotonic() - begun < 60.0, f"no new sandbox for {pod['metadata']['name']}\n{words}"
            await asyncio.sleep(0.5)
    finally:
        cluster.plane.apiserver.resume()
    await cluster.plane.ready()
    await cluster.ready()
    await api.running("silent", 3)
    pods = await api.pods("silent")
    assert uid in {one["metadata"]["uid"] for one in pods}  # the same pod, in a new sandbox
    check_distinct(pods)
    await end(api, deployment)


async def sandboxes(node: Node, uid: str) -> set[str]:
    """Container ids of the pod's sandboxes whose first process runs."""
    wanted = f'labels."io.kubernetes.pod.uid"=={uid},labels."io.cri-containerd.kind"==sandbox'
    _, known = await node.run(*CTR, "containers", "ls", "-q", wanted)
    _, running = await node.run(*CTR, "tasks", "ls")
    alive = {line.split()[0] for line in running.splitlines() if "RUNNING" in line}
    return set(known.split()) & alive


async def test_an_agent_may_not_write_another_nodes_mailbox(cluster: RealCluster, api: Kube) -> None:
    token = await agents.node_token(api, manifests.AGENT, "node-1")
    client = cluster.plane.client(token)
    change = {"status": {"version": "forged"}}
    path = "/apis/nephila.io/v1alpha1/ipnodes/{}/status"
    own = await client.request("PATCH", path.format("node-1"), change, content_type=MERGE_PATCH)
    other = await client.request("PATCH", path.format("node-2"), change, content_type=MERGE_PATCH)
    assert (own.status, other.status) == (200, 403), other.message


async def test_two_hundred_fake_nodes_stay_ready_and_disturb_neither_leader_nor_pods(
    cluster: RealCluster, api: Kube
) -> None:
    lock = "/apis/nephila.io/v1alpha1/leaderlocks/nephila"
    term = (await api.get(lock))["spec"]["term"]
    async with FakeNodes(cluster.plane.client(), 200) as fakes:
        await asyncio.sleep(25.0)  # longer than a node without renewals counts as alive
        assert await api.ready_nodes() == {*fakes.names, *cluster.nodes}
        await end(api, await start(api, "beside", 6))
        assert (await api.get(lock))["spec"]["term"] == term
    assert await api.ready_nodes() == set(cluster.nodes)


async def test_the_machine_keeps_its_settings_and_paths(cluster: RealCluster) -> None:
    inside = (await cluster.nodes["node-1"].run("cat", "/proc/sys/vm/overcommit_memory"))[1].strip()
    assert inside == "1"  # what kubelet wrote
    assert Path("/proc/sys/vm/overcommit_memory").read_text().strip() == MACHINE["vm.overcommit_memory"]
    assert Path("/proc/sys/kernel/panic").read_text().strip() == MACHINE["kernel.panic"]
    for path in ("/var/lib/kubelet", "/etc/nephila", "/opt/cni/bin/nephila"):
        assert not Path(path).exists() or path in PATHS_BEFORE


async def test_a_killed_run_leaves_nothing_that_the_next_does_not_remove() -> None:
    """SIGKILL of the harness: the kernel ends every program of it; names and cgroups go with the next start."""
    script = (
        "import asyncio, os, signal, sys\n"
        "from e2e.cluster.nodes.labs import RealCluster\n"
        "async def main():\n"
        "    async with RealCluster(1) as cluster:\n"
        "        print(cluster.net.prefix, cluster.nodes['node-1'].init_pid, cluster.folder, cluster.plane.layout.folder)\n"
        "        sys.stdout.flush()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    prefix, pid, *folders = (await python(script)).split()
    async with asyncio.timeout(10.0):
        while Path(f"/proc/{pid}").exists() or any(thing.startswith("pid") for thing in fabric.leftovers(prefix)):
            await asyncio.sleep(0.1)
    assert fabric.leftovers(prefix) + cgroups.names(prefix) != []
    await python("from e2e.cluster.nodes.labs import sweep; sweep()")
    assert fabric.leftovers(prefix) + cgroups.names(prefix) == []
    for folder in folders:  # the next cluster removes them too, but only once they are a minute old
        shutil.rmtree(folder)


async def python(script: str) -> str:
    command = [sys.executable, "-c", script]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=120, check=False, start_new_session=True
    )
    return done.stdout


MACHINE = {
    name: Path(f"/proc/sys/{name.replace('.', '/')}").read_text().strip()
    for name in ("vm.overcommit_memory", "kernel.panic")
}
PATHS_BEFORE = {p for p in ("/var/lib/kubelet", "/etc/nephila", "/opt/cni/bin/nephila") if Path(p).exists()}
