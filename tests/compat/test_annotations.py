"""Group A: what annotations ask for, which one wins, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.compat.steps import NETWORKS, ROUTES, V4, Sandbox, asks, asks_each, held, namespace, pod, pools_of_both, told
from tests.unit.nodeagent.harness import Lab, eventually

DEFAULT_V4 = "ipam.spidernet.io/default-ipv4-ippool"
STATEFUL = [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "u", "controller": True}]


async def _pools(lab: Lab, *names: str) -> None:
    """Pool `a1` has 10.1.1.*, `a2` 10.1.2.* and so on by position."""
    for index, name in enumerate(names, start=1):
        await lab.pool(name, f"10.1.{index}.0/24", f"10.1.{index}.5-10.1.{index}.9")


@pytest.mark.case("A00002")
async def test_routes_of_the_pod_go_to_the_interface_of_their_gateway(lab: Lab) -> None:
    await lab.pool("a", "10.1.1.0/24", "10.1.1.5-10.1.1.9", gateway="10.1.1.1")
    await lab.pool("b", "10.1.2.0/24", "10.1.2.5-10.1.2.9", routes=[{"dst": "10.9.0.0/16", "gw": "10.1.2.3"}])
    routes = [{"dst": "10.8.0.0/16", "gw": "10.1.1.2"}, {"dst": "10.7.0.0/16", "gw": "10.1.2.2"}]
    notes = asks_each({"interface": "eth0", "ipv4": ["a"]}, {"interface": "net1", "ipv4": ["b"]})
    async with lab.agent("n1") as agent:
        one = Sandbox(agent, await pod(lab, "p", annotations={**notes, ROUTES: json.dumps(routes)}))
        eth0, net1 = await one.answer(), await one.answer("net1")
        assert eth0["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.1.1.1"}, {"dst": "10.8.0.0/16", "gw": "10.1.1.2"}]
        assert net1["routes"] == [{"dst": "10.9.0.0/16", "gw": "10.1.2.3"}, {"dst": "10.7.0.0/16", "gw": "10.1.2.2"}]
        await eventually(lambda: agent.outbox.depth == 0)
        ips = await told(lab, "p")
    assert [(ip.interface, [route.dst for route in ip.routes]) for ip in ips] == [
        ("eth0", ["10.8.0.0/16"]),
        ("net1", ["10.9.0.0/16", "10.7.0.0/16"]),
    ]


@pytest.mark.case("A00003")
@pytest.mark.parametrize(
    "notes",
    [
        {"ippool": "{"},
        {"ippool": "[]"},
        {"ippool": "{}"},
        {"ippool": '{"ipv4":["a","a"]}'},
        {"ippool": '{"ipv4":"a"}'},
        {"ippools": "[]"},
        {"ippools": "{}"},
        {"ippools": '[{"interface":"eth0"}]'},
        {"ippools": '[{"interface":1,"ipv4":["a"]}]'},
        {"subnet": '{"ipv4":[]}'},
        {"subnets": '[{"interface":"eth0","ipv4":["s"]},{"interface":"net1","ipv4":["s"]}]'},
        {"ippool": '{"ipv4":["a"]}', "routes": '[{"dst":"10.0.0.1","gw":"x"}]'},
        {"ippool": '{"ipv4":["a"]}', "routes": '[{"dst":"10.0.0.0/16","gw":"fd00::1"}]'},
    ],
)
async def test_invalid_annotations(lab: Lab, notes: dict[str, str]) -> None:
    await _pools(lab, "a")
    annotations = {f"ipam.spidernet.io/{key}": value for key, value in notes.items()}
    async with lab.agent("n1") as agent:
        made = await pod(lab, "p", annotations=annotations, ownerReferences=STATEFUL)
        error = await Sandbox(agent, made).refused()
        assert error["code"] == 101 and "wrong input" in error["msg"] and held(agent) == set()


@pytest.mark.case("A00004")
async def test_pod_beats_namespace_beats_cni_configuration(lab: Lab) -> None:
    await _pools(lab, "by-pod", "by-namespace", "by-cni")
    await namespace(lab, "team", annotations={DEFAULT_V4: '["by-namespace"]'})
    netconf: dict[str, Any] = {"ipam": {"type": "nephila", "default_ipv4_ippool": ["by-cni"]}}
    async with lab.agent("n1") as agent:
        first = await pod(lab, "p0", namespace="team", annotations=asks("by-pod"))
        second = await pod(lab, "p1", namespace="team")
        third = await pod(lab, "p2")
        await eventually(lambda: agent.world.namespaces.get("team") is not None)
        got = [(await Sandbox(agent, one).add(**netconf))[0] for one in (first, second, third)]
    assert [address[:6] for address in got] == ["10.1.1", "10.1.2", "10.1.3"]


@pytest.mark.case("A00005")
async def test_ippools_beats_ippool(lab: Lab) -> None:
    await _pools(lab, "a", "b")
    async with lab.agent("n1") as agent:
        notes = {**asks("a"), **asks_each({"interface": "eth0", "ipv4": ["b"]})}
        assert (await Sandbox(agent, await pod(lab, "p", annotations=notes)).add())[0].startswith("10.1.2.")


@pytest.mark.case("A00006", "A00007")
@pytest.mark.parametrize("listed", ['["b"]', '["b*"]', '["?"]'])
async def test_namespace_beats_cluster_default_and_may_use_wildcards(lab: Lab, listed: str) -> None:
    await lab.pool("cluster-wide", *V4, default=True)
    await lab.pool("b", "10.1.2.0/24", "10.1.2.5-10.1.2.9")
    await namespace(lab, "team", annotations={DEFAULT_V4: listed})
    async with lab.agent("n1") as agent:
        await eventually(lambda: agent.world.namespaces.get("team") is not None)
        inside, outside = await pod(lab, "p", namespace="team"), await pod(lab, "q")
        assert (await Sandbox(agent, inside).add())[0].startswith("10.1.2.")
        assert (await Sandbox(agent, outside).add())[0].startswith("10.6.0.")


@pytest.mark.case("A00008")
async def test_containers_of_a_pod_share_one_sandbox_and_one_address(lab: Lab) -> None:
    await pools_of_both(lab)
    async with lab.agent("n1") as agent:
        one = Sandbox(agent, await pod(lab, "p"))
        assert await one.add() == await one.add() and len(held(agent)) == 2


@pytest.mark.case("A00009")
@pytest.mark.parametrize("owners", [[], STATEFUL], ids=["Deployment", "StatefulSet"])
async def test_a_changed_pool_annotation(lab: Lab, owners: list[Any]) -> None:
    await _pools(lab, "a", "b")
    async with lab.agent("n1") as agent:
        one = Sandbox(agent, await pod(lab, "web-0", annotations=asks("a"), ownerReferences=owners))
        assert (await one.add())[0].startswith("10.1.1.")
        await one.remove()
        two = Sandbox(agent, await pod(lab, "web-0", annotations=asks("b"), ownerReferences=owners))
        assert (await two.add())[0].startswith("10.1.2.")


async def _two_interfaces_restarted_and_moved(lab: Lab, first: dict[str, str], second: dict[str, str]) -> None:
    """A StatefulSet pod keeps both addresses across a restart, and changes both with its pools."""
    await _pools(lab, "a", "b", "c", "d")
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        started = Sandbox(one, await pod(lab, "web-0", "n1", annotations=first, ownerReferences=STATEFUL))
        before = [await started.add(), await started.add("net1")]
        assert [item[0][:6] for item in before] == ["10.1.1", "10.1.2"]
        await started.remove("eth0", "net1")
        again = Sandbox(two, await pod(lab, "web-0", "n2", annotations=first, ownerReferences=STATEFUL))
        assert [await again.add(), await again.add("net1")] == before
        await again.remove("eth0", "net1")
        changed = Sandbox(one, await pod(lab, "web-0", "n1", annotations=second, ownerReferences=STATEFUL))
        after = [await changed.add(), await changed.add("net1")]
        assert [item[0][:6] for item in after] == ["10.1.3", "10.1.4"]
        assert [ip.ipv4_pool for ip in await told(lab, "web-0")] == ["c", "d"]


@pytest.mark.case("A00010")
async def test_changed_pools_of_several_interfaces(lab: Lab) -> None:
    def named(eth0: str, net1: str) -> dict[str, str]:
        return asks_each({"interface": "eth0", "ipv4": [eth0]}, {"interface": "net1", "ipv4": [net1]})

    await _two_interfaces_restarted_and_moved(lab, named("a", "b"), named("c", "d"))


@pytest.mark.case("A00017")
@pytest.mark.parametrize("networks", ["ns/extra", '[{"name":"extra","namespace":"ns"}]', '[\n  {"name": "extra"}\n]'])
async def test_a_stateful_set_with_multus_networks(lab: Lab, networks: str) -> None:
    def named(eth0: str, net1: str) -> dict[str, str]:
        each = asks_each({"interface": "eth0", "ipv4": [eth0]}, {"interface": "net1", "ipv4": [net1]})
        return {NETWORKS: networks, **each}

    await _two_interfaces_restarted_and_moved(lab, named("a", "b"), named("c", "d"))


@pytest.mark.case("A00018")
async def test_a_stateful_set_with_unnamed_ippools(lab: Lab) -> None:
    def unnamed(eth0: str, net1: str) -> dict[str, str]:
        return {NETWORKS: "ns/extra", **asks_each({"ipv4": [eth0]}, {"ipv4": [net1]})}

    await _two_interfaces_restarted_and_moved(lab, unnamed("a", "b"), unnamed("c", "d"))


@pytest.mark.case("A00011")
@pytest.mark.parametrize("clean", [False, True])
async def test_gateway_and_cleangateway(lab: Lab, *, clean: bool) -> None:
    await lab.pool("a", "10.1.1.0/24", "10.1.1.5-10.1.1.9", gateway="10.1.1.1")
    notes = asks_each({"interface": "eth0", "ipv4": ["a"], "cleangateway": clean})
    async with lab.agent("n1") as agent:
        answer = await Sandbox(agent, await pod(lab, "p", annotations=notes)).answer()
        await eventually(lambda: agent.outbox.depth == 0)
        (ip,) = await told(lab, "p")
    assert answer["routes"] == ([] if clean else [{"dst": "0.0.0.0/0", "gw": "10.1.1.1"}])
    assert (ip.ipv4_gateway, bool(ip.clean_gateway)) == ("10.1.1.1", clean)


@pytest.mark.case("A00013", "A00014")
@pytest.mark.parametrize(
    "items",
    [
        [{"interface": "eth0", "ipv4": ["a"]}, {"ipv4": ["b"]}],
        [{"interface": "eth0", "ipv4": ["a"]}, {"interface": "eth0", "ipv4": ["b"]}],
    ],
    ids=["only one named", "named twice"],
)
async def test_half_named_or_twice_named_interfaces(lab: Lab, items: list[dict[str, Any]]) -> None:
    await _pools(lab, "a", "b")
    async with lab.agent("n1") as agent:
        error = await Sandbox(agent, await pod(lab, "p", annotations=asks_each(*items))).refused()
    assert error["code"] == 101


@pytest.mark.case("A00015")
async def test_wildcards_in_ippools(lab: Lab) -> None:
    await _pools(lab, "blue-1", "green-1")
    async with lab.agent("n1") as agent:
        made = await pod(lab, "p", annotations=asks_each({"interface": "eth0", "ipv4": ["green*"]}))
        assert (await Sandbox(agent, made).add())[0].startswith("10.1.2.")


@pytest.mark.case("A00016")
async def test_retries_of_a_pod_with_one_full_pool_drain_no_other(lab: Lab) -> None:
    await _pools(lab, "roomy")
    await lab.pool("tight", "10.2.0.0/24", "10.2.0.5")
    notes = asks_each({"interface": "eth0", "ipv4": ["roomy"]}, {"interface": "net1", "ipv4": ["tight"]})
    async with lab.agent("n1") as agent:
        first = Sandbox(agent, await pod(lab, "p0", annotations=notes))
        await first.add()
        await first.add("net1")
        starved = await pod(lab, "p1", annotations=notes)
        for _retry in range(3):
            sandbox = Sandbox(agent, starved)
            await sandbox.add()
            assert (await sandbox.refused("net1"))["code"] == 11
            await sandbox.remove("eth0", "net1")
        assert len(held(agent)) == 2
