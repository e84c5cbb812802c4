"""Cases of the catalogue in real network namespaces: what the kernel has, not what an agent says."""

from __future__ import annotations

import asyncio
import time

import pytest

from e2e.lab import fabric
from e2e.lab.objects import name_of
from tests.netns.compat.site import NETWORKS, SPIDER, Owner, Site, notes

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the lab


async def pools_of_both(site: Site, count: int) -> dict[str, str]:
    v4 = await site.pool("v4", 1, count)
    v6 = await site.pool("v6", 1, count, v6=True)
    return notes(ippool={"ipv4": [v4], "ipv6": [v6]})


@pytest.mark.case("E00001", "E00002", "E00003", "E00004", "E00005", "E00006")
async def test_pods_of_every_kind_of_controller_get_both_families(site: Site) -> None:
    asks = await pools_of_both(site, 12)
    sizes = {"Deployment": 2, "StatefulSet": 1, "ReplicaSet": 1, "DaemonSet": 3, "Job": 2}
    for kind, size in sizes.items():
        await site.workload(kind, kind.lower(), size, asks)
    await site.pod("bare", annotations=asks)
    pods = await site.all_running(1 + sum(sizes.values()))
    assert all(len(pod.addresses) == 2 for pod in pods)
    await site.sound(pods)
    assert await site.reaches(pods[0], fabric.GATEWAY_V4) and await site.reaches(pods[-1], fabric.GATEWAY_V6)


@pytest.mark.case("E00008")
async def test_an_exhausted_pool_fails_the_pod_and_serves_it_when_one_is_free(site: Site) -> None:
    asks = notes(ippool={"ipv4": [await site.pool("one", 1, 1)]})
    await site.pod("first", "node-1", annotations=asks)
    await site.running("first")
    await site.pod("second", "node-2", annotations=asks)
    assert f"all addresses of {site.namespace}-one are used or held" in await site.refused("second")
    await site.gone("first")
    (second,) = await site.running("second")
    assert [*second.addresses] == [site.v4(1)]


@pytest.mark.case("E00009")
async def test_one_family_of_a_dual_stack_cluster(site: Site) -> None:
    v6 = await site.pool("six", 1, 3, v6=True)
    await site.pod("p", annotations=notes(ippools=[{"interface": "eth0", "ipv6": [v6]}]))
    (pod,) = await site.running("p")
    assert [*pod.addresses] == [site.v6(1)]


async def two_interfaces(site: Site, **extra: str) -> dict[str, str]:
    route = {"dst": "10.99.0.0/16", "gw": "10.6.0.2"}
    first, second = await site.pool("a", 1, 5), await site.pool("b", 11, 15, routes=[route])
    items = [{"interface": "eth0", "ipv4": [first]}, {"interface": "net1", "ipv4": [second]}]
    return {NETWORKS: "default/extra", **notes(ippools=items, **extra)}


@pytest.mark.case("A00012", "C00005", "C00006", "C00020", "A00002")
async def test_default_route_nic_decides_where_the_kernel_sends(site: Site) -> None:
    asks = await two_interfaces(site, default_route_nic="net1", routes='[{"dst":"10.98.0.0/16","gw":"10.6.0.3"}]')
    await site.pod("p", "node-1", annotations=asks)
    (pod,) = await site.running("p")
    assert set(pod.interfaces) == {"eth0", "net1"}
    assert " dev net1 " in await site.inside(pod, "ip", "route", "get", "8.8.8.8")
    assert " dev net1 " in await site.inside(pod, "ip", "route", "get", "10.99.1.1")
    assert (await site.inside(pod, "ip", "route", "show", "default")).count("default") == 1
    assert "10.98.0.0/16 via 10.6.0.3" in await site.inside(pod, "ip", "route")
    assert await site.reaches(pod, fabric.GATEWAY_V4)


@pytest.mark.case("C00011", "A00011")
async def test_without_it_the_default_route_is_eth0s_and_cleangateway_takes_it_away(site: Site) -> None:
    asks = await two_interfaces(site)
    await site.pod("p", "node-1", annotations=asks)
    clean = notes(ippools=[{"interface": "eth0", "ipv4": [f"{site.namespace}-a"], "cleangateway": True}])
    await site.pod("q", "node-2", annotations=clean)
    p, q = await site.running("p", "q")
    assert " dev eth0 " in await site.inside(p, "ip", "route", "get", "8.8.8.8")
    assert await site.inside(q, "ip", "route", "show", "default") == ""


@pytest.mark.case("C00014")
async def test_an_interface_that_does_not_exist_fails_the_pod(site: Site) -> None:
    await site.pod("p", "node-1", annotations=await two_interfaces(site, default_route_nic="net7"))
    assert "'net7' does not exist in the pod, which has eth0, net1" in await site.refused("p")


@pytest.mark.case("C00015")
async def test_an_interface_of_any_name(site: Site) -> None:
    first, second = await site.pool("a", 1, 5), await site.pool("b", 11, 15)
    items = [{"interface": "eth0", "ipv4": [first]}, {"interface": "nicx7q", "ipv4": [second]}]
    await site.pod("p", annotations={NETWORKS: "default/extra@nicx7q", **notes(ippools=items)})
    (pod,) = await site.running("p")
    assert [text[: -len("/16")] for text in pod.interfaces["nicx7q"]] == [site.v4(11)]


@pytest.mark.case("A00017", "L00008")
async def test_a_stateful_set_keeps_both_addresses_on_another_node(site: Site) -> None:
    asks = await two_interfaces(site)
    made = await site.workload("StatefulSet", "db", 1, asks)
    (before,) = await site.running("db-0")
    await site.lab.api.patch("Node", before.node, "", {"spec": {"unschedulable": True}})
    try:
        await site.delete("db-0")
        await site.until(
            lambda: before.uid not in [item["metadata"]["uid"] for item in site.pods()], "db-0 is replaced"
        )
        (after,) = await site.running("db-0")
    finally:
        await site.lab.api.patch("Node", before.node, "", {"spec": {"unschedulable": False}})
    assert after.node != before.node and dict(after.interfaces) == dict(before.interfaces)
    assert made["metadata"]["uid"]


@pytest.mark.case("L00001", "L00002")
async def test_a_pool_serves_the_nodes_that_it_names(site: Site) -> None:
    pool = await site.pool("rack", 1, 5, nodeAffinity={"matchLabels": {"rack": "a"}})
    asks = notes(ippool={"ipv4": [pool]})
    await site.pod("inside", "node-1", annotations=asks)
    await site.pod("outside", "node-2", annotations=asks)
    await site.running("inside")
    assert "no available IPPool" in await site.refused("outside")


@pytest.mark.case("S00001", "S00002")
async def test_reserved_and_excluded_addresses_are_on_no_interface(site: Site) -> None:
    await site.apply(SPIDER, "SpiderReservedIP", f"{site.namespace}-kept", spec={"ips": [site.v4(1)]})
    pool = await site.pool("p", 1, 4, excludeIPs=[site.v4(2)])
    await site.workload("Deployment", "web", 2, notes(ippool={"ipv4": [pool]}))
    pods = await site.all_running(2)
    assert {text for pod in pods for text in pod.addresses} == {f"{site.v4(3)}", f"{site.v4(4)}"}


@pytest.mark.case("D00005")
async def test_a_disabled_pool_gives_nothing(site: Site) -> None:
    pool = await site.pool("p", 1, 4, disable=True)
    await site.pod("p", annotations=notes(ippool={"ipv4": [pool]}))
    assert "no available IPPool" in await site.refused("p")
    await site.lab.api.patch("SpiderIPPool", pool, "", {"spec": {"disable": False}})
    await site.running("p")


@pytest.mark.case("G00004")
async def test_deletion_with_grace_zero_frees_the_address_with_the_sandbox(site: Site) -> None:
    asks = notes(ippool={"ipv4": [await site.pool("one", 1, 1)]})
    await site.pod("p", "node-1", annotations=asks)
    (before,) = await site.running("p")
    await site.lab.api.delete("Pod", "p", site.namespace, {"gracePeriodSeconds": 0})
    await site.pod("p", "node-2", annotations=asks)
    (after,) = await site.running("p")
    assert after.uid != before.uid and after.addresses == before.addresses


@pytest.mark.case("C00007", "C00018")
async def test_an_address_that_a_stranger_uses_is_on_no_pod(site: Site) -> None:
    fabric.ip_batch(site.lab.fabric.foreign_ns, [f"addr add {site.v4(1)}/16 dev eth0"])
    try:
        pool = await site.pool("p", 1, 2)
        await site.pod("p", annotations=notes(ippool={"ipv4": [pool]}))
        (pod,) = await site.running("p")
        assert [*pod.addresses] == [site.v4(2)]
    finally:
        fabric.ip_batch(site.lab.fabric.foreign_ns, [f"addr del {site.v4(1)}/16 dev eth0"])


@pytest.mark.case("I00003", "I00013")
async def test_an_application_pool_comes_grows_and_goes_with_its_application(site: Site) -> None:
    spec = {"subnet": fabric.SUBNET_V4, "ips": [f"{site.v4(1)}-{site.v4(20)}"], "gateway": fabric.GATEWAY_V4}
    await site.apply(SPIDER, "SpiderSubnet", f"{site.namespace}-s", spec=spec)
    asks = notes(subnet={"ipv4": [f"{site.namespace}-s"]}, ippool_ip_number="+0")
    await site.workload("Deployment", "web", 2, asks)
    await site.all_running(2)
    await site.lab.cluster.scale("Deployment", site.namespace, "web", 4)
    pods = await site.all_running(4)
    assert {text for pod in pods for text in pod.addresses} == {f"{site.v4(number)}" for number in range(1, 5)}
    await site.lab.api.delete("Deployment", "web", site.namespace)

    async def is_gone() -> bool:
        return not [item for item in (await site.lab.api.list("SpiderIPPool"))[0] if "-web-" in name_of(item)]

    await site.until(is_gone, "its pool is deleted")


@pytest.mark.case("T00002")
async def test_an_application_whose_controller_nobody_knows_gets_its_pool(site: Site) -> None:
    spec = {"subnet": fabric.SUBNET_V4, "ips": [f"{site.v4(1)}-{site.v4(20)}"], "gateway": fabric.GATEWAY_V4}
    await site.apply(SPIDER, "SpiderSubnet", f"{site.namespace}-s", spec=spec)
    asks = notes(subnet={"ipv4": [f"{site.namespace}-s"]}, ippool_ip_number="2")
    owner = Owner("CloneSet", "game", f"0000-{site.band}", "apps.kruise.io/v1alpha1")
    for number in (1, 2):
        await site.pod(f"game-{number}", f"node-{number}", owner=owner, annotations=asks)
    pods = await site.running("game-1", "game-2")
    assert {text for pod in pods for text in pod.addresses} == {f"{site.v4(1)}", f"{site.v4(2)}"}
    await site.lab.api.delete("SpiderIPPool", f"auto4-game-eth0-{site.band}")


@pytest.mark.case("R00004")
async def test_a_pod_starts_while_its_agent_restarts(site: Site) -> None:
    asks = await pools_of_both(site, 4)
    agent = site.lab.agents["node-3"]
    agent.kill()
    await site.pod("p", "node-3", annotations=asks)
    await asyncio.sleep(0.5)
    agent.start()
    await agent.ready()
    await site.sound(await site.running("p"))


@pytest.mark.case("P00002")
async def test_a_batch_with_two_interfaces_is_created_restarted_and_deleted(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    count = 12
    first, second = await site.pool("a", 1, count), await site.pool("b", 101, 100 + count)
    items = [{"interface": "eth0", "ipv4": [first]}, {"interface": "net1", "ipv4": [second]}]
    took: dict[str, float] = {}
    begun = time.monotonic()
    await site.workload("Deployment", "batch", count, {NETWORKS: "default/extra", **notes(ippools=items)})
    before = await site.all_running(count)
    took["created"] = time.monotonic() - begun
    await site.sound(before)
    old = {pod.uid for pod in before}
    begun = time.monotonic()
    for pod in site.pods():
        await site.delete(name_of(pod))
    await site.until(
        lambda: not old & {item["metadata"]["uid"] for item in site.pods()}, "all are replaced", timeout_s=40
    )
    after = await site.all_running(count)
    took["restarted"] = time.monotonic() - begun
    await site.sound(after)
    everything = {site.v4(base + number) for base in (0, 100) for number in range(1, count + 1)}
    assert {text for pod in after for text in pod.addresses} == everything, "the pools are exactly full, twice"
    begun = time.monotonic()
    await site.lab.api.delete("Deployment", "batch", site.namespace)
    await site.until(lambda: not site.pods(), "all are gone")
    took["deleted"] = time.monotonic() - begun
    with capsys.disabled():
        print(
            f"\n{count} pods with two interfaces each: "
            + ", ".join(f"{key} in {value:.1f} s" for key, value in took.items())
        )
