"""The agent from the runtime's side: ADD, DEL, CHECK, GC, STATUS over a shared in-memory API, with restarts."""

from __future__ import annotations

import asyncio
import json
import time

import msgspec
import pytest

from adapters.kube.memory import Call, MemoryStore, NotSent
from crds.blocks import block_from_wire
from crds.core import NODE, POD
from crds.nephila import IP_BLOCK, IP_NODE
from crds.spiderpool import ENDPOINT
from ipam.stock import State
from nodeagent.wire import HttpReply
from tests.unit.nodeagent.harness import FAST, Lab, add, delete, eventually, failed, http


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    for name in ("n1", "n2"):
        await lab.node(name)
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.250", gateway="10.6.0.1", default=True)
    return lab


async def dual(lab: Lab) -> None:
    await lab.pool("v6", "fd00::/64", "fd00::10-fd00::ff", gateway="fd00::1", default=True)


async def leased(lab: Lab) -> dict[str, int]:
    """Slots leased per node, over all blocks, each block checked."""
    count: dict[str, int] = {}
    for stored in (await lab.store.list(IP_BLOCK)).items:
        for lease in block_from_wire(stored).leases:
            count[lease.node.name] = count.get(lease.node.name, 0) + lease.slots.bit_count()
    return count


async def test_add_answers_with_address_gateway_and_routes(lab: Lab) -> None:
    await dual(lab)
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        reply = await agent.serve(http("ADD", "c1", pod))
    answer = json.loads(reply.body)
    v4, v6 = answer["ips"]
    assert v4["address"].startswith("10.6.0.") and v4["address"].endswith("/24") and v4["gateway"] == "10.6.0.1"
    assert v6["address"].startswith("fd00::") and v6["address"].endswith("/64") and v6["gateway"] == "fd00::1"
    assert answer["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.6.0.1"}, {"dst": "::/0", "gw": "fd00::1"}]
    assert "interfaces" not in answer and answer["cniVersion"] == "1.0.0"


async def test_a_warm_address_is_given_and_taken_back_without_waiting(lab: Lab) -> None:
    """The ADD path makes no task and no call: the reply is there when `answer` returns, and so is its journal entry."""
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        await eventually(lambda: agent.stock.count("v4", State.READY) > 0 and agent.world.pods.get("p", "default"))
        before = lab.disks["n1"].unsynced
        reply = agent.front.answer(http("ADD", "c1", pod))
        assert isinstance(reply, HttpReply) and reply.status == 200, reply
        assert lab.disks["n1"].unsynced == before + 2  # the grant, and the network configuration that was new
        gone = agent.front.answer(http("DEL", "c1"))
        assert isinstance(gone, HttpReply) and gone.status == 200
        assert lab.disks["n1"].unsynced == before + 3


async def test_an_add_that_must_wait_says_so_and_holds_nothing_meanwhile(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        answer = agent.front.answer(http("ADD", "c1", await lab.pod("p", "n1")))
        assert not isinstance(answer, HttpReply)
        assert not agent.allocator.all()
        assert (await answer).status == 200
        assert len(agent.allocator.all()) == 1


async def test_old_versions_get_the_family_in_their_result(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        answer = json.loads((await agent.serve(http("ADD", "c1", pod, conf={"cniVersion": "0.3.1"}))).body)
    assert answer["ips"][0]["version"] == "4"


async def test_a_repeated_add_gets_the_same_answer(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        first = await add(agent, "c1", pod)
        assert await add(agent, "c1", pod) == first
        assert len(agent.allocator.all()) == 1


async def test_concurrent_duplicates_get_one_address(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        answers = await asyncio.gather(*(add(agent, "c1", pod) for _ in range(10)))
        assert len({tuple(answer) for answer in answers}) == 1


async def test_a_retried_sandbox_keeps_the_address_and_the_late_del_of_the_old_one_frees_nothing(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        first = await add(agent, "c1", pod)
        assert await add(agent, "c2", pod) == first
        await delete(agent, "c1")
        assert [str(grant.slot.address) for a in agent.allocator.all() for grant in a.grants] == first
        await delete(agent, "c2")
        assert agent.allocator.all() == ()


async def test_two_interfaces_on_one_pool_get_two_addresses(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        assert await add(agent, "c1", pod) != await add(agent, "c1", pod, ifname="net1")


async def test_delete_is_idempotent_and_refuses_a_late_add_of_that_container(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        for _ in range(2):
            await delete(agent, "c1")
        error = await failed(agent, http("ADD", "c1", pod))
        assert error["code"] == 121
        assert await add(agent, "c2", pod)


async def test_a_released_address_rests_and_the_longest_idle_goes_first(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pods = [await lab.pod(f"p{i}", "n1") for i in range(3)]
        first = await add(agent, "c0", pods[0])
        await delete(agent, "c0")
        assert await add(agent, "c1", pods[1]) != first


async def test_dual_stack_is_all_or_nothing(lab: Lab) -> None:
    await lab.pool("v6-one", "fd00:1::/64", "fd00:1::5", default=True)
    async with lab.agent("n1") as agent:
        one, two = await lab.pod("p1", "n1"), await lab.pod("p2", "n1")
        await add(agent, "c1", one)
        error = await failed(agent, http("ADD", "c2", two))
        assert error["code"] == 11 and "v6-one" in error["msg"]
        assert agent.stock.count("v4", State.ALLOCATED) == 1


async def test_every_address_of_a_pool_is_usable_and_none_twice(lab: Lab) -> None:
    await lab.pool("small", "10.7.0.0/24", "10.7.0.1-10.7.0.20")
    note = {"ipam.spidernet.io/ippool": '{"ipv4":["small"]}'}
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        pods = [await lab.pod(f"p{i}", f"n{i % 2 + 1}", note) for i in range(20)]
        answers = await asyncio.gather(*(add((one, two)[i % 2], f"c{i}", pod) for i, pod in enumerate(pods)))
    assert len({answer[0] for answer in answers}) == 20


async def test_a_full_pool_says_so_with_code_11_and_leaves_nothing_behind(lab: Lab) -> None:
    await lab.pool("one", "10.8.0.0/24", "10.8.0.5")
    note = {"ipam.spidernet.io/ippool": '{"ipv4":["one"]}'}
    async with lab.agent("n1") as agent:
        pods = [await lab.pod(f"p{i}", "n1", note) for i in range(2)]
        await add(agent, "c0", pods[0])
        error = await failed(agent, http("ADD", "c1", pods[1]))
        assert error["code"] == 11 and "PoolExhausted" in error["details"] and "one" in error["msg"]
        assert agent.line.pools() == ()


async def test_a_waiting_add_gets_the_address_that_another_pod_releases(lab: Lab) -> None:
    await lab.pool("one", "10.8.0.0/24", "10.8.0.5")
    note = {"ipam.spidernet.io/ippool": '{"ipv4":["one"]}'}
    async with lab.agent("n1") as agent:
        pods = [await lab.pod(f"p{i}", "n1", note) for i in range(2)]
        await add(agent, "c0", pods[0])
        waiting = asyncio.create_task(add(agent, "c1", pods[1]))
        await asyncio.sleep(0.05)
        await delete(agent, "c0")
        assert await waiting == ["10.8.0.5"]


async def test_backup_pools_are_tried_in_order(lab: Lab) -> None:
    await lab.pool("first", "10.8.0.0/24", "10.8.0.5")
    await lab.pool("second", "10.9.0.0/24", "10.9.0.5-10.9.0.9")
    note = {"ipam.spidernet.io/ippool": '{"ipv4":["first","second"]}'}
    async with lab.agent("n1") as agent:
        pods = [await lab.pod(f"p{i}", "n1", note) for i in range(3)]
        got = [(await add(agent, f"c{i}", pod))[0] for i, pod in enumerate(pods)]
    assert got[0] == "10.8.0.5" and all(address.startswith("10.9.") for address in got[1:])


async def test_kill_and_restart_lose_nothing(lab: Lab) -> None:
    pods = [await lab.pod(f"p{i}", "n1") for i in range(5)]
    async with lab.agent("n1") as agent:
        before = [await add(agent, f"c{i}", pod) for i, pod in enumerate(pods)]
        await delete(agent, "c4")
    async with lab.agent("n1") as agent:
        assert [await add(agent, f"c{i}", pod) for i, pod in enumerate(pods[:4])] == before[:4]
        fresh = await lab.pod("fresh", "n1")
        assert (await add(agent, "c9", fresh)) not in before[:4]
        assert (await failed(agent, http("ADD", "c4", pods[4])))["code"] == 121


async def test_after_a_reboot_every_lease_is_retaken_under_a_new_epoch(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        address = await add(agent, "c1", pod)
        epochs = {page: seen.block.lease_of(agent.keeper.me).epoch for page, seen in agent.keeper.leases().items()}  # type: ignore[union-attr]
    async with lab.agent("n1", boot_id="boot-2") as agent:
        for page, seen in agent.keeper.leases().items():
            assert seen.block.lease_of(agent.keeper.me).epoch > epochs[page]  # type: ignore[union-attr]
        assert await add(agent, "c1", pod) == address


async def test_an_add_that_comes_while_the_agent_starts_waits_for_it(lab: Lab) -> None:
    """Its socket is open for DELs long before it has listed pools and joined; a retry by the runtime would cost more than the rest of the start."""
    pod = await lab.pod("p", "late")
    async with lab.starting("late", lease=msgspec.structs.replace(FAST, wait_s=4.0)) as (agent, _):
        adding = asyncio.create_task(add(agent, "c1", pod))
        await asyncio.sleep(0.2)
        assert agent.why_closed() and not adding.done()
        await delete(agent, "c2")
        await lab.node("late")
        assert (await adding)[0].startswith("10.6.0.")


async def test_an_add_does_not_wait_for_a_start_that_does_not_end(lab: Lab) -> None:
    pod = await lab.pod("p", "nowhere")
    async with lab.starting("nowhere") as (agent, _):
        began = time.monotonic()
        error = await failed(agent, http("ADD", "c1", pod))
        assert FAST.wait_s <= time.monotonic() - began < FAST.wait_s + 1.0
        assert "the agent is starting" in error["msg"]
        assert agent.allocator.all() == () and agent.line.pools() == ()


async def test_a_second_try_to_join_does_not_forget_the_leases_of_a_former_node_object(lab: Lab) -> None:
    """A node that was deleted and re-created: the first attempt to re-take its leases failed, and the next one no longer looked for them."""
    async with lab.agent("n1") as agent:
        address = await add(agent, "c1", await lab.pod("p", "n1"))
        held = len(agent.stock)
    await lab.store.delete(NODE, "n1")
    await lab.node("n1")
    refused: list[Call] = []

    async def refuse_once(call: Call) -> NotSent | None:
        if call.verb == "patch" and call.kind is IP_BLOCK and not refused:
            refused.append(call)
            return NotSent()
        return None

    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=refuse_once)) as agent:
        assert refused and (await leased(lab))["n1"] == len(agent.stock) == held
        node = await lab.store.get(NODE, "n1")
        for stored in (await lab.store.list(IP_BLOCK)).items:
            assert node is not None and {entry.node_uid for entry in stored.spec.leases} == {node.uid}
        assert [str(grant.slot.address) for a in agent.allocator.all() for grant in a.grants] == address


async def test_a_node_object_that_is_made_anew_twice_costs_no_lease_though_the_run_between_never_joined(
    lab: Lab,
) -> None:
    """Seed 14730: that run had re-taken the leases under its Node UID, and nobody remembered which."""
    async with lab.agent("n1") as agent:
        address = await add(agent, "c1", await lab.pod("p", "n1"))
        held = len(agent.stock)

    async def cut_off(call: Call) -> NotSent | None:
        return NotSent() if call.verb == "patch" and call.kind is IP_NODE else None

    async def taken() -> set[str]:
        return {entry.node_uid for stored in (await lab.store.list(IP_BLOCK)).items for entry in stored.spec.leases}

    for store in (MemoryStore(lab.cluster, fault=cut_off), None):
        await lab.store.delete(NODE, "n1")
        await lab.node("n1")
        node = await lab.store.get(NODE, "n1")
        assert node is not None
        async with lab.starting("n1", store=store) as (agent, _running):
            async with asyncio.timeout(5):
                while await taken() != {node.uid}:
                    await asyncio.sleep(0.01)
            if store is None:
                await eventually(lambda agent=agent: not agent.why_closed())
                assert (await leased(lab))["n1"] == len(agent.stock) == held
                assert [str(grant.slot.address) for a in agent.allocator.all() for grant in a.grants] == address


async def test_leases_are_ahead_of_demand_so_a_warm_add_makes_no_api_call(lab: Lab) -> None:
    pods = [await lab.pod(f"p{i}", "n1") for i in range(8)]
    calls: list[str] = []

    async def count(call: object) -> None:
        calls.append(str(call))

    store = MemoryStore(lab.cluster, fault=count)
    async with lab.agent("n1", store=store) as agent:
        await eventually(lambda: agent.stock.count("v4", State.READY) >= 8)
        for i, pod in enumerate(pods):
            calls.clear()
            await agent.serve(http("ADD", f"c{i}", pod))
            assert calls == []


async def test_surplus_goes_back_when_pods_are_gone(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pods = [await lab.pod(f"p{i}", "n1") for i in range(40)]
        for i, pod in enumerate(pods):
            await add(agent, f"c{i}", pod)
        assert (await leased(lab))["n1"] >= 40
        for i, pod in enumerate(pods):
            await delete(agent, f"c{i}")
            await lab.store.delete(POD, pod.name, namespace="default")
        await eventually(lambda: len(agent.stock) <= 16)
        assert (await leased(lab)).get("n1", 0) == len(agent.stock)


async def test_spider_endpoints_follow_allocations(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        address = (await add(agent, "c1", pod))[0]
        await eventually(lambda: agent.outbox.depth == 0)
        stored = await lab.store.get(ENDPOINT, "p", "default")
        assert stored is not None and stored.status is not None
        current = stored.status.current  # type: ignore[union-attr]
        assert (current.uid, current.node, current.ips[0].ipv4, current.ips[0].ipv4_pool) == (
            pod.uid,
            "n1",
            f"{address}/24",
            "v4",
        )
        assert stored.status.owner_controller_type == "Pod"  # type: ignore[union-attr]
        await delete(agent, "c1")
        await eventually(lambda: agent.outbox.depth == 0)
        assert await lab.store.get(ENDPOINT, "p", "default") is None


async def test_check_status_and_gc(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod, other = await lab.pod("p", "n1"), await lab.pod("q", "n1")
        address = (await add(agent, "c1", pod))[0]
        await add(agent, "c2", other)
        assert (
            await agent.serve(http("CHECK", "c1", pod, conf={"prevResult": {"ips": [{"address": f"{address}/24"}]}}))
        ).status == 200
        assert (await failed(agent, http("CHECK", "c1", pod, conf={"prevResult": {"ips": []}})))["code"] == 130
        assert (await failed(agent, http("CHECK", "c9", pod)))["code"] == 130
        assert (await agent.serve(http("STATUS", ""))).status == 200
        assert (await agent.serve(http("GC", ""))).status == 200
        assert len(agent.allocator.all()) == 2
        keep = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
        await agent.serve(http("GC", "", conf={"name": "elsewhere", "cni.dev/valid-attachments": []}))
        assert len(agent.allocator.all()) == 2
        await agent.serve(http("GC", "", conf=keep))
        assert [a.key.container_id for a in agent.allocator.all()] == ["c1"]


async def test_gc_frees_nothing_whose_namespace_lives_or_cannot_be_seen(lab: Lab) -> None:
    """A runtime that has just started may list nothing."""
    lab.sandboxes.alive.add("/run/netns/alive")
    lab.sandboxes.unseen.add("/run/netns/unseen")
    async with lab.agent("n1") as agent:
        for container in ("alive", "unseen", "gone"):
            await add(agent, container, await lab.pod(container, "n1"))
        await agent.serve(http("GC", "", conf={"cni.dev/valid-attachments": []}))
        assert sorted(a.key.container_id for a in agent.allocator.all()) == ["alive", "unseen"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"body": b"{"}, 6),
        ({"body": b'{"cniVersion":"1.0.0"}'}, 7),
        ({"body": b'{"cniVersion":"9.0.0","name":"n"}'}, 1),
        ({"body": b'{"cniVersion":"1.0.0","name":"n","ipam":{"default_ipv4_ippool":"x"}}'}, 7),
        ({"headers": {"command": "ADD"}}, 4),
        ({"headers": {"command": "SING"}}, 4),
    ],
)
async def test_bad_requests_get_one_error_object(lab: Lab, change: dict[str, object], code: int) -> None:
    from msgspec.structs import replace

    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        assert (await failed(agent, replace(http("ADD", "c1", pod), **change)))["code"] == code
        assert agent.allocator.all() == ()


async def test_pods_that_cannot_be_served_are_told_why(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        ghost = await lab.pod("ghost", "n1", {"ipam.spidernet.io/ippool": '{"ipv4":["nowhere"]}'})
        wrong = await lab.pod("wrong", "n1", {"ipam.spidernet.io/ippool": "not json"})
        assert (await failed(agent, http("ADD", "c1", ghost)))["code"] == 112
        error = await failed(agent, http("ADD", "c2", wrong))
        assert error["code"] == 101 and "wrong input" in error["msg"]


async def test_a_restarted_agent_leases_ahead_by_the_network_configuration_it_learnt(lab: Lab) -> None:
    await lab.pool("named", "10.9.0.0/24", "10.9.0.1-10.9.0.200")
    conf = {"ipam": {"type": "nephila", "default_ipv4_ippool": ["named"]}}
    async with lab.agent("n1") as agent:
        reply = await agent.serve(http("ADD", "c1", await lab.pod("p", "n1"), conf=conf))
        assert b"10.9.0." in reply.body
    await lab.pod("q", "n1")
    async with lab.agent("n1") as agent:
        await eventually(lambda: agent.stock.count("named", State.READY) >= 1)


async def test_default_pools_and_pools_of_this_node_are_warm_before_the_first_pod(lab: Lab) -> None:
    await lab.pool("mine", "10.9.0.0/20", "10.9.0.1-10.9.9.200", nodeName=["n1"])
    await lab.pool("theirs", "10.10.0.0/20", "10.10.0.1-10.10.9.200", nodeName=["n2"])
    await lab.pool("large", "10.11.0.0/20", "10.11.0.1-10.11.9.200", default=True)
    async with lab.agent("n1") as agent:
        await eventually(lambda: min(agent.stock.count(pool, State.READY) for pool in ("mine", "large")) == 16)
        assert agent.stock.count("theirs", *State) == 0
        assert agent.stock.count("v4", *State) == 0  # of the default pools only the first, in the order of names


async def test_a_new_sandbox_of_a_pod_that_was_served_needs_no_api_server(lab: Lab) -> None:
    """After an outage the watch may still rest: its pod was read once for its first ADD, and must not have to be read again."""
    silent = False

    async def fault(call: Call) -> NotSent | None:
        return NotSent() if silent and call.verb == "get" else None

    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=fault)) as agent:
        agent.world.pods.get = lambda _name, _namespace="": None  # type: ignore[method-assign,assignment]
        pod = await lab.pod("p", "n1", {"ipam.spidernet.io/routes": '[{"dst":"10.99.0.0/16","gw":"10.6.0.9"}]'})
        first = await agent.serve(http("ADD", "c1", pod))
        silent = True
        assert (await agent.serve(http("ADD", "c2", pod))).body == first.body, (
            "the same address, and the pod's own routes"
        )
        assert (await failed(agent, http("ADD", "c9", await lab.pod("q", "n1"))))["code"] == 11
        await delete(agent, "c2")
        assert (await failed(agent, http("ADD", "c3", pod)))["code"] == 11, (
            "what it has no more is not given from memory"
        )
