"""Groups G, T, R and C: addresses come back, and only when nobody has them; components come and go meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from adapters.kube.memory import Answered, Call, Fault, MemoryStore
from crds.core import NODE, POD, STATEFUL_SET
from crds.meta import UNSET
from crds.nephila import IP_BLOCK
from crds.spiderpool import ENDPOINT, IP_POOL
from ipam.stock import State
from tests.compat.steps import Sandbox, asks, held, namespace, pod, pools_of_both
from tests.unit.leader.harness import leader, until
from tests.unit.leader.workloads import pod_of, workload
from tests.unit.nodeagent.harness import Lab, eventually

THIRD_PARTY = [
    {"apiVersion": "apps.kruise.io/v1beta1", "kind": "StatefulSet", "name": "web", "uid": "u", "controller": True}
]


async def _pool(lab: Lab, count: int = 5) -> None:
    await lab.pool("a", "10.1.1.0/24", f"10.1.1.1-10.1.1.{count}", default=True)


async def _endpoint_is_gone(lab: Lab, name: str) -> bool:
    return await lab.store.get(ENDPOINT, name, "default") is None


@pytest.mark.case("G00001")
async def test_a_deleted_namespace(lab: Lab) -> None:
    await _pool(lab)
    await namespace(lab, "team")
    async with lab.agent("n1") as agent:
        sandboxes = [Sandbox(agent, await pod(lab, f"p{i}", namespace="team")) for i in range(5)]
        for sandbox in sandboxes:
            await sandbox.add()
        for sandbox in sandboxes:
            await sandbox.remove()
            await lab.store.delete(POD, sandbox.pod.name, namespace="team")
        assert held(agent) == set()
        await eventually(lambda: agent.outbox.depth == 0)
        assert (await lab.store.list(ENDPOINT)).items == ()


@pytest.mark.case("G00002")
async def test_a_pod_of_the_same_name_elsewhere(lab: Lab) -> None:
    await _pool(lab)
    await namespace(lab, "team")
    async with lab.agent("n1") as agent:
        mine, other = Sandbox(agent, await pod(lab, "p")), Sandbox(agent, await pod(lab, "p", namespace="team"))
        (address,) = await mine.add()
        await other.add()
        await other.remove()
        await lab.store.delete(POD, "p", namespace="team")
        assert held(agent) == {address}


@pytest.mark.case("G00003", "G00006")
@pytest.mark.parametrize("end", ["deleted", "Succeeded", "Failed"])
async def test_an_end_that_nobody_reports(lab: Lab, end: str) -> None:
    await _pool(lab)
    async with lab.agent("n1") as agent:
        made = await lab.create(
            POD, metadata={"name": "p", "namespace": "default"}, spec={"nodeName": "n1", "restartPolicy": "Never"}
        )
        one = Sandbox(agent, made)
        lab.sandboxes.alive.add(f"/run/netns/{one.container}")
        await one.add()
        if end == "deleted":
            await lab.store.delete(POD, "p", namespace="default")
        else:
            await lab.store.patch(POD, "p", {"status": {"phase": end}}, namespace="default", subresource="status")
        await asyncio.sleep(0.5)
        assert held(agent), "its sandbox still lives"
        lab.sandboxes.alive.clear()
        await eventually(lambda: held(agent) == set())


@pytest.mark.case("G00004")
async def test_deletion_with_grace_zero(lab: Lab) -> None:
    await _pool(lab, 1)
    async with lab.agent("n1") as agent:
        old = Sandbox(agent, await pod(lab, "p"))
        (address,) = await old.add()
        lab.sandboxes.alive.add(f"/run/netns/{old.container}")
        new = Sandbox(agent, await pod(lab, "p"))  # the old object is gone at once, its sandbox is not
        assert (await new.refused())["code"] == 11 and held(agent) == {address}
        await old.remove()
        assert await new.add() == [address]


@pytest.mark.case("G00005", "G00007")
@pytest.mark.parametrize(
    "dirt",
    [
        '{"10.1.1.1":{"pod":"default/nobody","podUid":"x"},"10.1.1.2":{"pod":"default/p","podUid":"wrong"}}',
        "not json",
    ],
)
async def test_dirty_records(lab: Lab, dirt: str) -> None:
    """What a pool's status says is told, never believed: it takes no address away, and is put right."""
    await _pool(lab, 3)
    async with lab.agent("n1") as agent, leader(lab):
        (address,) = await Sandbox(agent, made := await pod(lab, "p")).add()
        await lab.store.patch(IP_POOL, "a", {"status": {"allocatedIPs": dirt}}, subresource="status")
        rest = [(await Sandbox(agent, await pod(lab, f"q{i}")).add())[0] for i in range(2)]
        assert sorted([address, *rest]) == ["10.1.1.1", "10.1.1.2", "10.1.1.3"]

        async def is_right() -> bool:
            stored = await lab.store.get(IP_POOL, "a")
            assert stored is not None and stored.status is not UNSET
            text = stored.status.allocated_ips or ""
            return made.uid in text and "nobody" not in text and stored.status.allocated_ip_count == 3

        await until(is_right)


@pytest.mark.case("G00008", "R00001", "R00004", "R00007")
async def test_components_restart_again_and_again(lab: Lab) -> None:
    await _pool(lab, 4)
    keep: dict[str, list[str]] = {}
    for turn in range(3):
        async with lab.agent("n1") as agent:
            if turn:  # what was given out before the restart is known after it
                assert held(agent) == {address for found in keep.values() for address in found}
            async with leader(lab, seed=turn):
                keep[f"p{turn}"] = await Sandbox(agent, await pod(lab, f"p{turn}")).add()
            if turn == 2:  # between two leaders
                keep["last"] = await Sandbox(agent, await pod(lab, "last")).add()
    assert len({address for found in keep.values() for address in found}) == 4


@pytest.mark.case("R00003")
async def test_the_api_server_is_away(lab: Lab) -> None:
    await pools_of_both(lab)
    down = False

    async def fault(_call: Call) -> Fault | None:
        return Answered(503) if down else None

    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=fault)) as agent:
        made = await pod(lab, "p")
        await eventually(lambda: agent.stock.count("v4", State.READY) > 0 and agent.stock.count("v6", State.READY) > 0)
        await eventually(lambda: agent.world.pods.get("p", "default") is not None)
        down = True
        one = Sandbox(agent, made)
        assert len(await one.add()) == 2
        await one.remove()
        down = False
        await eventually(lambda: agent.outbox.depth == 0, timeout_s=15.0)


@pytest.mark.case("R00006")
async def test_a_node_that_is_out_of_service_gives_way(lab: Lab) -> None:
    """A StatefulSet pod gets its address elsewhere once an administrator vouches for the dead node; others never wait for it."""
    await _pool(lab, 40)
    owner = [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "u", "controller": True}]
    async with lab.agent("n1") as one:
        (address,) = await Sandbox(one, await pod(lab, "web-0", "n1", ownerReferences=owner)).add()
        await Sandbox(one, await pod(lab, "plain", "n1")).add()
    async with lab.agent("n2") as two:
        moved = await pod(lab, "web-0", "n2", ownerReferences=owner)
        assert await Sandbox(two, await pod(lab, "plain", "n2")).add()
        assert (await Sandbox(two, moved).refused())["code"] == 11
        taint = {"key": "node.kubernetes.io/out-of-service", "value": "x", "effect": "NoExecute"}
        await lab.store.patch(NODE, "n1", {"spec": {"taints": [taint]}})
        assert await Sandbox(two, moved).add() == [address]


async def _pinned(lab: Lab) -> int:
    return sum(len(stored.spec.pins) for stored in (await lab.store.list(IP_BLOCK)).items)


@pytest.mark.case("G00010")
@pytest.mark.parametrize("end", ["scaled", "deleted"])
async def test_addresses_of_a_stateful_set_that_nobody_wants(lab: Lab, end: str) -> None:
    await _pool(lab, 3)
    made = await workload(lab, "StatefulSet", "web", 3, annotations={})
    async with lab.agent("n1") as agent, leader(lab):
        sandboxes = [Sandbox(agent, await pod_of(lab, made, f"web-{i}", "n1")) for i in range(3)]
        for sandbox in sandboxes:
            await sandbox.add()
        for sandbox in sandboxes[1:]:
            await sandbox.remove()
            await lab.store.delete(POD, sandbox.pod.name, namespace="default")
        await asyncio.sleep(0.5)
        assert await _pinned(lab) == 3, "they are wanted"
        if end == "scaled":
            await lab.store.patch(STATEFUL_SET, "web", {"spec": {"replicas": 1}}, namespace="default")
        else:
            await sandboxes[0].remove()
            await lab.store.delete(POD, "web-0", namespace="default")
            await lab.store.delete(STATEFUL_SET, "web", namespace="default")
        left = 1 if end == "scaled" else 0

        async def is_reclaimed() -> bool:
            return await _pinned(lab) == left and await _endpoint_is_gone(lab, "web-2")

        await until(is_reclaimed)
        for i in range(3 - left):
            assert await Sandbox(agent, await pod(lab, f"p{i}")).add()


@pytest.mark.case("G00011")
async def test_two_stateful_sets_share_a_pool_while_they_are_scaled(lab: Lab) -> None:
    await _pool(lab, 12)
    sets = {name: await workload(lab, "StatefulSet", name, 4, annotations={}) for name in ("red", "blue")}
    async with lab.agent("n1") as one, lab.agent("n2") as two, leader(lab):
        agents: tuple[Any, ...] = (one, two)
        running: dict[str, Sandbox] = {}
        for size in (4, 1, 5, 2, 6):
            await asyncio.gather(*(_scale_to(lab, agents, sets[name], size, running) for name in sets))
            addresses = [address for agent in agents for address in held(agent)]
            assert len(addresses) == len(set(addresses)) == 2 * size
    assert (await lab.store.list(IP_BLOCK)).items


async def _scale_to(lab: Lab, agents: tuple[Any, ...], owner: Any, size: int, running: dict[str, Sandbox]) -> None:
    await lab.store.patch(STATEFUL_SET, owner.name, {"spec": {"replicas": size}}, namespace="default")
    for i in range(8):
        name = f"{owner.name}-{i}"
        if i >= size and name in running:
            sandbox = running.pop(name)
            await sandbox.remove()
            await lab.store.delete(POD, name, namespace="default")
        elif i < size and name not in running:
            running[name] = Sandbox(agents[i % 2], await pod_of(lab, owner, name, f"n{i % 2 + 1}"))
            for _retry in range(4):  # as the kubelet does: addresses of the other set may be on their way back
                if "ips" in await running[name].answer():
                    break
            else:
                raise AssertionError(f"{name} got no address")


@pytest.mark.case("G00012")
async def test_several_kinds_compete_for_one_pool(lab: Lab) -> None:
    await _pool(lab, 12)
    kinds = ("Deployment", "StatefulSet", "DaemonSet", "Job")
    made = [await workload(lab, kind, f"app-{kind.lower()}", 3, annotations=asks("a")) for kind in kinds]
    async with lab.agent("n1") as one, lab.agent("n2") as two, leader(lab):
        agents = (one, two)
        for _round in range(2):
            pods = [await pod_of(lab, owner, f"{owner.name}-{i}", f"n{i % 2 + 1}") for owner in made for i in range(3)]
            sandboxes = [Sandbox(agents[i % 3 % 2], of) for i, of in enumerate(pods)]
            got = await asyncio.gather(*(sandbox.add() for sandbox in sandboxes))
            assert len({address for (address,) in got}) == 12
            await asyncio.gather(*(sandbox.remove() for sandbox in sandboxes))
            for of in pods:
                await lab.store.delete(POD, of.name, namespace="default")
            assert held(one) == held(two) == set()


@pytest.mark.case("T00001", "T00003")
async def test_a_third_party_stateful_set_with_a_pool_is_stateless(lab: Lab) -> None:
    await _pool(lab)
    async with lab.agent("n1") as agent:
        one = Sandbox(agent, await pod(lab, "web-0", ownerReferences=THIRD_PARTY))
        assert (await one.add())[0].startswith("10.1.1.")
        await eventually(lambda: agent.outbox.depth == 0)
        stored = await lab.store.get(ENDPOINT, "web-0", "default")
        assert stored is not None and stored.metadata.owner_references and await _pinned(lab) == 0
        await one.remove()
        await lab.store.delete(POD, "web-0", namespace="default")
        await until(lambda: _endpoint_is_gone(lab, "web-0"))
