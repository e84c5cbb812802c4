"""Multus itself in front of the chart's Nephila: a second interface of a pod, from a pool of its own."""

from __future__ import annotations

import json

from e2e.cluster.nodes import agents, manifests, multus, settings
from e2e.cluster.nodes.chart import ChartInstallation
from e2e.cluster.nodes.kube import Kube, address_of
from e2e.cluster.nodes.labs import RealCluster
from tests.cluster.chart import MARKS, sound
from tests.cluster.workloads import end, endpoints_gone, links, rebuild

pytestmark = MARKS

CHOSEN = [f"10.6.2.{number}" for number in range(21, 41)]
SECOND = [f"10.6.2.{number}" for number in range(101, 121)]


async def through_multus(nephila: ChartInstallation) -> None:
    """Multus in front on every node; eth0 from the default pool, and a NetworkAttachmentDefinition `second` whose pool serves nobody else."""
    cluster = nephila.cluster
    # Two links of a pod on one segment: each must answer for its own address only.
    tuning = {"type": "tuning", "sysctl": {"net.ipv4.conf.all.arp_ignore": "1", "net.ipv4.conf.all.arp_announce": "2"}}
    first = settings.macvlan(settings.nephila([agents.DEFAULT_POOL]))
    await multus.install(cluster, multus.ensure(), json.loads(settings.conflist("underlay", [first, tuning])))
    await cluster.api.apply(manifests.pool("second", f"{SECOND[0]}-{SECOND[-1]}", multusName=["default/second"]))
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
        assert inside["net1"] in SECOND
        told = {one["interface"]: one["ips"] for one in json.loads(pod["metadata"]["annotations"][multus.STATUS])}
        assert told == {name: [address] for name, address in inside.items() if name != "lo"}
    await sound(cluster, 6)  # two interfaces each
    await end(api, deployment)
    await sound(cluster, 0)


async def test_spiderpools_annotation_chooses_the_pool_of_each_of_multus_interfaces_and_they_stay_over_a_rebuild(
    nephila: ChartInstallation, cluster: RealCluster, api: Kube
) -> None:
    await through_multus(nephila)
    await api.apply(manifests.pool("chosen", f"{CHOSEN[0]}-{CHOSEN[-1]}"))
    template = attached("db", {"eth0": "chosen", "net1": "second"})
    await api.apply(stateful := manifests.stateful_set("db", 3, template))
    await api.running("db", 3)
    before = {pod["metadata"]["name"]: await links(cluster, pod["metadata"]["name"]) for pod in await api.pods("db")}
    for inside in before.values():
        assert inside["eth0"] in CHOSEN
        assert inside["net1"] in SECOND
    await rebuild(api, "db", 3)
    assert {name: await links(cluster, name) for name in before} == before
    await sound(cluster, 6)
    await api.delete(stateful)
    await api.gone("db")
    await endpoints_gone(api, "db")
    await sound(cluster, 0)
