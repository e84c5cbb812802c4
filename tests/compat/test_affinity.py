"""Group L, and the affinity cases of group D: which pools serve which pods."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.compat.steps import NETWORKS, Sandbox, asks, label_node, namespace, pod
from tests.unit.leader.workloads import pod_of, workload
from tests.unit.nodeagent.harness import Lab, eventually

IN_A = {"matchLabels": {"zone": "a"}}
ADDRESSES = ("10.1.1.0/24", "10.1.1.5-10.1.1.9")


def case(number: str, verdict: str | None, spec: dict[str, Any], **given: Any) -> Any:
    """`verdict`: None if the pool serves the pod, else what the refusal says."""
    return pytest.param(spec, given, verdict, marks=pytest.mark.case(number), id=number)


@pytest.mark.parametrize(
    ("spec", "given", "verdict"),
    [
        case("L00001", None, {"nodeAffinity": IN_A}, node={"zone": "a"}),
        case("L00002", "nodeAffinity", {"nodeAffinity": IN_A}, node={"zone": "b"}),
        case("L00003", None, {"namespaceAffinity": IN_A}, namespace={"zone": "a"}),
        case("L00004", "namespaceAffinity", {"namespaceAffinity": IN_A}, namespace={"zone": "b"}),
        case("L00005", None, {"podAffinity": IN_A}, pod={"zone": "a"}),
        case("L00006", "podAffinity", {"podAffinity": IN_A}, pod={"zone": "b"}),
        case("D00009", None, {"multusName": ["kube-system/lan"]}, ifname="net1"),
        case("D00010", "multusName", {"multusName": ["kube-system/other"]}, ifname="net1"),
        case("D00011", None, {"nodeName": ["n1"]}),
        case("D00012", "nodeName", {"nodeName": ["n2"]}),
        case("D00013", None, {"nodeName": ["n1"], "nodeAffinity": IN_A}, node={"zone": "b"}),
        case("D00014", None, {"namespaceName": ["team"]}),
        case("D00015", "namespaceName", {"namespaceName": ["others"]}),
        case("D00016", None, {"namespaceName": ["team"], "namespaceAffinity": IN_A}, namespace={"zone": "b"}),
    ],
)
async def test_a_pool_serves_whom_it_names(
    lab: Lab, spec: dict[str, Any], given: dict[str, Any], verdict: str | None
) -> None:
    await lab.pool("a", *ADDRESSES, **spec)
    await namespace(lab, "team", labels=given.get("namespace", {}))
    await label_node(lab, "n1", **given.get("node", {}))
    notes = {**asks("a"), NETWORKS: "kube-system/lan"}
    async with lab.agent("n1") as agent:
        await eventually(lambda: agent.world.namespaces.get("team") is not None)
        made = await pod(lab, "p", namespace="team", labels=given.get("pod", {}), annotations=notes)
        sandbox, ifname = Sandbox(agent, made), given.get("ifname", "eth0")
        if verdict is None:
            assert (await sandbox.add(ifname))[0].startswith("10.1.1.")
        else:
            error = await sandbox.refused(ifname)
            assert error["code"] == 111 and f"a: {verdict}" in error["details"]


@pytest.mark.case("L00007")
async def test_a_daemon_set_over_zones(lab: Lab) -> None:
    await label_node(lab, "n1", zone="a")
    await label_node(lab, "n2", zone="b")
    await lab.pool("a", *ADDRESSES, nodeAffinity=IN_A)
    await lab.pool("b", "10.1.2.0/24", "10.1.2.5-10.1.2.9", nodeAffinity={"matchLabels": {"zone": "b"}})
    made = await workload(lab, "DaemonSet", "web", 2, annotations=asks("a", "b"))
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        first = await Sandbox(one, await pod_of(lab, made, "web-x", "n1")).add()
        second = await Sandbox(two, await pod_of(lab, made, "web-y", "n2")).add()
    assert first[0].startswith("10.1.1.") and second[0].startswith("10.1.2.")


@pytest.mark.case("L00008")
async def test_a_stateful_set_with_pod_affinity_keeps_its_addresses(lab: Lab) -> None:
    await lab.pool("a", *ADDRESSES, podAffinity=IN_A)
    owner = [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "u", "controller": True}]
    metadata: dict[str, Any] = {"labels": {"zone": "a"}, "annotations": asks("a"), "ownerReferences": owner}
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        started = [Sandbox(one, await pod(lab, f"web-{i}", "n1", **metadata)) for i in range(3)]
        before = [await sandbox.add() for sandbox in started]
        for sandbox in started:
            await sandbox.remove()
        again = [Sandbox(two, await pod(lab, f"web-{i}", "n2", **metadata)) for i in range(3)]
        assert [await sandbox.add() for sandbox in again] == before


@pytest.mark.case("L00009")
async def test_many_pools_of_a_namespace_and_many_namespaces_of_a_pool(lab: Lab) -> None:
    for index in (1, 2):
        await lab.pool(f"p{index}", f"10.1.{index}.0/24", f"10.1.{index}.5", namespaceName=["red"])
    await lab.pool("shared", "10.1.3.0/24", "10.1.3.5-10.1.3.9", namespaceName=["green", "blue"])
    key = "ipam.spidernet.io/default-ipv4-ippool"
    for name, pools in (("red", ["p1", "p2"]), ("green", ["shared"]), ("blue", ["shared"])):
        await namespace(lab, name, annotations={key: json.dumps(pools)})
    async with lab.agent("n1") as agent:
        await eventually(lambda: agent.world.namespaces.get("blue") is not None)
        got = [
            (await Sandbox(agent, await pod(lab, f"x{i}", namespace=name)).add())[0]
            for i, name in enumerate(("red", "red", "green", "blue"))
        ]
    assert [address[:6] for address in got] == ["10.1.1", "10.1.2", "10.1.3", "10.1.3"] and len(set(got)) == 4
