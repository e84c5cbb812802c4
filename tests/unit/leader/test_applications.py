"""Applications with pools of their own: created, grown, shrunk, kept and deleted; a leader and agents over one API."""

from __future__ import annotations

import asyncio
import json

import pytest

from adapters.kube.memory import AnswerLost, Call, Fault, MemoryStore
from crds.core import DEPLOYMENT, POD
from crds.meta import UNSET
from crds.spiderpool import IP_POOL, RESERVED_IP, SUBNET
from tests.unit.leader.harness import Heard, leader, until
from tests.unit.leader.workloads import (
    ASKS,
    KINDS,
    addresses,
    counted,
    pod_of,
    pools,
    record,
    scale,
    sized,
    subnet,
    workload,
)
from tests.unit.nodeagent.harness import Lab, add, delete, eventually, failed, http

NUMBER, RECLAIM = "ipam.spidernet.io/ippool-ip-number", "ipam.spidernet.io/ippool-reclaim"


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    lab.sandboxes.alive |= {f"/run/netns/c{i}" for i in range(9)}
    await lab.namespace()
    await lab.node("n1")
    return lab


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_every_kind_gets_a_pool_that_follows_its_size_and_goes_with_it(lab: Lab, kind: str) -> None:
    await subnet(lab)
    async with leader(lab):
        made = await workload(lab, kind, "web", 2)
        await sized(lab, 3)
        (pool,) = (await pools(lab)).values()
        assert pool.name == f"auto4-web-eth0-{made.uid.rpartition('-')[2][:5]}"
        assert pool.spec.pod_affinity is not UNSET
        await scale(lab, kind, "web", 5)
        await sized(lab, 6)
        await scale(lab, kind, "web", 1)
        await sized(lab, 2)
        await lab.store.delete(KINDS[kind], "web", namespace="default")
        await sized(lab, 0, of=0)


async def test_the_pool_carries_what_spiderpool_documents(lab: Lab) -> None:
    await subnet(lab, "s4", "10.6.0.0/16", gateway="10.6.0.1", routes=[{"dst": "10.9.0.0/16", "gw": "10.6.0.2"}])
    async with leader(lab):
        made = await workload(lab, annotations={**ASKS, NUMBER: "+2"})
        await sized(lab, 4)
    (pool,) = (await pools(lab)).values()
    prefix = "ipam.spidernet.io"
    assert {key.removeprefix(f"{prefix}/"): value for key, value in pool.labels.items()} == {
        "ippool-cidr": "10-6-0-0-16",
        "owner-spider-subnet": "s4",
        "owner-application-gv": "apps_v1",
        "owner-application-kind": "Deployment",
        "owner-application-namespace": "default",
        "owner-application-name": "web",
        "owner-application-uid": made.uid,
        "interface": "eth0",
        "ip-version": "IPv4",
        "ippool-reclaim": "true",
    }
    assert pool.annotations == {NUMBER: "+2"}
    assert pool.spec.pod_affinity is not UNSET
    assert pool.spec.pod_affinity.match_labels == {
        f"{prefix}/app-api-group": "apps",
        f"{prefix}/app-api-version": "v1",
        f"{prefix}/app-kind": "Deployment",
        f"{prefix}/app-namespace": "default",
        f"{prefix}/app-name": "web",
    }
    assert (pool.spec.gateway, pool.spec.ips) == ("10.6.0.1", ("10.6.1.1-10.6.1.4",))
    assert pool.controller is not None and pool.controller.kind == "SpiderSubnet"
    stored = await lab.store.get(SUBNET, "s4")
    assert stored is not None and stored.status is not UNSET
    assert (stored.status.total_ip_count, stored.status.allocated_ip_count) == (100, 4)
    assert (await record(lab))[pool.name]["application"] == "apps_v1_Deployment_default_web"


async def test_the_first_pod_waits_for_its_pool_and_gets_an_address_of_it(lab: Lab) -> None:
    await subnet(lab)
    async with lab.agent("n1") as agent:
        made = await workload(lab)
        pod = await pod_of(lab, made, "web-1-a", "n1")
        waiting = asyncio.create_task(add(agent, "c1", pod))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        async with leader(lab):
            assert (await waiting)[0].startswith("10.6.1.")


async def test_without_a_pool_the_pod_is_told_which_one_is_missing(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await pod_of(lab, await workload(lab), "web-1-a", "n1")
        error = await failed(agent, http("ADD", "c1", pod))
    assert error["code"] == 11 and "auto4-web-eth0" in error["msg"] and "s4" in error["msg"]


async def test_a_bare_pod_is_refused(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        error = await failed(agent, http("ADD", "c1", await lab.pod("bare", "n1", ASKS)))
    assert error["code"] == 101 and "no-controller" in error["msg"]


async def test_only_free_addresses_are_taken_away(lab: Lab) -> None:
    await subnet(lab)
    async with lab.agent("n1") as agent, leader(lab):
        made = await workload(lab, replicas=4, annotations={**ASKS, NUMBER: "+0"})
        pods = [await pod_of(lab, made, f"web-1-{i}", "n1") for i in range(4)]
        held = [(await add(agent, f"c{i}", pod))[0] for i, pod in enumerate(pods)]
        await eventually(lambda: agent.outbox.depth == 0)
        await scale(lab, "Deployment", "web", 2)
        await asyncio.sleep(0.3)
        (pool,) = (await pools(lab)).values()
        assert addresses(pool).size == 4, "all four are in use"
        for i in (1, 2):
            await delete(agent, f"c{i}")
            await lab.store.delete(POD, pods[i].name, namespace="default")
        await sized(lab, 2)
        (pool,) = (await pools(lab)).values()
        assert [str(a) for a in pool.spec.ips] and {held[0], held[3]} == {
            f"10.6.1.{value & 0xFF}" for value in addresses(pool)
        }


async def test_a_kept_pool_is_used_again_by_the_application_of_that_name_and_kind_only(lab: Lab) -> None:
    await subnet(lab)
    keep = {**ASKS, RECLAIM: "false"}
    async with leader(lab):
        await workload(lab, annotations=keep)
        await sized(lab, 3)
        (before,) = (await pools(lab)).values()
        await lab.store.delete(DEPLOYMENT, "web", namespace="default")
        await asyncio.sleep(0.2)
        assert list(await pools(lab)) == [before.name]
        await workload(lab, "StatefulSet", "web", 2)
        await sized(lab, 3, of=2)
        again = await workload(lab, annotations=keep)
        await asyncio.sleep(0.3)
        found = await pools(lab)
        assert len(found) == 2 and found[before.name].spec.ips == before.spec.ips
        assert found[before.name].labels["ipam.spidernet.io/owner-application-uid"] == again.uid


async def test_a_kept_pool_goes_when_its_label_says_so(lab: Lab) -> None:
    await subnet(lab)
    async with leader(lab):
        await workload(lab, annotations={**ASKS, RECLAIM: "false"})
        await sized(lab, 3)
        await lab.store.delete(DEPLOYMENT, "web", namespace="default")
        await asyncio.sleep(0.2)
        (pool,) = (await pools(lab)).values()
        await lab.store.patch(IP_POOL, pool.name, {"metadata": {"labels": {RECLAIM: "true"}}})
        await sized(lab, 0, of=0)


async def test_edited_addresses_are_put_back(lab: Lab) -> None:
    await subnet(lab)
    async with leader(lab):
        await workload(lab)
        await sized(lab, 3)
        (pool,) = (await pools(lab)).values()
        await lab.store.patch(IP_POOL, pool.name, {"spec": {"ips": ["10.6.1.90-10.6.1.99"]}})
        await sized(lab, 3)
        assert (await pools(lab))[pool.name].spec.ips == pool.spec.ips


async def test_reserved_and_excluded_addresses_and_other_pools_are_left_alone(lab: Lab) -> None:
    await lab.create(RESERVED_IP, metadata={"name": "r"}, spec={"ips": ["10.6.1.1-10.6.1.3"]})
    await lab.pool("by-hand", "10.6.0.0/16", "10.6.1.6-10.6.1.7")
    await subnet(lab, "s4", "10.6.0.0/16", "10.6.1.1-10.6.1.100", excludeIPs=["10.6.1.4"])
    async with leader(lab):
        await workload(lab)
        await counted(lab, 2)
    found = await pools(lab)
    (auto,) = [pool for name, pool in found.items() if name != "by-hand"]
    assert auto.spec.ips == ("10.6.1.5", "10.6.1.8-10.6.1.9")
    assert (await record(lab))["by-hand"] == {"ips": ["10.6.1.6-10.6.1.7"]}


async def test_a_subnet_without_room_gives_what_it_has_says_so_and_goes_on_when_it_grows(lab: Lab) -> None:
    await subnet(lab, "s4", "10.6.0.0/16", "10.6.1.1-10.6.1.4")
    heard = Heard()
    async with leader(lab, heard=heard):
        await workload(lab, replicas=9)
        await sized(lab, 4)
        assert any("insufficient subnet FreeIPs, required 10 but only left 4" in note for _, _, note in heard.told)
        await lab.store.patch(SUBNET, "s4", {"spec": {"ips": ["10.6.1.1-10.6.1.20"]}})
        await sized(lab, 10)


async def test_an_application_of_a_missing_subnet_is_told_and_served_when_it_comes(lab: Lab) -> None:
    heard = Heard()
    async with leader(lab, heard=heard):
        await workload(lab)
        await eventually(lambda: ("web", "SubnetNotFound", "SpiderSubnet s4 does not exist") in heard.told)
        await subnet(lab)
        await sized(lab, 3)


async def test_two_families_and_two_interfaces_get_a_pool_each(lab: Lab) -> None:
    await subnet(lab)
    await subnet(lab, "t4", "10.7.0.0/16", "10.7.1.1-10.7.1.50")
    await subnet(lab, "s6", "fd00::/64", "fd00::1-fd00::50")
    asks = [{"interface": "eth0", "ipv4": ["s4"], "ipv6": ["s6"]}, {"interface": "net1", "ipv4": ["t4"]}]
    notes = {"ipam.spidernet.io/subnets": json.dumps(asks)}
    async with lab.agent("n1") as agent, leader(lab):
        made = await workload(lab, annotations=notes)
        await sized(lab, 3, of=3)
        pod = await pod_of(lab, made, "web-1-a", "n1")
        eth0, net1 = await add(agent, "c1", pod), await add(agent, "c1", pod, ifname="net1")
    assert [a.split(":")[0].split(".")[1] if "." in a else "v6" for a in (*eth0, *net1)] == ["6", "v6", "7"]


async def test_very_long_names(lab: Lab) -> None:
    await subnet(lab)
    name = "long-" * 40 + "app"
    async with lab.agent("n1") as agent, leader(lab):
        made = await workload(lab, name=name)
        await sized(lab, 3)
        (pool,) = (await pools(lab)).values()
        assert len(pool.name) <= 253 and all(len(value) <= 63 for value in pool.labels.values())
        assert pool.spec.pod_affinity is not UNSET
        assert all(len(value) <= 63 for value in pool.spec.pod_affinity.match_labels.values())
        pod = await pod_of(lab, made, "p", "n1")
        assert (await add(agent, "c1", pod))[0].startswith("10.6.1.")


async def test_another_application_cannot_use_the_pool(lab: Lab) -> None:
    await subnet(lab)
    async with lab.agent("n1") as agent, leader(lab):
        await workload(lab)
        await sized(lab, 3)
        (name,) = await pools(lab)
        thief = await lab.pod("thief", "n1", {"ipam.spidernet.io/ippool": json.dumps({"ipv4": [name]})})
        error = await failed(agent, http("ADD", "c1", thief))
    assert error["code"] == 111 and "belongs to Deployment default/web" in error["details"]


async def test_a_hundred_applications_at_once_share_a_subnet_without_overlap_or_loss(lab: Lab) -> None:
    await subnet(lab, "s4", "10.6.0.0/16", "10.6.1.1-10.6.3.250")
    async with leader(lab):
        for i in range(100):
            await workload(lab, name=f"app{i}", replicas=i % 5 + 1)
        await counted(lab, 100)
        taken = [value for pool in (await pools(lab)).values() for value in addresses(pool)]
        assert len(taken) == len(set(taken)) == sum(i % 5 + 2 for i in range(100))
        for i in range(100):
            await lab.store.delete(DEPLOYMENT, f"app{i}", namespace="default")
        await counted(lab, 0)

        async def is_empty() -> bool:
            return await record(lab) == {}

        await until(is_empty)


async def test_a_lost_answer_and_a_new_leader_complete_what_was_begun(lab: Lab) -> None:
    await subnet(lab)
    lost = 0

    async def fault(call: Call) -> Fault | None:
        nonlocal lost
        if call.verb in ("create", "patch") and call.kind in (IP_POOL, SUBNET) and lost < 3:
            lost += 1
            return AnswerLost()
        return None

    async with leader(lab, store=MemoryStore(lab.cluster, fault=fault)):
        await workload(lab)
        await sized(lab, 3)
    async with leader(lab, seed=2):
        await scale(lab, "Deployment", "web", 7)
        await sized(lab, 8)


async def test_an_unreadable_annotation_takes_no_pool_away(lab: Lab) -> None:
    await subnet(lab)
    async with leader(lab):
        await workload(lab)
        await sized(lab, 3)
        broken = {"spec": {"template": {"metadata": {"annotations": {"ipam.spidernet.io/subnet": "{"}}}}}
        await lab.store.patch(DEPLOYMENT, "web", broken, namespace="default")
        await asyncio.sleep(0.3)
        await sized(lab, 3)


async def test_with_the_feature_off_nothing_is_made_and_the_pod_is_told(lab: Lab) -> None:
    from leader.config import ApplicationSettings

    await subnet(lab)
    async with leader(lab, applications=ApplicationSettings(enable_auto_pool_for_application=False)):
        await workload(lab)
        await asyncio.sleep(0.2)
        assert await pools(lab) == {}


async def test_nothing_is_written_when_nothing_changes(lab: Lab) -> None:
    await subnet(lab)
    async with leader(lab) as one:
        await workload(lab)
        await sized(lab, 3)
        await asyncio.sleep(0.5)
        before = lab.cluster.version
        assert one.reign is not None
        for _ in range(3):
            await one.reign.applications.work()
            await one.reign.derived.work()
        versions = {pool.resource_version for pool in (await pools(lab)).values()}
        await asyncio.sleep(0.3)
        assert versions == {pool.resource_version for pool in (await pools(lab)).values()}
        assert lab.cluster.version - before < 10  # the election's renewals alone
