"""What the chart tells its user to do next, done: every command of NOTES.txt, and `helm test`."""

from __future__ import annotations

import pytest

from e2e.cluster.nodes import manifests
from e2e.cluster.nodes.chart import ChartInstallation
from e2e.cluster.nodes.kube import Kube, Object, address_of
from e2e.cluster.nodes.labs import RealCluster
from e2e.cluster.nodes.manifests import NAMESPACE
from e2e.cluster.program import ClusterFailed
from tests.cluster.chart import MARKS, sound
from tests.cluster.objects import must
from tests.cluster.workloads import end, kubectl, start

pytestmark = MARKS

ENDPOINTS = "/apis/spiderpool.spidernet.io/v2beta1/namespaces/default/spiderendpoints"


async def test_the_commands_of_the_notes_work_and_helm_test_finds_a_fresh_installation_consistent(
    nephila: ChartInstallation, cluster: RealCluster
) -> None:
    commands = [line.split() for line in nephila.notes.splitlines() if line.startswith("  ")]
    named = [words[1:] for words in commands if words[0] == "kubectl"]
    assert len(named) == 2, nephila.notes
    for words in named:
        await kubectl(cluster, *words)
    assert ["helm", "test", "nephila", "-n", NAMESPACE] in commands
    assert "consistent:" in await nephila.test()
    left = (await cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/pods"))["items"]
    assert "nephila-test" not in {pod["metadata"]["name"] for pod in left}


async def test_helm_test_fails_when_an_address_is_recorded_twice(
    nephila: ChartInstallation, cluster: RealCluster, api: Kube
) -> None:
    """The record is forged, for a pod that lives but runs nowhere: no program of ours would take it away."""
    deployment = await start(api, "one", 1)
    [pod] = await api.pods("one")
    template = manifests.pod_template("forged", nodeSelector={"nephila.io/nowhere": "true"})
    forged = await api.apply(
        {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "forged", **template["metadata"]}}
    )
    await must(api.client.post(ENDPOINTS, record_of(forged, f"{address_of(pod)}/16", pod["spec"]["nodeName"])))
    with pytest.raises(ClusterFailed, match="nephila-test"):
        await nephila.test()
    said = (await cluster.api.client.get(f"/api/v1/namespaces/{NAMESPACE}/pods/nephila-test/log")).message
    assert "I4" in said and "default/forged" in said, said
    await api.delete({"apiVersion": "v1", **forged}, grace_s=0)
    await end(api, deployment)
    await sound(cluster, 0)


def record_of(pod: Object, address: str, node: str) -> Object:
    meta = pod["metadata"]
    taken = {"interface": "eth0", "ipv4": address, "ipv4Pool": "default"}
    current = {"uid": meta["uid"], "node": node, "ips": [taken]}
    owner = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
    return {
        "apiVersion": "spiderpool.spidernet.io/v2beta1",
        "kind": "SpiderEndpoint",
        "metadata": {"name": meta["name"], "ownerReferences": [owner]},
        "status": {"current": current, "ownerControllerType": "Pod", "ownerControllerName": meta["name"]},
    }
