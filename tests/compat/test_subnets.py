"""Group I: SpiderSubnets and the pools that are made from them."""

from __future__ import annotations

import asyncio
import json

import pytest

from adapters.kube.store import Stored
from crds.core import DEPLOYMENT, POD
from crds.meta import UNSET
from crds.spiderpool import FINALIZER, IP_POOL, RESERVED_IP, SUBNET
from leader.config import ApplicationSettings
from nodeagent.config import FeatureSettings
from tests.compat.steps import Sandbox, asks, pod
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
from tests.unit.nodeagent.harness import Lab, eventually

RECLAIM, NUMBER = "ipam.spidernet.io/ippool-reclaim", "ipam.spidernet.io/ippool-ip-number"


async def _is_empty(lab: Lab) -> bool:
    stored = await lab.store.get(SUBNET, "s4")
    return (
        stored is not None
        and stored.status is not UNSET
        and not stored.status.allocated_ip_count
        and (await record(lab)) == {}
    )


@pytest.mark.case("I00001", "I00002")
async def test_a_subnet_is_created_edited_and_deleted(lab: Lab) -> None:
    await subnet(lab, "s4", "10.6.0.0/16", "10.6.1.1-10.6.1.2")
    async with leader(lab):
        await workload(lab, replicas=4)
        await sized(lab, 2)
        await lab.store.patch(SUBNET, "s4", {"spec": {"ips": ["10.6.1.1-10.6.1.9"]}})
        await sized(lab, 5)

        async def is_protected() -> bool:
            stored = await lab.store.get(SUBNET, "s4")
            return stored is not None and stored.metadata.finalizers == (FINALIZER,)

        await until(is_protected)
        assert isinstance(await lab.store.delete(SUBNET, "s4"), Stored), "its pools hold it"
        await lab.store.delete(DEPLOYMENT, "web", namespace="default")
        await counted(lab, 0)

        async def is_gone() -> bool:
            return await lab.store.get(SUBNET, "s4") is None

        await until(is_gone)


@pytest.mark.case("I00003", "I00013")
@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_automatic_pools_of_each_kind(lab: Lab, kind: str) -> None:
    await subnet(lab)
    async with lab.agent("n1") as agent, leader(lab):
        made = await workload(lab, kind, "web", 2)
        await sized(lab, 3)
        sandboxes = [Sandbox(agent, await pod_of(lab, made, f"web-{i}", "n1")) for i in range(2)]
        got = [(await sandbox.add())[0] for sandbox in sandboxes]
        assert len(set(got)) == 2 and all(address.startswith("10.6.1.") for address in got)
        await scale(lab, kind, "web", 4)
        await sized(lab, 5)
        for sandbox in sandboxes:  # restarted
            await sandbox.remove()
            await lab.store.delete(POD, sandbox.pod.name, namespace="default")
        again = [Sandbox(agent, await pod_of(lab, made, f"web-{i}", "n1")) for i in range(4)]
        assert len({(await sandbox.add())[0] for sandbox in again}) == 4
        for sandbox in again:
            await sandbox.remove()
            await lab.store.delete(POD, sandbox.pod.name, namespace="default")
        await lab.store.delete(KINDS[kind], "web", namespace="default")
        await counted(lab, 0)


@pytest.mark.case("I00004", "I00011")
async def test_excluded_and_reserved_addresses_of_a_subnet(lab: Lab) -> None:
    await lab.create(RESERVED_IP, metadata={"name": "r"}, spec={"ips": ["10.6.1.3"]})
    await subnet(lab, "s4", "10.6.0.0/16", "10.6.1.1-10.6.1.9", excludeIPs=["10.6.1.1"])
    await lab.pool("manual", "10.6.0.0/16", "10.6.1.4-10.6.1.6", excludeIPs=["10.6.1.5"])
    async with leader(lab):
        await workload(lab)
        await counted(lab, 2)
        (auto,) = [pool for name, pool in (await pools(lab)).items() if name != "manual"]

        async def is_recorded() -> bool:
            return (await record(lab)).get("manual") == {"ips": ["10.6.1.4", "10.6.1.6"]}

        await until(is_recorded)
    assert auto.spec.ips == ("10.6.1.2", "10.6.1.5", "10.6.1.7")


@pytest.mark.case("I00006")
async def test_automatic_pools_come_and_go(lab: Lab) -> None:
    await subnet(lab, "s4", "10.6.0.0/16", "10.6.1.1-10.6.1.30")
    async with leader(lab):
        for _round in range(3):
            await asyncio.gather(*(workload(lab, name=f"app{i}") for i in range(10)))
            await sized(lab, 3, of=10)
            for i in range(10):
                await lab.store.delete(DEPLOYMENT, f"app{i}", namespace="default")
            await counted(lab, 0)
            await until(lambda: _is_empty(lab))


@pytest.mark.case("I00007")
async def test_manual_pools_come_and_go(lab: Lab) -> None:
    await subnet(lab)
    async with leader(lab):
        for _round in range(2):
            for i in range(5):
                await lab.pool(f"m{i}", "10.6.0.0/16", f"10.6.1.{i * 10 + 1}-10.6.1.{i * 10 + 9}")

            async def all_recorded() -> bool:
                return len(await record(lab)) == 5

            await until(all_recorded)
            for i in range(5):
                await lab.store.delete(IP_POOL, f"m{i}")
            await counted(lab, 0)
            await until(lambda: _is_empty(lab))


@pytest.mark.case("I00008")
async def test_repeated_scaling_settles(lab: Lab) -> None:
    await subnet(lab)
    async with leader(lab):
        await workload(lab)
        for replicas in (5, 1, 9, 3, 7, 0, 6):
            await scale(lab, "Deployment", "web", replicas)
        await sized(lab, 7)


@pytest.mark.case("I00009")
async def test_a_hundred_identical_subnets_at_once(lab: Lab) -> None:
    await asyncio.gather(*(subnet(lab, f"s{i:02}") for i in range(100)))
    asking = [{"ipam.spidernet.io/subnet": json.dumps({"ipv4": [name]})} for name in ("s00", "s42")]
    heard = Heard()
    async with leader(lab, heard=heard):
        await workload(lab, name="first", annotations=asking[0])
        await workload(lab, name="second", annotations=asking[1])
        await sized(lab, 3)
        await eventually(lambda: any("overlaps the older subnet s00" in note for _, _, note in heard.told))
        (pool,) = await pools(lab)
        assert pool.startswith("auto4-first-")
        assert isinstance(await lab.store.patch(SUBNET, "s42", {"spec": {"ips": ["10.6.1.1-10.6.1.9"]}}), Stored)
        for i in range(100):
            if i != 42:
                await lab.store.delete(SUBNET, f"s{i:02}")
        await lab.store.delete(DEPLOYMENT, "first", namespace="default")
        await lab.store.patch(SUBNET, "s42", {"spec": {"ips": ["10.6.1.1-10.6.1.50"]}})
        await until(lambda: _has(lab, "auto4-second-eth0"))


async def _has(lab: Lab, prefix: str) -> bool:
    return [name for name in await pools(lab) if name.startswith(prefix)] != []


@pytest.mark.case("I00012", "I00021")
async def test_several_interfaces_of_applications_of_one_name(lab: Lab) -> None:
    await subnet(lab)
    await subnet(lab, "t4", "10.7.0.0/16", "10.7.1.1-10.7.1.50")
    asking = [{"interface": "eth0", "ipv4": ["s4"]}, {"interface": "net1", "ipv4": ["t4"]}]
    notes = {"ipam.spidernet.io/subnets": json.dumps(asking)}
    async with lab.agent("n1") as agent, leader(lab):
        made = [await workload(lab, kind, "web", annotations=notes) for kind in ("Deployment", "StatefulSet")]
        await sized(lab, 3, of=4)
        sandboxes = [Sandbox(agent, await pod_of(lab, owner, f"web-{i}", "n1")) for i, owner in enumerate(made)]
        got = [(await sandbox.add(ifname))[0] for sandbox in sandboxes for ifname in ("eth0", "net1")]
    assert [address[:4] for address in got] == ["10.6", "10.7", "10.6", "10.7"] and len(set(got)) == 4


@pytest.mark.case("I00015", "I00016", "I00019")
async def test_a_kept_pool(lab: Lab) -> None:
    await subnet(lab)
    keep = {**ASKS, RECLAIM: "false"}
    async with leader(lab):
        await workload(lab, annotations=keep)
        await sized(lab, 3)
        (kept,) = await pools(lab)
        await lab.store.delete(DEPLOYMENT, "web", namespace="default")
        await workload(lab, "StatefulSet", "web")
        await sized(lab, 3, of=2)
        await workload(lab, annotations=keep)
        await asyncio.sleep(0.3)
        assert len(await pools(lab)) == 2
        await lab.store.delete(DEPLOYMENT, "web", namespace="default")
        await asyncio.sleep(0.3)
        assert kept in await pools(lab)
        await lab.store.patch(IP_POOL, kept, {"metadata": {"labels": {RECLAIM: "true"}}})
        await counted(lab, 1)
        assert kept not in await pools(lab)


@pytest.mark.case("I00017")
@pytest.mark.parametrize("length", [63, 64, 253])
async def test_long_names(lab: Lab, length: int) -> None:
    await subnet(lab)
    async with lab.agent("n1") as agent, leader(lab):
        made = await workload(lab, name="n" * length)
        await sized(lab, 3)
        first = Sandbox(agent, await pod_of(lab, made, "p", "n1"))
        assert (await first.add())[0].startswith("10.6.1.")


@pytest.mark.case("I00018")
async def test_automatic_pools_are_put_back_when_edited(lab: Lab) -> None:
    await subnet(lab)
    async with leader(lab):
        await workload(lab)
        await sized(lab, 3)
        (before,) = (await pools(lab)).values()
        for ips in ([], ["10.6.1.50-10.6.1.60"], ["10.6.1.1"]):
            await lab.store.patch(IP_POOL, before.name, {"spec": {"ips": ips}})
            await sized(lab, 3)
            assert (await pools(lab))[before.name].spec.ips == before.spec.ips


@pytest.mark.case("I00020")
async def test_spare_addresses_serve_their_application_alone(lab: Lab) -> None:
    await subnet(lab, "s4", "10.6.0.0/16", "10.6.1.1-10.6.1.5")
    async with lab.agent("n1") as agent, leader(lab):
        await workload(lab, annotations={**ASKS, NUMBER: "5"}, replicas=1)
        await sized(lab, 5)
        (name,) = await pools(lab)
        thief = Sandbox(agent, await pod(lab, "thief", annotations=asks(name)))
        assert (await thief.refused())["code"] == 111
        other = await workload(lab, name="other", replicas=1)
        starved = Sandbox(agent, await pod_of(lab, other, "o", "n1"))
        assert (await starved.refused())["code"] == 11


async def _record_text(lab: Lab) -> str:
    stored = await lab.store.get(SUBNET, "s4")
    assert stored is not None and stored.status is not UNSET
    return stored.status.controlled_ip_pools or ""


@pytest.mark.case("I00022")
async def test_dirty_data_in_a_subnet(lab: Lab) -> None:
    await subnet(lab)
    async with leader(lab):
        await workload(lab)
        await sized(lab, 3)
        before, text = await record(lab), await _record_text(lab)
        for dirt in ('{"ghost":{"ips":["10.6.1.1-10.6.1.90"]}}', "not json", '{"x":1}', None):
            await lab.store.patch(SUBNET, "s4", {"status": {"controlledIPPools": dirt}}, subresource="status")

            async def is_clean() -> bool:
                return await _record_text(lab) == text

            await until(is_clean)
        assert addresses((await pools(lab))[next(iter(before))]).size == 3


@pytest.mark.case("I00023")
async def test_bare_pods(lab: Lab) -> None:
    await subnet(lab)
    async with lab.agent("n1") as agent, leader(lab):
        error = await Sandbox(agent, await pod(lab, "bare", annotations=ASKS)).refused()
        assert error["code"] == 101 and "no-controller" in error["msg"] and await pools(lab) == {}


@pytest.mark.case("I00024")
async def test_the_feature_is_off(lab: Lab) -> None:
    await subnet(lab)
    off = FeatureSettings(enable_auto_pool_for_application=False)
    too = ApplicationSettings(enable_auto_pool_for_application=False)
    async with lab.agent("n1", features=off) as agent, leader(lab, applications=too):
        made = await workload(lab)
        error = await Sandbox(agent, await pod_of(lab, made, "p", "n1")).refused()
        await asyncio.sleep(0.2)
        assert error["code"] == 101 and "switched off" in error["msg"] and await pools(lab) == {}
