"""Groups D and S: pools as objects; excluded and reserved addresses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from adapters.kube.store import Deleted, Stored
from crds.meta import UNSET
from crds.spiderpool import IP_POOL, RESERVED_IP, SUBNET, SpiderIPPool
from tests.compat.steps import V4, Sandbox, asks, held, pod
from tests.contract.crds.conftest import Api
from tests.unit.leader.harness import leader, until
from tests.unit.leader.workloads import addresses, counted, pools, subnet
from tests.unit.nodeagent.harness import Lab, eventually


async def _pool(lab: Lab, name: str) -> SpiderIPPool:
    stored = await lab.store.get(IP_POOL, name)
    assert stored is not None
    return stored


async def _condition(lab: Lab, name: str, kind: str, status: str) -> None:
    async def holds() -> bool:
        stored = await _pool(lab, name)
        found = stored.status.conditions if stored.status is not UNSET else ()
        return any(item.type == kind and item.status == status for item in found)

    await until(holds)


@pytest.mark.case("D00001")
async def test_an_address_of_two_pools_is_given_out_once_by_the_older(lab: Lab) -> None:
    await lab.pool("old", "10.1.1.0/24", "10.1.1.5-10.1.1.6")
    await lab.pool("young", "10.1.1.0/24", "10.1.1.6-10.1.1.7")
    async with lab.agent("n1") as agent, leader(lab):
        got = [
            (await Sandbox(agent, await pod(lab, f"p{i}", annotations=asks(name))).add())[0]
            for i, name in enumerate(("old", "old", "young"))
        ]
        assert sorted(got) == ["10.1.1.5", "10.1.1.6", "10.1.1.7"] and got[2] == "10.1.1.7"
        await _condition(lab, "young", "Overlapping", "True")


@pytest.mark.case("D00002")
async def test_new_routes_and_gateway_reach_new_pods_only(lab: Lab) -> None:
    await lab.pool("a", "10.1.1.0/24", "10.1.1.5-10.1.1.9", gateway="10.1.1.1")
    async with lab.agent("n1") as agent:
        before = await Sandbox(agent, await pod(lab, "p0", annotations=asks("a"))).answer()
        changes = {"spec": {"gateway": "10.1.1.2", "routes": [{"dst": "10.9.0.0/16", "gw": "10.1.1.3"}]}}
        await lab.store.patch(IP_POOL, "a", changes)
        await eventually(lambda: str(agent.world.pools.catalog.get("a").gateway) == "10.1.1.2")  # type: ignore[union-attr]
        after = await Sandbox(agent, await pod(lab, "p1", annotations=asks("a"))).answer()
    assert before["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.1.1.1"}]
    assert after["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.1.1.2"}, {"dst": "10.9.0.0/16", "gw": "10.1.1.3"}]


@pytest.mark.case("D00003")
@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"gateway": "10.2.0.1"}, "gateway"),
        ({"gateway": "router"}, "must be an IP address"),
        ({"routes": [{"dst": "0.0.0.0/0", "gw": "10.1.1.2"}]}, "specify gateway instead"),
        ({"routes": [{"dst": "10.9.0.0/16", "gw": "10.2.0.2"}]}, "gw"),
        ({"routes": [{"dst": "fd00::/64", "gw": "10.1.1.2"}]}, "dst"),
    ],
)
def test_a_wrong_gateway_or_route_is_refused_by_the_api_server(api: Api, spec: dict[str, Any], why: str) -> None:
    body = {
        "apiVersion": IP_POOL.api_version,
        "kind": IP_POOL.kind,
        "metadata": {"name": "compat-wrong"},
        "spec": {"subnet": "10.1.1.0/24", "ips": ["10.1.1.5-10.1.1.9"], **spec},
    }
    answer = api.request("POST", IP_POOL.path(), body)
    assert answer.status == 422 and why in answer.message, answer


@pytest.mark.case("D00003")
async def test_a_gateway_among_the_addresses_is_reported_and_never_given_out(lab: Lab) -> None:
    await lab.pool("a", "10.1.1.0/24", "10.1.1.5-10.1.1.6", gateway="10.1.1.5")
    async with lab.agent("n1") as agent, leader(lab):
        await _condition(lab, "a", "Ready", "False")
        assert await Sandbox(agent, await pod(lab, "p0", annotations=asks("a"))).add() == ["10.1.1.6"]
        assert (await Sandbox(agent, await pod(lab, "p1", annotations=asks("a"))).refused())["code"] == 11


@pytest.mark.case("D00004")
async def test_a_pool_in_use_stays_until_its_last_address_is_released(lab: Lab) -> None:
    await lab.pool("a", "10.1.1.0/24", "10.1.1.5-10.1.1.9")
    async with lab.agent("n1") as agent, leader(lab):
        one = Sandbox(agent, await pod(lab, "p", annotations=asks("a")))
        await one.add()

        async def is_counted() -> bool:
            stored = await _pool(lab, "a")
            return stored.status is not UNSET and stored.status.allocated_ip_count == 1

        await until(is_counted)
        assert isinstance(await lab.store.delete(IP_POOL, "a"), Stored)
        await asyncio.sleep(0.3)
        assert (await _pool(lab, "a")).deleting
        await one.remove()
        await counted(lab, 0)


@pytest.mark.case("D00005")
async def test_a_disabled_pool_gives_nothing_and_takes_back(lab: Lab) -> None:
    await lab.pool("a", "10.1.1.0/24", "10.1.1.5-10.1.1.9")
    async with lab.agent("n1") as agent:
        one = Sandbox(agent, await pod(lab, "p0", annotations=asks("a")))
        await one.add()
        await lab.store.patch(IP_POOL, "a", {"spec": {"disable": True}})
        await eventually(lambda: agent.world.pools.catalog.get("a").disable)  # type: ignore[union-attr]
        error = await Sandbox(agent, await pod(lab, "p1", annotations=asks("a"))).refused()
        assert error["code"] == 111 and "disabled" in error["details"]
        await one.remove()
        assert held(agent) == set()


@pytest.mark.case("D00006")
async def test_many_pools_at_once(lab: Lab) -> None:
    async with leader(lab):
        await asyncio.gather(*(lab.pool(f"p{i}", f"10.1.{i}.0/24", f"10.1.{i}.5-10.1.{i}.9") for i in range(50)))
        for name in ("p0", "p49"):
            await _condition(lab, name, "Ready", "True")
        await asyncio.gather(*(lab.store.delete(IP_POOL, f"p{i}") for i in range(50)))
        await until(lambda: _none_left(lab), timeout_s=15.0)


async def _none_left(lab: Lab) -> bool:
    return await pools(lab) == {}


@pytest.mark.case("D00007")
async def test_a_pool_by_hand(lab: Lab) -> None:
    await lab.pool("a", "10.1.1.0/24", "10.1.1.5")
    async with lab.agent("n1") as agent:
        await Sandbox(agent, await pod(lab, "p0", annotations=asks("a"))).add()
        await lab.store.patch(IP_POOL, "a", {"spec": {"ips": ["10.1.1.5-10.1.1.6"]}})
        two = Sandbox(agent, await pod(lab, "p1", annotations=asks("a")))
        assert await two.add() == ["10.1.1.6"]
        await two.remove()
    assert isinstance(await lab.store.delete(IP_POOL, "a"), Deleted)


@pytest.mark.case("D00008", "I00005")
async def test_a_pool_by_hand_inherits_from_its_subnet_once(lab: Lab) -> None:
    routes = [{"dst": "10.9.0.0/16", "gw": "10.6.0.2"}]
    await subnet(lab, "s4", "10.6.0.0/16", gateway="10.6.0.1", routes=routes)
    await lab.pool("plain", "10.6.0.0/16", "10.6.1.1-10.6.1.5")
    await lab.pool("own", "10.6.0.0/16", "10.6.1.6-10.6.1.9", gateway="10.6.0.3", routes=[])
    async with leader(lab):

        async def inherited() -> bool:
            return (await _pool(lab, "plain")).spec.gateway == "10.6.0.1"

        await until(inherited)
        await _condition(lab, "own", "Ready", "True")
        await lab.store.patch(SUBNET, "s4", {"spec": {"gateway": "10.6.0.9"}})
        await asyncio.sleep(0.3)
        plain, own = await _pool(lab, "plain"), await _pool(lab, "own")
    assert plain.spec.routes is not UNSET and [route.dst for route in plain.spec.routes] == ["10.9.0.0/16"]
    assert (plain.spec.gateway, own.spec.gateway) == ("10.6.0.1", "10.6.0.3")
    assert not own.spec.routes and plain.spec.ip_version == 4
    assert plain.labels["ipam.spidernet.io/ippool-cidr"] == "10-6-0-0-16"
    assert plain.labels["ipam.spidernet.io/owner-spider-subnet"] == "s4"
    assert plain.controller is not None and plain.controller.name == "s4"


@pytest.mark.case("D00017")
async def test_a_large_pool_is_counted(lab: Lab) -> None:
    await lab.pool("big", "fd00::/48", "fd00::1-fd00::ffff:ffff:ffff", excludeIPs=["fd00::10-fd00::1f"])
    async with leader(lab):

        async def is_counted() -> bool:
            stored = await _pool(lab, "big")
            return stored.status is not UNSET and stored.status.total_ip_count == 2**48 - 1 - 16

        await until(is_counted)


@pytest.mark.case("S00001", "S00002", "S00004")
async def test_reserved_and_excluded_addresses_are_never_given_out(lab: Lab) -> None:
    await lab.create(RESERVED_IP, metadata={"name": "r"}, spec={"ips": ["10.1.1.5-10.1.1.6"]})
    await lab.pool("a", "10.1.1.0/24", "10.1.1.5-10.1.1.9", excludeIPs=["10.1.1.8"])
    async with lab.agent("n1") as agent:
        pods = [await pod(lab, f"p{i}", annotations=asks("a")) for i in range(3)]
        got = {(await Sandbox(agent, one).add())[0] for one in pods[:2]}
        assert got == {"10.1.1.7", "10.1.1.9"}
        assert (await Sandbox(agent, pods[2]).refused())["code"] == 11


@pytest.mark.case("S00003")
async def test_an_excluded_address_in_use_stays_with_its_pod_and_goes_to_nobody_else(lab: Lab) -> None:
    await lab.pool("a", "10.1.1.0/24", "10.1.1.5-10.1.1.6")
    async with lab.agent("n1") as agent:
        one = Sandbox(agent, await pod(lab, "p0", annotations=asks("a")))
        (address,) = await one.add()
        await lab.store.patch(IP_POOL, "a", {"spec": {"excludeIPs": [address]}})
        await eventually(lambda: agent.world.pools.effective["a"].size == 1)
        assert await one.add() == [address]
        await Sandbox(agent, await pod(lab, "p1", annotations=asks("a"))).add()
        await one.remove()
        assert (await Sandbox(agent, await pod(lab, "p2", annotations=asks("a"))).refused())["code"] == 11


@pytest.mark.case("I00010")
async def test_a_hundred_identical_pools_at_once(lab: Lab) -> None:
    await asyncio.gather(*(lab.pool(f"p{i:02}", *V4) for i in range(100)))
    async with lab.agent("n1") as agent, leader(lab):
        usable = [name for name, found in agent.world.pools.effective.items() if found]
        assert len(usable) == 1
        await Sandbox(agent, await pod(lab, "p", annotations=asks(usable[0]))).add()
        losers = [name for name in await pools(lab) if name != usable[0]]
        await _condition(lab, losers[0], "Overlapping", "True")
        assert isinstance(await lab.store.patch(IP_POOL, losers[0], {"spec": {"ips": ["10.6.0.1-10.6.0.9"]}}), Stored)
        await eventually(lambda: agent.world.pools.effective[losers[0]].size == 9)
        await lab.store.delete(IP_POOL, losers[1])
        await until(lambda: _is_gone(lab, losers[1]))
    assert addresses(await _pool(lab, losers[0])).size == 9


async def _is_gone(lab: Lab, name: str) -> bool:
    return await lab.store.get(IP_POOL, name) is None
