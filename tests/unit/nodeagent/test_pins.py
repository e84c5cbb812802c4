"""Pods of a StatefulSet keep their addresses: across restarts, nodes, crashes and outages, and nobody else ever gets them (I6)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from adapters.kube.memory import Answered, Call, Fault, MemoryStore, NotSent
from adapters.kube.store import Stored
from crds.blocks import block_from_wire
from crds.core import NODE, POD, Pod, PodSpec
from crds.meta import ObjectMeta, OwnerReference
from crds.nephila import IP_BLOCK, IP_NODE
from crds.spiderpool import ENDPOINT, IP_POOL, SpiderEndpoint
from ipam import lease
from ipam.blocks import Block, Pin
from ipam.slots import Page, SlotId
from ipam.stock import State
from nodeagent.agent import Agent
from nodeagent.refill import INTERFACE_S
from tests.unit.nodeagent.harness import Lab, add, delete, eventually, failed, http

OWNER = OwnerReference(api_version="apps/v1", kind="StatefulSet", name="web", uid="set-1", controller=True)


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    lab.sandboxes.alive |= {f"/run/netns/c{i}" for i in range(9)}  # until DEL
    await lab.namespace()
    for name in ("n1", "n2"):
        await lab.node(name)
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.19", gateway="10.6.0.1", default=True)
    return lab


async def web(lab: Lab, node: str, name: str = "web-0", annotations: dict[str, str] | None = None, **owner: Any) -> Pod:
    """The StatefulSet's pod of that name, anew: a former one of the name is gone from the API."""
    await lab.store.delete(POD, name, namespace="default")
    reference = (
        OWNER
        if not owner
        else OwnerReference(
            **{**dict(api_version="apps/v1", kind="StatefulSet", name="web", uid="u", controller=True), **owner}
        )
    )
    outcome = await lab.store.create(
        POD,
        Pod(
            metadata=ObjectMeta(name=name, namespace="default", owner_references=(reference,), annotations=annotations),
            spec=PodSpec(node_name=node),
        ),
    )
    assert isinstance(outcome, Stored)
    return outcome.object


async def pins(lab: Lab) -> dict[str, Pin]:
    """All pins by address; every block is consistent."""
    found: dict[str, Pin] = {}
    for stored in (await lab.store.list(IP_BLOCK)).items:
        block = block_from_wire(stored)
        assert block.problems() == ()
        for pin in block.pins:
            found[str(SlotId("", block.page.family, block.page.base + pin.slot))] = pin
    return found


async def endpoint(lab: Lab, name: str = "web-0") -> SpiderEndpoint | None:
    return await lab.store.get(ENDPOINT, name, "default")


async def gone(agent: Agent, container: str, **given: Any) -> None:
    """DEL, and what follows from it."""
    await delete(agent, container, **given)
    await eventually(lambda: not agent.stock.of_pool("v4", State.LEAVING))


async def test_a_restarted_pod_keeps_its_address_and_nobody_else_gets_it_meanwhile(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        first = await add(agent, "c1", await web(lab, "n1"))
        await gone(agent, "c1")
        others = [await lab.pod(f"p{i}", "n1") for i in range(9)]
        taken = [await add(agent, f"o{i}", pod) for i, pod in enumerate(others)]
        assert first not in taken
        assert await add(agent, "c2", await web(lab, "n1")) == first


async def test_the_address_moves_only_when_the_old_interface_is_surely_gone(lab: Lab) -> None:
    """Seed 365: the main plugin asks for the DEL before it removes the interface; the next pod of the name had the address while it was still up."""
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        first = await add(one, "c1", await web(lab, "n1"))
        await delete(one, "c1")
        deleted = time.monotonic()
        assert await add(two, "c2", await web(lab, "n2")) == first
        assert time.monotonic() - deleted >= INTERFACE_S


async def test_the_address_follows_the_pod_to_another_node(lab: Lab) -> None:
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        first = await add(one, "c1", await web(lab, "n1"))
        await gone(one, "c1")
        pod = await web(lab, "n2")
        assert await add(two, "c2", pod) == first
        pin = (await pins(lab))[first[0]]
        assert pin.holder is not None and (pin.holder.node, pin.holder.pod_uid) == ("n2", pod.uid)


async def test_a_power_loss_brings_back_nothing_of_a_pod_whose_address_has_left(lab: Lab) -> None:
    """Seed 14424: the address was free for another node, and after the reboot this one gave it to the pod's next sandbox."""
    async with lab.agent("n1") as agent:
        await add(agent, "c1", await web(lab, "n1"))
        await gone(agent, "c1")
    disk = lab.disks["n1"]
    disk.lose_power(lost_commits=disk.unsynced)
    assert disk.open().load().attachments == ()


async def test_the_endpoint_is_written_before_the_reply_and_outlives_the_pod(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await web(lab, "n1")
        first = await add(agent, "c1", pod)
        written = await endpoint(lab)
        assert written is not None and written.status
        assert written.status.current.ips[0].ipv4 == f"{first[0]}/24"
        assert written.status.owner_controller_type == "StatefulSet" and written.status.owner_controller_name == "web"
        assert not written.metadata.owner_references
        await gone(agent, "c1")
        await eventually(lambda: agent.outbox.depth == 0)
        assert await endpoint(lab) is not None


async def test_an_add_whose_endpoint_cannot_be_written_fails_and_its_repeat_tells_first(lab: Lab) -> None:
    broken = True

    async def fault(call: Call) -> Fault | None:
        return Answered(503) if broken and call.kind is ENDPOINT and call.verb in ("create", "patch") else None

    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=fault)) as agent:
        pod = await web(lab, "n1")
        assert (await failed(agent, http("ADD", "c1", pod)))["code"] == 11
        broken = False
        address = await add(agent, "c1", pod)
        written = await endpoint(lab)
        assert written is not None and written.status and written.status.current.ips[0].ipv4 == f"{address[0]}/24"


async def test_ordinary_pods_need_no_api_call_even_where_stateful_sets_are_on(lab: Lab) -> None:
    calls: list[str] = []

    async def count(call: Call) -> None:
        calls.append(call.verb)

    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=count)) as agent:
        pod = await web(lab, "n1", "x-1", api_version="apps.kruise.io/v1beta1")
        await eventually(lambda: agent.stock.count("v4", State.READY) > 0 and agent.world.pods.get("x-1", "default"))
        calls.clear()
        await agent.serve(http("ADD", "c1", pod))
        assert calls == [] and await pins(lab) == {}


async def test_a_pod_is_refused_its_address_as_long_as_the_former_node_has_not_seen_its_del(lab: Lab) -> None:
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        first = await add(one, "c1", await web(lab, "n1"))
        moved = await web(lab, "n2")  # force-deleted on n1: its sandbox may still answer
        error = await failed(two, http("ADD", "c2", moved))
        assert error["code"] == 11 and "PinnedElsewhere" in error["details"] and first[0] in error["msg"]
        assert [str(g.slot.address) for a in one.allocator.all() for g in a.grants] == first
        await gone(one, "c1")
        assert await add(two, "c3", moved) == first


async def test_a_waiting_add_gets_the_address_as_soon_as_the_former_node_acknowledges(lab: Lab) -> None:
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        first = await add(one, "c1", await web(lab, "n1"))
        waiting = asyncio.create_task(add(two, "c2", await web(lab, "n2")))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await delete(one, "c1")
        assert await waiting == first


@pytest.mark.parametrize("evidence", ["taint", "removed", "silent"])
async def test_a_dead_node_gives_way_on_evidence(lab: Lab, evidence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodeagent.evidence.WATCH_S", 0.5)
    async with lab.agent("n1") as one:
        first = await add(one, "c1", await web(lab, "n1"))
    async with lab.agent("n2") as two:
        pod = await web(lab, "n2")
        assert (await failed(two, http("ADD", "c2", pod)))["code"] == 11
        if evidence == "taint":
            out = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
            await lab.store.patch(NODE, "n1", {"spec": {"taints": [out]}})
        elif evidence == "removed":
            await lab.store.delete(NODE, "n1")
            assert (await failed(two, http("ADD", "c2", pod)))["code"] == 11  # the leader has not wound it up yet
            await lab.store.delete(IP_NODE, "n1")
        else:
            heard = True

            async def why_not_silent(_slot: SlotId) -> str:
                return "somebody answers" if heard else ""

            two.evidence.why_not_silent = why_not_silent
            assert (await failed(two, http("ADD", "c2", pod)))["code"] == 11
            heard = False
        assert await add(two, "c3", pod) == first


async def test_a_pod_that_waits_for_its_own_address_holds_no_other_back(lab: Lab) -> None:
    """Seed 442: its node kept a free address for it, which it was never to get, and a pod elsewhere had none."""
    await lab.store.patch(IP_POOL, "v4", {"spec": {"ips": ["10.6.0.10-10.6.0.11"]}})
    async with lab.agent("n1") as one:
        first = await add(one, "c1", await web(lab, "n1"))
    async with lab.agent("n2") as two:
        pod = await web(lab, "n2")
        await eventually(lambda: two.stock.count("v4", State.READY) == 1)  # nothing is known of the pin yet
        assert (await failed(two, http("ADD", "c2", pod)))["code"] == 11
        await eventually(lambda: not list(two.stock))
        out = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
        await lab.store.patch(NODE, "n1", {"spec": {"taints": [out]}})
        assert await add(two, "c3", pod) == first


async def test_a_force_deleted_pod_on_the_same_node_keeps_the_address_until_its_del(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        first = await add(agent, "c1", await web(lab, "n1"))
        again = await web(lab, "n1")
        assert (await failed(agent, http("ADD", "c2", again)))["code"] == 11
        await delete(agent, "c1")
        assert await add(agent, "c3", again) == first


async def test_a_stale_pod_is_told_that_it_is_over(lab: Lab) -> None:
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        old = await web(lab, "n2")
        await eventually(lambda: two.world.pods.get("web-0", "default") is not None)
        await add(one, "c1", await web(lab, "n1"))
        two.world.pods._objects[("default", "web-0")] = old  # a cache that lags behind
        assert (await failed(two, http("ADD", "c2", old)))["code"] == 120


async def test_del_during_an_outage_vacates_the_pin_when_the_api_is_back(lab: Lab) -> None:
    down = False

    async def fault(_call: Call) -> Fault | None:
        return Answered(503) if down else None

    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=fault)) as one, lab.agent("n2") as two:
        first = await add(one, "c1", await web(lab, "n1"))
        down = True
        await delete(one, "c1")
        pod = await web(lab, "n2")
        assert (await failed(two, http("ADD", "c2", pod)))["code"] == 11
        down = False
        await eventually(lambda: not one.stock.of_pool("v4", State.LEAVING))
        assert await add(two, "c3", pod) == first


async def test_del_before_a_crash_vacates_the_pin_after_the_restart(lab: Lab) -> None:
    down = False

    async def fault(_call: Call) -> Fault | None:
        return Answered(503) if down else None

    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=fault)) as one:
        first = await add(one, "c1", await web(lab, "n1"))
        down = True
        await delete(one, "c1")
    async with lab.agent("n1"), lab.agent("n2") as two:
        assert await add(two, "c2", await web(lab, "n2")) == first


async def test_a_crash_between_pin_and_journal_leaks_nothing(lab: Lab) -> None:
    async with lab.agent("n1") as agent:

        def crash(*_: object) -> None:
            raise KeyboardInterrupt

        agent.allocator.grant = crash  # type: ignore[method-assign,assignment]
        with pytest.raises(KeyboardInterrupt):
            await agent.serve(http("ADD", "c1", await web(lab, "n1")))
    (address,) = await pins(lab)
    async with lab.agent("n1") as agent:
        await eventually(lambda: not agent.stock.pinned() and not agent.stock.of_pool("v4", State.LEAVING))
        assert (await pins(lab))[address].holder is None
        plain = [await add(agent, f"o{i}", await lab.pod(f"p{i}", "n1")) for i in range(9)]
        assert [address] not in plain


async def test_a_restart_of_the_agent_knows_what_is_pinned(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        first = await add(agent, "c1", await web(lab, "n1"))
    async with lab.agent("n1") as agent, lab.agent("n2") as two:
        await gone(agent, "c1")
        assert await add(two, "c2", await web(lab, "n2")) == first


async def test_a_new_pool_in_the_annotation_releases_the_old_address_and_gives_a_new_one(lab: Lab) -> None:
    await lab.pool("other", "10.9.0.0/24", "10.9.0.5-10.9.0.9")
    async with lab.agent("n1") as agent:
        first = await add(agent, "c1", await web(lab, "n1"))
        await gone(agent, "c1")
        pod = await web(lab, "n1", annotations={"ipam.spidernet.io/ippool": json.dumps({"ipv4": ["other"]})})
        second = await add(agent, "c2", pod)
        assert second[0].startswith("10.9.0.") and set(await pins(lab)) == set(second)
        written = await endpoint(lab)
        assert written is not None and written.status
        assert [ip.ipv4_pool for ip in written.status.current.ips] == ["other"] and first != second


async def test_a_deleted_pool_gives_way_to_one_that_exists(lab: Lab) -> None:
    await lab.pool("other", "10.9.0.0/24", "10.9.0.5-10.9.0.9", default=True)
    only = {"ipam.spidernet.io/ippool": json.dumps({"ipv4": ["other"]})}
    async with lab.agent("n1") as agent:
        await add(agent, "c1", await web(lab, "n1", annotations=only))
        await gone(agent, "c1")
        await lab.store.delete(IP_POOL, "other")
        await eventually(lambda: agent.world.pools.catalog.get("other") is None)
        assert (await add(agent, "c2", await web(lab, "n1")))[0].startswith("10.6.0.")


async def test_a_reserved_address_stays_with_its_identity(lab: Lab) -> None:
    from crds.spiderpool import RESERVED_IP

    async with lab.agent("n1") as agent:
        first = await add(agent, "c1", await web(lab, "n1"))
        await gone(agent, "c1")
        await lab.create(RESERVED_IP, metadata={"name": "r"}, spec={"ips": first})
        await eventually(lambda: len(agent.world.reserved_seen) == 1)
        reply = await agent.serve(http("ADD", "c2", await web(lab, "n1")))
        assert json.loads(reply.body)["ips"][0]["address"] == f"{first[0]}/24"


async def test_after_unpin_the_address_is_free_for_everyone(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        first = await add(agent, "c1", await web(lab, "n1"))
        await gone(agent, "c1")
        (stored,) = (await lab.store.list(IP_BLOCK)).items
        block = block_from_wire(stored)
        freed = lease.unpin(block, block.pins[0].slot, block.pins[0].owner, 1)
        assert freed.free >> block.pins[0].slot & 1  # no lease keeps it: any node may claim it
        await lab.store.patch(IP_BLOCK, stored.name, {"spec": {"pins": None, "term": 1, "epoch": freed.epoch}})
        got = {(await add(agent, f"o{i}", await lab.pod(f"p{i}", "n1")))[0] for i in range(10)}
        assert first[0] in got


async def test_each_interface_has_a_pin_of_its_own_and_keeps_it_across_nodes(lab: Lab) -> None:
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        pod = await web(lab, "n1")
        before = [await add(one, "c1", pod), await add(one, "c1", pod, ifname="net1")]
        assert before[0] != before[1] and len(await pins(lab)) == 2
        await delete(one, "c1")
        await gone(one, "c1", ifname="net1")
        pod = await web(lab, "n2")
        assert [await add(two, "c2", pod), await add(two, "c2", pod, ifname="net1")] == before
        written = await endpoint(lab)
        assert written is not None and written.status
        assert [ip.interface for ip in written.status.current.ips] == ["eth0", "net1"]


async def test_dual_stack_keeps_both_addresses(lab: Lab) -> None:
    await lab.pool("v6", "fd00::/64", "fd00::10-fd00::19", default=True)
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        first = await add(one, "c1", await web(lab, "n1"))
        assert len(first) == 2
        await delete(one, "c1")
        await eventually(lambda: not one.stock.of_pool("v6", State.LEAVING))
        assert await add(two, "c2", await web(lab, "n2")) == first


async def test_a_full_pool_still_serves_its_identities(lab: Lab) -> None:
    await lab.pool("tight", "10.8.0.0/24", "10.8.0.1-10.8.0.3")
    note = {"ipam.spidernet.io/ippool": json.dumps({"ipv4": ["tight"]})}
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        before = [await add(one, f"c{i}", await web(lab, "n1", f"web-{i}", note)) for i in range(3)]
        for i in range(3):
            await delete(one, f"c{i}")
        assert (await failed(two, http("ADD", "x", await lab.pod("plain", "n2", note))))["code"] == 11
        assert [await add(two, f"d{i}", await web(lab, "n2", f"web-{i}", note)) for i in range(3)] == before


async def test_concurrent_adds_of_many_identities_on_two_nodes_never_collide(lab: Lab) -> None:
    await lab.pool("wide", "10.7.0.0/24", "10.7.0.1-10.7.0.200")
    note = {"ipam.spidernet.io/ippool": json.dumps({"ipv4": ["wide"]})}
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        agents = (one, two)
        pods = [await web(lab, f"n{i % 2 + 1}", f"web-{i}", note) for i in range(30)]
        before = await asyncio.gather(*(add(agents[i % 2], f"c{i}", pod) for i, pod in enumerate(pods)))
        assert len({address[0] for address in before}) == 30
        await asyncio.gather(*(delete(agents[i % 2], f"c{i}") for i in range(30)))
        pods = [await web(lab, f"n{(i + 1) % 2 + 1}", f"web-{i}", note) for i in range(30)]
        after = await asyncio.gather(*(add(agents[(i + 1) % 2], f"d{i}", pod) for i, pod in enumerate(pods)))
        assert after == before and len(await pins(lab)) == 30


async def test_an_address_is_not_taken_from_a_start_that_may_be_under_way(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 541: a pod was force-deleted while its ADD waited for the other family; its address was silent, moved, and was granted after all."""
    monkeypatch.setattr("nodeagent.evidence.WATCH_S", 1.0)

    async def silent(_slot: SlotId) -> str:
        return ""

    async with lab.agent("n1") as one, lab.agent("n2") as two:
        await add(
            one, "c1", await web(lab, "n1")
        )  # a pin with a seat; whether its sandbox is up already, n2 cannot know
        pod = await web(lab, "n2")
        two.evidence.why_not_silent = silent
        began = time.monotonic()
        assert await add(two, "c2", pod)
        assert time.monotonic() - began >= 1.0


async def test_a_start_that_wrote_its_pin_too_long_ago_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodeagent.pins.GRANT_S", -1.0)
    async with lab.agent("n1") as agent:
        pod = await web(lab, "n1")
        assert (await failed(agent, http("ADD", "c1", pod)))["code"] == 11
        monkeypatch.setattr("nodeagent.pins.GRANT_S", 2.0)
        assert await add(agent, "c2", pod), "the next attempt writes it anew"


async def test_a_pinned_address_that_is_heard_after_its_probe_is_not_granted_before_another_one(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 7514: all frames of the probe were lost, the next test heard the former pod while the other family's pin was moved, and it was granted."""
    async with lab.agent("n1") as agent:
        pod = await web(lab, "n1")
        change = agent.keeper.change

        async def heard(page: Page, decide: Callable[[Block], Block]) -> Block | None:
            changed = await change(page, decide)
            for held in agent.stock.pinned():
                agent.stock.accuse(held.slot)
            return changed

        with monkeypatch.context() as patch:
            patch.setattr(agent.keeper, "change", heard)
            error = await failed(agent, http("ADD", "c1", pod))
            assert error["code"] == 11
            assert "was heard to use 10.6.0.1" in error["msg"]
            assert agent.allocator.all() == ()
        assert await add(agent, "c2", pod)


async def test_a_start_that_does_not_end_is_the_reason_and_not_the_pools_that_were_not_read(lab: Lab) -> None:
    """Seed 1894: the identity's selection was judged by pools that the starting agent had not listed yet: "no IPPool available", code 110."""

    async def no_pools(call: Call) -> NotSent | None:
        return NotSent() if call.kind is IP_POOL else None

    pod = await web(lab, "n1")
    async with lab.starting("n1", store=MemoryStore(lab.cluster, fault=no_pools)) as (agent, _):
        error = await failed(agent, http("ADD", "c1", pod))
        assert error["code"] == 11 and "the agent is starting" in error["msg"]
