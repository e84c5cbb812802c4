"""Forced reclaim over real agents and an in-memory API: what is taken, when, and what is never taken."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from adapters.kube.memory import Call, MemoryStore, NotSent
from adapters.kube.store import Stored
from crds.blocks import block_changes, block_from_wire
from crds.core import NODE, POD
from crds.meta import UNSET
from crds.nephila import IP_BLOCK, IP_NODE
from ipam import lease
from ipam.blocks import Block, Holder, NodeRef, PinOwner
from ipam.reclaim import Marked
from ipam.slots import SlotId
from leader import leader as leader_module
from leader import loop as leader_loop
from leader.config import ReclaimSettings
from leader.controllers.reclaim import CONFIRMED
from leader.leader import Leader
from tests.unit.leader.harness import Heard, leader
from tests.unit.nodeagent.harness import FAST, Lab, add, delete, eventually

QUICK = ReclaimSettings(agent_lease_s=0.5, grace_s=0.1, period_s=0.03)
SHORT = type(FAST)(heartbeat_s=0.1, lease_s=0.5, cooldown_s=0.1, cooldown_floor_s=0.1, wait_s=1.5)


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    for name in ("n1", "n2"):
        await lab.node(name)
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.0-10.6.0.63", default=True)  # one page
    return lab


async def block(lab: Lab) -> Block | None:
    items = (await lab.store.list(IP_BLOCK)).items
    return block_from_wire(items[0]) if items else None


async def leased(lab: Lab, node: str) -> int:
    found = await block(lab)
    return sum(lease.slots for lease in found.leases_named(node)) if found else 0


async def wait_for(condition: Any, timeout_s: float = 6.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.02)


async def endpoint_settled(agent: Any) -> None:
    await eventually(lambda: agent.outbox.depth == 0)


async def dead_node_with_a_pod(lab: Lab) -> tuple[str, int]:
    """n1 dies (kill -9) with one pod; returns its address and the mask that was leased."""
    async with lab.agent("n1", lease=SHORT) as agent:
        address = (await add(agent, "c1", await lab.pod("p", "n1")))[0]
        await endpoint_settled(agent)
        await eventually(lambda: len(agent.stock) > 1)
        return address, await leased(lab, "n1")


@pytest.mark.case("G00009")
async def test_free_slots_of_a_dead_node_are_taken_and_the_living_pods_address_is_not(lab: Lab) -> None:
    address, before = await dead_node_with_a_pod(lab)
    heard = Heard()
    async with leader(lab, "n2", reclaim=QUICK, heard=heard) as boss:
        await wait_for(lambda: _is_one_bit(lab))
        found = await block(lab)
        assert found is not None
        (kept,) = found.page.slot_ids(await leased(lab, "n1"))
        assert str(kept.address) == address
        assert found.suspect == before & ~kept.bit
        assert found.term == boss.elector.term
        assert ("n1", "NodeFenced") in {(name, reason) for name, reason, _ in heard.told}
        # The pod goes: its address is taken as well, and the mailbox stays as long as the Node object does.
        await lab.store.delete(POD, "p", namespace="default")
        await wait_for(lambda: _nothing_leased(lab, "n1"))
        assert await lab.store.get(IP_NODE, "n1") is not None


async def _is_one_bit(lab: Lab) -> bool:
    return (await leased(lab, "n1")).bit_count() == 1


async def _nothing_leased(lab: Lab, node: str) -> bool:
    return not await leased(lab, node)


async def test_a_gone_node_loses_everything_and_its_mailbox_last(lab: Lab) -> None:
    await dead_node_with_a_pod(lab)
    await lab.store.delete(NODE, "n1")
    async with leader(lab, "n2", reclaim=QUICK):
        await wait_for(lambda: _nothing_leased(lab, "n1"))

        async def buried() -> bool:
            return await lab.store.get(IP_NODE, "n1") is None

        await wait_for(buried)


async def test_nothing_is_taken_before_the_second_wait_is_over(lab: Lab) -> None:
    _, before = await dead_node_with_a_pod(lab)
    slow = ReclaimSettings(agent_lease_s=0.5, grace_s=0.45, period_s=0.03)  # 1 s, twice
    async with leader(lab, "n2", reclaim=slow):

        async def marked() -> bool:
            stored = await lab.store.get(IP_NODE, "n1")
            return stored is not None and stored.spec.fence is not UNSET

        await asyncio.sleep(0.6)
        assert not await marked()
        await wait_for(marked)
        await asyncio.sleep(0.7)
        assert await leased(lab, "n1") == before
        await wait_for(lambda: _is_one_bit(lab))


async def test_a_living_node_is_never_marked(lab: Lab) -> None:
    async with lab.agent("n1", lease=SHORT) as agent, leader(lab, "n2", reclaim=QUICK):
        await add(agent, "c1", await lab.pod("p", "n1"))
        await asyncio.sleep(2.0)
        stored = await lab.store.get(IP_NODE, "n1")
        assert stored is not None and stored.spec.fence is UNSET
        assert not agent.why_closed()


async def test_a_node_that_comes_back_answers_the_mark_and_keeps_its_leases(lab: Lab) -> None:
    _, before = await dead_node_with_a_pod(lab)
    slow = ReclaimSettings(agent_lease_s=0.5, grace_s=0.45, period_s=0.03)
    async with leader(lab, "n2", reclaim=slow):

        async def marked() -> bool:
            stored = await lab.store.get(IP_NODE, "n1")
            return stored is not None and stored.spec.fence is not UNSET

        await wait_for(marked)
        found = await block(lab)
        assert found is not None
        epoch = found.leases_named("n1")[0].epoch
        async with lab.agent("n1", lease=SHORT) as agent:
            assert not agent.why_closed()
            again = await block(lab)
            assert again is not None and again.leases_named("n1")[0].epoch > epoch
            await asyncio.sleep(1.5)
            assert (await leased(lab, "n1")) & before and not (await block(lab)).suspect  # type: ignore[union-attr]

            async def unmarked() -> bool:
                return not await marked()

            await wait_for(unmarked)


async def test_an_agent_cut_off_from_the_api_loses_its_free_slots_and_hands_out_none_of_them(lab: Lab) -> None:
    cut = [False]

    async def fault(_call: Call) -> NotSent | None:
        return NotSent() if cut[0] else None

    store = MemoryStore(lab.cluster, fault=fault)
    async with lab.agent("n1", store=store, lease=SHORT) as one, leader(lab, "n2", reclaim=QUICK):
        first = (await add(one, "c1", await lab.pod("p1", "n1")))[0]
        await endpoint_settled(one)
        cut[0] = True
        await wait_for(lambda: _is_one_bit(lab))
        assert one.why_closed()  # it has fenced itself
        async with lab.agent("n2", lease=SHORT) as two:
            pods = [await lab.pod(f"q{i}", "n2") for i in range(20)]
            others = [(await add(two, f"d{i}", pod))[0] for i, pod in enumerate(pods)]
            assert first not in others
            cut[0] = False
            await eventually(lambda: not one.why_closed(), 6.0)
            more = [(await add(one, f"e{i}", await lab.pod(f"r{i}", "n1")))[0] for i in range(5)]
            assert not {first, *others} & set(more)


@pytest.mark.parametrize("policy", ["Never", "Confirm"])
async def test_policy_withholds_what_is_not_certain(lab: Lab, policy: Any) -> None:
    _, before = await dead_node_with_a_pod(lab)
    settings = ReclaimSettings(agent_lease_s=0.5, grace_s=0.1, period_s=0.03, unreachable=policy)
    async with leader(lab, "n2", reclaim=settings):
        await asyncio.sleep(2.0)
        assert await leased(lab, "n1") == before
        if policy == "Never":
            return
        stored = await lab.store.get(IP_NODE, "n1")
        assert stored is not None and stored.spec.fence is not UNSET
        mark = stored.spec.fence.id
        await lab.store.patch(IP_NODE, "n1", {"metadata": {"annotations": {CONFIRMED: mark}}})
        await wait_for(lambda: _is_one_bit(lab))


async def test_out_of_service_gives_everything_free(lab: Lab) -> None:
    await dead_node_with_a_pod(lab)
    taint = {"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute", "value": "nodeshutdown"}
    assert isinstance(await lab.store.patch(NODE, "n1", {"spec": {"taints": [taint]}}), Stored)
    never = ReclaimSettings(agent_lease_s=0.5, grace_s=0.1, period_s=0.03, unreachable="Never")
    async with leader(lab, "n2", reclaim=never):
        await wait_for(lambda: _nothing_leased(lab, "n1"))


async def test_a_pod_without_a_known_address_protects_every_unrecorded_slot(lab: Lab) -> None:
    address, before = await dead_node_with_a_pod(lab)
    await lab.pod("starting", "n1")
    async with leader(lab, "n2", reclaim=QUICK):
        await asyncio.sleep(2.0)
        assert await leased(lab, "n1") == before
        await lab.store.delete(POD, "starting", namespace="default")
        await wait_for(lambda: _is_one_bit(lab))
        assert address


async def settle_elsewhere(lab: Lab, annotations: dict[str, str] | None) -> None:
    """A pod of n1 that runs with an address which is not ours: its `eth0` is another CNI's."""
    await lab.pod("elsewhere", "n1", annotations)
    status = {"phase": "Running", "podIPs": [{"ip": "172.16.0.9"}]}
    assert isinstance(
        await lab.store.patch(POD, "elsewhere", {"status": status}, namespace="default", subresource="status"), Stored
    )


@pytest.mark.parametrize(
    "annotations",
    [
        {"k8s.v1.cni.cncf.io/networks": "default/underlay"},
        {"k8s.v1.cni.cncf.io/network-status": '[{"name": "other"}, {"name": "default/underlay", "interface": "net1"}]'},
    ],
)
async def test_a_second_interface_that_no_record_tells_of_protects_every_unrecorded_slot(
    lab: Lab, annotations: dict[str, str]
) -> None:
    _, before = await dead_node_with_a_pod(lab)
    await settle_elsewhere(lab, annotations)
    async with leader(lab, "n2", reclaim=QUICK):
        await asyncio.sleep(2.0)
        assert await leased(lab, "n1") == before
        await lab.store.delete(POD, "elsewhere", namespace="default")
        await wait_for(lambda: _is_one_bit(lab))


async def test_a_pod_whose_only_interface_is_another_cnis_protects_nothing(lab: Lab) -> None:
    await dead_node_with_a_pod(lab)
    await settle_elsewhere(lab, {"k8s.v1.cni.cncf.io/network-status": '[{"name": "other", "interface": "eth0"}]'})
    async with leader(lab, "n2", reclaim=QUICK):
        await wait_for(lambda: _is_one_bit(lab))


async def two_dead_nodes(lab: Lab) -> None:
    for name in ("n0", "n1"):
        if name == "n0":
            await lab.node(name)
        async with lab.agent(name, lease=SHORT) as agent:
            await add(agent, f"c-{name}", await lab.pod(f"p-{name}", name))
            await endpoint_settled(agent)
            await eventually(lambda agent=agent: len(agent.stock) > 1)


async def _one_bit_of(lab: Lab, node: str) -> bool:
    return (await leased(lab, node)).bit_count() == 1


async def test_a_node_whose_objects_cannot_be_read_keeps_no_other_waiting(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_loop, "BACKOFF_S", (0.05, 0.1))
    await two_dead_nodes(lab)
    before = await leased(lab, "n0")
    broken = True

    async def fault(call: Call) -> NotSent | None:
        return NotSent() if broken and (call.verb, call.name) == ("get", "n0") else None

    async with leader(lab, "n2", reclaim=QUICK, store=MemoryStore(lab.cluster, fault=fault)) as boss:
        assert boss.reign is not None
        await wait_for(lambda: _one_bit_of(lab, "n1"), 15.0)
        assert await leased(lab, "n0") == before
        assert boss.reign.loop("reclaim").failures > 0
        broken = False
        await wait_for(lambda: _one_bit_of(lab, "n0"), 15.0)


async def test_silent_nodes_are_asked_for_at_a_bounded_rate_and_each_in_its_turn(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_module, "SWEEPS_PER_S", 10.0)
    monkeypatch.setattr(leader_module, "SWEEP_BURST", 1.0)
    await two_dead_nodes(lab)
    asked: list[str] = []

    async def fault(call: Call) -> None:
        if (call.verb, call.kind) == ("get", IP_NODE):
            asked.append(call.name)

    fast = ReclaimSettings(agent_lease_s=0.5, grace_s=0.1, period_s=0.005)
    async with leader(lab, "n2", reclaim=fast, store=MemoryStore(lab.cluster, fault=fault)):
        await wait_for(lambda: _one_bit_of(lab, "n0"), 10.0)
        await wait_for(lambda: _one_bit_of(lab, "n1"), 10.0)
        asked.clear()
        await asyncio.sleep(1.0)
        assert len(asked) <= 2 * 12  # ten turns, and one saved; a turn looks at the mailbox twice
        assert {"n0", "n1"} == set(asked)


async def touch(lab: Lab, node: NodeRef) -> None:
    """As another node does that fetches a pinned address from this one's lease: the rest of the lease has a new epoch."""
    stored = (await lab.store.list(IP_BLOCK)).items[0]
    found = block_from_wire(stored)
    held = found.lease_of(node)
    assert held is not None
    slot = held.slots.bit_length() - 1
    owner = PinOwner("StatefulSet", "default", "web-0", "eth0")
    pinned = lease.vacate_pin(lease.pin(found, held.node, slot, owner, Holder("n1", "gone")), held.node, slot, "gone")
    taker = NodeRef("n2", (await lab.store.get(NODE, "n2")).uid)  # type: ignore[union-attr]
    moved = lease.move_pin(pinned, owner, taker, Holder("n2", "uid-of-web-0"))
    outcome = await lab.store.patch(
        IP_BLOCK, stored.name, block_changes(moved), resource_version=stored.resource_version
    )
    assert isinstance(outcome, Stored)


@pytest.mark.parametrize("standing", ["silent", "gone", "replaced"])
async def test_a_pin_that_is_fetched_from_a_dead_nodes_lease_keeps_nobody_from_the_rest_of_it(
    lab: Lab, standing: str
) -> None:
    slow = ReclaimSettings(agent_lease_s=0.5, grace_s=0.45, period_s=0.03)  # time to fetch it before the wait is over
    await dead_node_with_a_pod(lab)
    await lab.store.delete(POD, "p", namespace="default")
    if standing != "silent":
        await lab.store.delete(NODE, "n1")
    if standing == "replaced":
        await lab.node("n1")
        lab.disks.pop("n1")
    async with AsyncExitStack() as stack:
        boss = await stack.enter_async_context(leader(lab, "n2", reclaim=slow))
        former = (await block(lab)).leases_named("n1")[0].node  # type: ignore[union-attr]
        if standing == "replaced":
            await stack.enter_async_context(lab.agent("n1", lease=SHORT))
        states = boss.reign.reclaim.successions if standing == "replaced" else boss.reign.reclaim.states  # type: ignore[union-attr]
        await eventually(lambda: isinstance(states.get("n1"), Marked))
        await touch(lab, former)

        async def gone() -> bool:
            found = await block(lab)
            return found is None or found.lease_of(former) is None

        await wait_for(gone, 15.0)


async def test_leases_of_a_replaced_node_go_while_its_successor_lives(lab: Lab) -> None:
    """The Node object was made anew and its disk is empty: nobody owns the former leases."""
    _, before = await dead_node_with_a_pod(lab)
    await lab.store.delete(POD, "p", namespace="default")
    await lab.store.delete(NODE, "n1")
    await lab.node("n1")
    lab.disks.pop("n1")
    async with leader(lab, "n2", reclaim=QUICK), lab.agent("n1", lease=SHORT) as agent:

        async def gone() -> bool:
            found = await block(lab)
            return found is None or all(lease.node == agent.keeper.me for lease in found.leases)

        await wait_for(gone)
        found = await block(lab)
        assert found is not None and found.suspect & before == before & ~found.leased
        assert not agent.why_closed()


async def test_slots_taken_by_force_are_used_last_and_only_after_a_probe(lab: Lab) -> None:
    await dead_node_with_a_pod(lab)
    async with leader(lab, "n2", reclaim=QUICK):
        await wait_for(lambda: _is_one_bit(lab))
        found = await block(lab)
        assert found is not None
        suspects = set(found.page.slot_ids(found.suspect))
    async with lab.agent("n2", lease=SHORT) as two:
        count = 64 - len(suspects) - 1
        got = [(await add(two, f"d{i}", await lab.pod(f"q{i}", "n2")))[0] for i in range(count)]
        assert not {str(slot.address) for slot in suspects} & set(got)
        await delete(two, "d0")
        assert isinstance(next(iter(suspects)), SlotId)


async def test_a_new_leader_starts_over_with_a_mark_of_its_own(lab: Lab) -> None:
    _, before = await dead_node_with_a_pod(lab)
    slow = ReclaimSettings(agent_lease_s=0.5, grace_s=0.45, period_s=0.03)

    async def mark(boss: Leader) -> str:
        async def stands() -> bool:
            stored = await lab.store.get(IP_NODE, "n1")
            return stored is not None and stored.spec.fence is not UNSET and stored.spec.fence.term == boss.elector.term

        await wait_for(stands)
        stored = await lab.store.get(IP_NODE, "n1")
        assert stored is not None and stored.spec.fence is not UNSET
        return stored.spec.fence.id

    async with leader(lab, "n2", reclaim=slow) as first:
        one = await mark(first)
    async with leader(lab, "n3", seed=2, reclaim=slow) as second:
        two = await mark(second)
        assert one != two and await leased(lab, "n1") == before
        await wait_for(lambda: _is_one_bit(lab))


async def test_an_agent_that_finds_a_successors_heartbeat_in_its_mailbox_retakes_before_it_hands_out(lab: Lab) -> None:
    """The leader takes a replaced node's heartbeat for a mark: so must the agent that was replaced."""
    async with lab.agent("n1", lease=SHORT) as agent:
        await add(agent, "c1", await lab.pod("p", "n1"))
        found = await block(lab)
        assert found is not None
        epoch = found.leases_named("n1")[0].epoch
        beat = {
            "sequence": 10_000,
            "bootID": "other",
            "nodeUID": "uid-of-the-successor",
            "renewTime": "2026-01-01T00:00:00Z",
        }
        await lab.store.patch(IP_NODE, "n1", {"status": {"heartbeat": beat}}, subresource="status")

        async def retaken() -> bool:
            now = await block(lab)
            return now is not None and now.leases_named("n1")[0].epoch > epoch

        await wait_for(retaken)
        await eventually(lambda: not agent.why_closed())
