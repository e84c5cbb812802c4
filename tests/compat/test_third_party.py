"""Group T with Subnets: controllers that Kubernetes does not ship. The fixed number only, no scaling, no deletion, and every pod stateless."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from crds.core import POD, Pod
from crds.spiderpool import IP_POOL
from ipam.addresses import Address, Family
from tests.compat.steps import Sandbox, held, pod
from tests.unit.leader.harness import leader, until
from tests.unit.leader.workloads import addresses, pod_of, pools, record, sized, subnet, workload
from tests.unit.nodeagent.harness import Lab, eventually

CLONES = ("apps.kruise.io/v1alpha1", "CloneSet")
SETS = ("apps.kruise.io/v1beta1", "StatefulSet")


async def clone(
    lab: Lab,
    name: str,
    node: str = "n1",
    *,
    kind: tuple[str, str] = CLONES,
    uid: str = "u-4d2f1",
    notes: dict[str, str] | None = None,
) -> Pod:
    """A pod of the application `game`."""
    owner = {"apiVersion": kind[0], "kind": kind[1], "name": "game", "uid": uid, "controller": True}
    asked: dict[str, Any] = {"subnet": json.dumps({"ipv4": ["s4"]}), "ippool-ip-number": "3", **(notes or {})}
    annotations = {f"ipam.spidernet.io/{key}": value for key, value in asked.items() if value}
    return await pod(lab, name, node, ownerReferences=[owner], annotations=annotations)


async def ends(lab: Lab, sandbox: Sandbox) -> None:
    await sandbox.remove()
    await lab.store.delete(POD, sandbox.pod.name, namespace="default")


@pytest.mark.case("T00002")
@pytest.mark.parametrize("kind", [CLONES, SETS], ids=["CloneSet", "StatefulSet"])
async def test_a_subnet_serves_an_application_whose_controller_nobody_here_knows(
    lab: Lab, kind: tuple[str, str]
) -> None:
    await subnet(lab)
    async with lab.agent("n1") as one, lab.agent("n2") as two, leader(lab):
        sandboxes = [
            Sandbox(agent, await clone(lab, f"game-{i}", node, kind=kind))
            for i, (agent, node) in enumerate(((one, "n1"), (two, "n2"), (one, "n1")))
        ]
        got = await asyncio.gather(*(sandbox.add() for sandbox in sandboxes))
        (pool,) = (await pools(lab)).values()
        assert pool.name == "auto4-game-eth0-4d2f1" and addresses(pool).size == 3
        assert len({address for (address,) in got}) == 3
        group, _, version = kind[0].partition("/")
        assert pool.labels["ipam.spidernet.io/owner-application-gv"] == f"{group}_{version}"
        assert (await record(lab))[pool.name]["application"] == f"{group}_{version}_{kind[1]}_default_game"
        error = await Sandbox(one, await clone(lab, "game-9", kind=kind)).refused()
        assert error["code"] == 11, "the number is fixed: a fourth pod waits"
        for sandbox in sandboxes:
            await ends(lab, sandbox)
        await asyncio.sleep(0.5)
        assert await lab.store.get(IP_POOL, pool.name) is not None, (
            "that no pod is left says nothing about the application"
        )


@pytest.mark.case("T00002")
@pytest.mark.parametrize("number", ["", "+2"])
async def test_only_a_fixed_number_is_accepted(lab: Lab, number: str) -> None:
    await subnet(lab)
    async with lab.agent("n1") as agent, leader(lab):
        made = await clone(lab, "game-1", notes={"ippool-ip-number": number})
        error = await Sandbox(agent, made).refused()
        assert error["code"] == 101 and "only supports fixed auto-created IPPool IP Number" in error["msg"]
        assert await pools(lab) == {} and held(agent) == set()


async def test_the_youngest_pod_says_how_many_addresses_there_shall_be(lab: Lab) -> None:
    await subnet(lab)
    async with lab.agent("n1") as agent, leader(lab):
        await Sandbox(agent, await clone(lab, "game-1")).add()
        await sized(lab, 3)
        await asyncio.sleep(1.0)  # ages are told in whole seconds
        await clone(lab, "game-2", notes={"ippool-ip-number": "5"})
        await sized(lab, 5)


async def test_a_native_workload_of_the_same_kind_and_name_is_another_application(lab: Lab) -> None:
    await subnet(lab)
    native = await workload(lab, "StatefulSet", "game", 2)
    async with lab.agent("n1") as agent, leader(lab):
        theirs = await Sandbox(agent, await pod_of(lab, native, "game-0", "n1")).add()
        ours = await Sandbox(agent, await clone(lab, "clone-0", kind=SETS)).add()
        assert len(await pools(lab)) == 2 and not set(theirs) & set(ours)


@pytest.mark.case("T00004", "T00005")
async def test_a_kept_pool_serves_the_application_of_that_name_and_kind_again_and_no_other(lab: Lab) -> None:
    await subnet(lab)
    async with lab.agent("n1") as agent, leader(lab):
        first = Sandbox(agent, await clone(lab, "game-1", notes={"ippool-reclaim": "false"}))
        address = await first.add()
        (kept,) = await pools(lab)
        await ends(lab, first)
        await eventually(lambda: held(agent) == set())
        again = Sandbox(agent, await clone(lab, "game-2", uid="u-99999"))
        got = await again.add()
        (pool,) = (await pools(lab)).values()
        assert pool.name == kept and got[0] in _each(pool) and address[0] in _each(pool)

        async def is_renewed() -> bool:
            return (await pools(lab))[kept].labels["ipam.spidernet.io/owner-application-uid"] == "u-99999"

        await until(is_renewed)
        other = Sandbox(agent, await clone(lab, "game-3", kind=SETS, uid="u-77777"))
        (foreign,) = await other.add()
        assert set(await pools(lab)) == {kept, "auto4-game-eth0-77777"} and foreign not in _each(pool)


def _each(pool: Any) -> set[str]:
    return {str(Address(Family.V4, value)) for value in addresses(pool)}
