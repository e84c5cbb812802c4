"""Group E: pods of every kind get addresses of every family."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.compat.steps import IPPOOLS, V4, V6, Sandbox, asks, asks_each, held, pod, pools_of_both
from tests.unit.leader.harness import leader
from tests.unit.leader.workloads import pod_of, sized, subnet, workload
from tests.unit.nodeagent.harness import Lab

FAMILIES = {"IPv4": ("v4",), "IPv6": ("v6",), "dual": ("v4", "v6")}


async def _pools(lab: Lab, families: str) -> None:
    for name in FAMILIES[families]:
        await lab.pool(name, *(V4 if name == "v4" else V6), default=True)


def _fits(addresses: list[str], families: str) -> bool:
    return [("v6" if ":" in address else "v4") for address in addresses] == list(FAMILIES[families])


@pytest.mark.case("E00001")
@pytest.mark.parametrize("families", FAMILIES)
async def test_a_pod(lab: Lab, families: str) -> None:
    await _pools(lab, families)
    async with lab.agent("n1") as agent:
        assert _fits(await Sandbox(agent, await pod(lab, "p")).add(), families)


@pytest.mark.parametrize("families", FAMILIES)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("Deployment", marks=pytest.mark.case("E00002")),
        pytest.param("StatefulSet", marks=pytest.mark.case("E00003")),
        pytest.param("DaemonSet", marks=pytest.mark.case("E00004")),
        pytest.param("Job", marks=pytest.mark.case("E00005")),
        pytest.param("ReplicaSet", marks=pytest.mark.case("E00006")),
    ],
)
async def test_pods_of_a_controller(lab: Lab, kind: str, families: str) -> None:
    await _pools(lab, families)
    made = await workload(lab, kind, "web", 4, annotations={})
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        pods = [await pod_of(lab, made, f"web-{i}", f"n{i % 2 + 1}") for i in range(4)]
        answers = await asyncio.gather(*(Sandbox((one, two)[i % 2], of).add() for i, of in enumerate(pods)))
    assert all(_fits(answer, families) for answer in answers)
    assert len({address for answer in answers for address in answer}) == 4 * len(FAMILIES[families])


@pytest.mark.case("E00007")
async def test_a_pod_with_a_very_long_manifest(lab: Lab) -> None:
    await pools_of_both(lab)
    notes = {f"example.com/note-{i}": "x" * 1000 for i in range(200)}
    async with lab.agent("n1") as agent:
        assert len(await Sandbox(agent, await pod(lab, "p", annotations=notes)).add()) == 2


@pytest.mark.case("E00008")
async def test_an_exhausted_pool(lab: Lab) -> None:
    await lab.pool("one", "10.8.0.0/24", "10.8.0.5")
    async with lab.agent("n1") as agent:
        await Sandbox(agent, await pod(lab, "p0", annotations=asks("one"))).add()
        error = await Sandbox(agent, await pod(lab, "p1", annotations=asks("one"))).refused()
        assert error["code"] == 11 and "one" in error["msg"] and len(held(agent)) == 1


@pytest.mark.case("E00009")
@pytest.mark.parametrize("family", ["v4", "v6"])
async def test_one_family_by_ippools(lab: Lab, family: str) -> None:
    await pools_of_both(lab)
    notes = asks_each({"interface": "eth0", f"ip{family}": [family]})
    assert IPPOOLS in notes
    async with lab.agent("n1") as agent:
        (address,) = await Sandbox(agent, await pod(lab, "p", annotations=notes)).add()
    assert (":" in address) == (family == "v6")


@pytest.mark.case("E00010")
@pytest.mark.parametrize("family", ["4", "6"])
async def test_one_family_by_subnet(lab: Lab, family: str) -> None:
    await subnet(lab)
    await subnet(lab, "s6", "fd00::/64", "fd00::1-fd00::50")
    notes = {"ipam.spidernet.io/subnet": json.dumps({f"ipv{family}": [f"s{family}"]})}
    async with lab.agent("n1") as agent, leader(lab):
        made = await workload(lab, annotations=notes)
        await sized(lab, 3)
        (address,) = await Sandbox(agent, await pod_of(lab, made, "p", "n1")).add()
    assert (":" in address) == (family == "6")
