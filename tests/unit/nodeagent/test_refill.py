"""What a node does about its stock when a pool is scarce: nothing is kept back that somebody waits for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from adapters.kube.memory import Call, MemoryStore, NotSent
from crds.core import POD
from crds.meta import UNSET
from crds.nephila import IP_BLOCK, IP_NODE
from crds.spiderpool import IP_POOL
from ipam.ranges import RangeSet
from ipam.slots import SlotId
from ipam.stock import State
from nodeagent.agent import Agent
from nodeagent.config import LeaseSettings
from tests.unit.nodeagent.harness import Lab, add, delete, eventually, failed, http

FLOOR_S = 0.3
LONG_COOLDOWN = LeaseSettings(
    heartbeat_s=0.5, lease_s=60.0, cooldown_s=30.0, cooldown_floor_s=FLOOR_S, wait_s=3.0, leak_confirm_s=0.2
)


async def test_a_starving_node_takes_its_own_cooling_address_from_the_floor_on_and_not_before() -> None:
    lab = Lab()
    await lab.node("n1")
    await lab.namespace()
    await lab.pool("p", "10.6.0.0/24", "10.6.0.5", default=True)
    async with lab.agent("n1", lease=LONG_COOLDOWN) as agent:
        assert await add(agent, "c1", await lab.pod("a", "n1")) == ["10.6.0.5"]
        await delete(agent, "c1")
        released = time.monotonic()
        assert await add(agent, "c2", await lab.pod("b", "n1")) == ["10.6.0.5"]
        assert FLOOR_S <= time.monotonic() - released < 10 * FLOOR_S


async def test_without_an_api_server_too_a_starving_node_takes_its_cooling_address_from_the_floor_on() -> None:
    """Found by the lab's API outage: a pod whose sandbox was replaced meanwhile was refused for the whole cooldown."""
    lab, cut = Lab(), asyncio.Event()
    await lab.node("n1")
    await lab.namespace()
    await lab.pool("p", "10.6.0.0/24", "10.6.0.5", default=True)

    async def away(call: Call) -> NotSent | None:
        return NotSent() if cut.is_set() else None

    async with lab.agent("n1", lease=LONG_COOLDOWN, store=MemoryStore(lab.cluster, fault=away)) as agent:
        assert await add(agent, "c1", await lab.pod("a", "n1")) == ["10.6.0.5"]
        second = await lab.pod("b", "n1")
        await eventually(lambda: agent.world.pods.get("b", "default") is not None)
        cut.set()
        await delete(agent, "c1")
        released = time.monotonic()
        assert await add(agent, "c2", second) == ["10.6.0.5"]
        assert time.monotonic() - released >= FLOOR_S


async def test_an_address_that_cools_on_one_node_serves_a_starving_one_elsewhere() -> None:
    lab = Lab()
    for node in ("n1", "n2"):
        await lab.node(node)
    await lab.namespace()
    await lab.pool("p", "10.6.0.0/24", "10.6.0.5", default=True)
    async with lab.agent("n1", lease=LONG_COOLDOWN) as first, lab.agent("n2", lease=LONG_COOLDOWN) as second:
        pod = await lab.pod("a", "n1")
        assert await add(first, "c1", pod) == ["10.6.0.5"]
        await delete(first, "c1")
        released = time.monotonic()
        await lab.store.delete(POD, "a", namespace="default")
        assert await add(second, "c2", await lab.pod("b", "n2")) == ["10.6.0.5"]
        assert time.monotonic() - released >= FLOOR_S
        await eventually(lambda: not list(first.stock))


async def test_a_starving_node_looks_when_something_can_have_changed_and_not_all_the_time() -> None:
    lab = Lab()
    await lab.node("n1")
    await lab.namespace()
    await lab.pool("p", "10.6.0.0/24", "10.6.0.5", default=True)
    rounds = 0
    async with lab.agent("n1", lease=msgspec.structs.replace(LONG_COOLDOWN, cooldown_floor_s=1.5)) as agent:
        assert await add(agent, "c1", await lab.pod("a", "n1")) == ["10.6.0.5"]
        await delete(agent, "c1")
        original = agent.refill.round

        async def counted() -> None:
            nonlocal rounds
            rounds += 1
            await original()

        agent.refill.round = counted  # type: ignore[method-assign]
        released = time.monotonic()
        assert await add(agent, "c2", await lab.pod("b", "n1")) == ["10.6.0.5"]
        assert 1.5 <= time.monotonic() - released < 2.5, "the end of the least rest is not slept through"
        assert rounds < 18, "claims that back off and heartbeats, but no look every 50 ms"


async def test_a_starving_node_claims_no_more_cooling_addresses_than_it_needs() -> None:
    """Each look claimed one more, and only when none was left did the first one serve."""
    lab = Lab()
    for node in ("n1", "n2"):
        await lab.node(node)
    await lab.namespace()
    await lab.pool("p", "10.6.0.0/24", "10.6.0.5-10.6.0.10", default=True)
    async with lab.agent("n1", lease=LONG_COOLDOWN) as first, lab.agent("n2", lease=LONG_COOLDOWN) as second:
        for number in range(6):
            await add(first, f"c{number}", await lab.pod(f"a{number}", "n1"))
        for number in range(6):
            await delete(first, f"c{number}")
            await lab.store.delete(POD, f"a{number}", namespace="default")
        await eventually(lambda: not list(first.stock))
        writes = second.keeper.counters.attempts
        assert await add(second, "c9", await lab.pod("b", "n2"))
        assert second.keeper.counters.attempts == writes + 1
        assert len(list(second.stock)) == 1


async def test_both_families_come_together_though_an_address_of_each_cools_here() -> None:
    """Each family was claimed when an ADD waited for it, and given back as surplus (with the cooling one, it was one too many) while that ADD waited
    for the other one: for as long as the cooldown lasted, they came in turns and never together.
    """
    lab = Lab()
    for node in ("n1", "n2"):
        await lab.node(node)
    await lab.namespace()
    await lab.pool("p4", "10.7.0.0/24", "10.7.0.1-10.7.0.2")
    await lab.pool("p6", "fd00::/64", "fd00::1-fd00::2")
    note = {"ipam.spidernet.io/ippool": '{"ipv4":["p4"],"ipv6":["p6"]}'}
    lease = msgspec.structs.replace(LONG_COOLDOWN, cooldown_floor_s=30.0, wait_s=5.0)
    async with lab.agent("n1", lease=lease) as agent, holder(lab, "p4", "p6") as elsewhere:
        await add(agent, "c1", await lab.pod("a", "n1", note))
        for pool in ("p4", "p6"):
            assert await elsewhere.keeper.claim(pool, "", elsewhere.world.pools.effective[pool], 1) == 1
        await delete(agent, "c1")
        await lab.store.delete(POD, "a", namespace="default")
        adding = asyncio.create_task(add(agent, "c2", await lab.pod("b", "n1", note)))
        for pool in ("p6", "p4"):
            await asyncio.sleep(0.3)
            await elsewhere.keeper.give_back(elsewhere.stock.surplus(pool, 1, time.monotonic()))
        freed = time.monotonic()
        assert await adding == ["10.7.0.2", "fd00::2"]
        assert time.monotonic() - freed < 2.0, "the longest pause between two claims is one second"


async def test_an_address_found_for_one_family_does_not_leave_while_its_add_waits_for_the_other() -> None:
    """Of a pod that the watch has not shown: nothing but the waiting ADD says that the address is needed."""
    lab = Lab()
    for node in ("n1", "n2"):
        await lab.node(node)
    await lab.namespace()
    await lab.pool("p4", "10.7.0.0/24", "10.7.0.1")
    await lab.pool("p6", "fd00::/64", "fd00::1")
    note = {"ipam.spidernet.io/ippool": '{"ipv4":["p4"],"ipv6":["p6"]}'}
    async with lab.agent("n1", lease=LONG_COOLDOWN) as agent, holder(lab, "p4", "p6") as elsewhere:
        agent.world.live_pods = list  # type: ignore[method-assign]
        assert await elsewhere.keeper.claim("p4", "", elsewhere.world.pools.effective["p4"], 1) == 1
        adding = asyncio.create_task(add(agent, "c1", await lab.pod("a", "n1", note)))
        await eventually(lambda: agent.stock.count("p6", State.READY) == 1)
        writes = agent.keeper.counters.attempts
        await asyncio.sleep(0.5)
        assert agent.refill.wanted("p6") == 1
        assert agent.keeper.counters.attempts == writes, "not given back and claimed again"
        await elsewhere.keeper.give_back(elsewhere.stock.surplus("p4", 1, time.monotonic()))
        assert await adding == ["10.7.0.1", "fd00::1"]


async def test_who_comes_while_the_first_pool_turns_out_to_be_empty_goes_on_to_the_next_one_too() -> None:
    """It joined the line of the first pool only, and nobody woke it: the claim that found nothing had been made for those before it."""
    lab = Lab()
    await lab.node("n1")
    await lab.namespace()
    await lab.pool("first", "10.7.0.0/24", "10.7.0.1")
    await lab.pool("second", "10.8.0.0/24", "10.8.0.1-10.8.0.9")
    note = {"ipam.spidernet.io/ippool": '{"ipv4":["first","second"]}'}
    full = asyncio.Event()
    reading = asyncio.Event()

    async def slow(call: Call) -> None:
        if full.is_set() and call.kind is IP_BLOCK and call.verb == "get":
            reading.set()
            await asyncio.sleep(0.2)

    async with lab.agent("n1", lease=LONG_COOLDOWN, store=MemoryStore(lab.cluster, fault=slow)) as agent:
        assert await add(agent, "c1", await lab.pod("a", "n1", note)) == ["10.7.0.1"]
        full.set()
        pods = [await lab.pod(name, "n1", note) for name in ("b", "c")]
        early = asyncio.create_task(add(agent, "c2", pods[0]))
        await reading.wait()
        late = asyncio.create_task(add(agent, "c3", pods[1]))
        assert {address for adding in (early, late) for address in await adding} == {"10.8.0.1", "10.8.0.2"}


@asynccontextmanager
async def holder(lab: Lab, *pools: str) -> AsyncIterator[Agent]:
    """An agent on n2 that keeps what it has of these pools until the test gives it back."""
    async with lab.agent("n2", lease=LONG_COOLDOWN) as agent:
        serve = agent.refill._serve

        async def keeps(pool: str, needed: int | None) -> None:
            if pool not in pools:
                await serve(pool, needed)

        agent.refill._serve = keeps  # type: ignore[method-assign]
        yield agent


async def test_the_families_of_a_waiting_pod_are_claimed_side_by_side_once_they_are_offered() -> None:
    """Each claim reads its page; here no answer comes before both were asked for."""
    lab = Lab()
    for node in ("n1", "n2"):
        await lab.node(node)
    await lab.namespace()
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.5", default=True)
    await lab.pool("v6", "fd00:6::/64", "fd00:6::5", default=True)
    asked: set[str] = set()
    offered, both = asyncio.Event(), asyncio.Event()

    async def together(call: Call) -> None:
        if call.verb == "get" and call.kind is IP_BLOCK and offered.is_set() and not both.is_set():
            asked.add(call.name)
            if len(asked) == 2:
                both.set()
            async with asyncio.timeout(1.0):
                await both.wait()

    fake = MemoryStore(lab.cluster, fault=together)
    async with lab.agent("n2", lease=LONG_COOLDOWN) as other, lab.agent("n1", lease=LONG_COOLDOWN, store=fake) as agent:
        effective = other.world.pools.effective
        held = [slot for pool in ("v4", "v6") for slot in await leased(other, pool, effective[pool])]
        waiting = asyncio.create_task(add(agent, "c1", await lab.pod("a", "n1")))
        await eventually(lambda: agent.line.waiting("v4") == 1)
        offered.set()
        await other.keeper.give_back(held)
        agent.refill.offer("v4", ("10.6.0.0/26",))
        agent.refill.offer("v6", ("fd00:6::/122",))
        assert await waiting == ["10.6.0.5", "fd00:6::5"]
        assert both.is_set()


async def leased(agent: Agent, pool: str, addresses: RangeSet) -> list[SlotId]:
    """What the agent holds of a pool after it has claimed all of it."""
    await agent.keeper.claim(pool, "", addresses, addresses.size)
    return [held.slot for held in agent.stock if held.pool == pool]


async def test_the_leader_hears_at_once_that_nothing_of_a_pool_that_is_being_deleted_is_in_use() -> None:
    """Found by the lab under load: the pool of a deleted application stayed until the next heartbeat of the last node that had used it."""
    lab = Lab()
    await lab.node("n1")
    await lab.namespace()
    spec = {"subnet": "10.6.0.0/24", "ips": ["10.6.0.5-10.6.0.6"], "default": True}
    await lab.create(IP_POOL, metadata={"name": "p", "finalizers": ["spiderpool.spidernet.io"]}, spec=spec)
    seldom = LeaseSettings(heartbeat_s=100.0, lease_s=300.0, cooldown_s=30.0, cooldown_floor_s=1.0, wait_s=3.0)

    async def told() -> int:
        mailbox = await lab.store.get(IP_NODE, "n1")
        if mailbox is None or mailbox.status is UNSET:
            return -1
        return sum(stock.used for stock in mailbox.status.pools)

    async def eventually_told(used: int) -> None:
        async with asyncio.timeout(5.0):
            while await told() != used:
                await asyncio.sleep(0.02)

    async with lab.agent("n1", lease=seldom) as agent:
        assert await add(agent, "c1", await lab.pod("a", "n1"))
        agent.heartbeats.hurry()
        await eventually_told(1)
        await lab.store.delete(IP_POOL, "p")  # its finalizer keeps it
        await eventually(lambda: (pool := agent.world.pools.catalog.get("p")) is not None and pool.deleting)
        await delete(agent, "c1")
        await eventually_told(0)


@pytest.mark.parametrize(
    "affinity", [{"nodeName": ["n2"]}, {"nodeAffinity": {"matchLabels": {"zone": "elsewhere"}}}], ids=["name", "label"]
)
async def test_a_pool_that_is_moved_to_other_nodes_drains_from_this_one(affinity: dict[str, object]) -> None:
    """The pod keeps its address until it ends; what nobody here can get any more goes back, and comes again with the node's right to it."""
    lab = Lab()
    for node in ("n1", "n2"):
        await lab.node(node)
    await lab.namespace()
    await lab.pool("p", "10.6.0.0/20", "10.6.0.10-10.6.15.250", default=True)
    wanted = {"ipam.spidernet.io/ippool": '{"ipv4":["p"]}'}
    async with lab.agent("n1", lease=LONG_COOLDOWN) as agent:
        pod = await lab.pod("a", "n1", wanted)
        given = await add(agent, "c1", pod)
        await eventually(lambda: agent.stock.count("p", State.READY) > 0)
        await lab.store.patch(IP_POOL, "p", {"spec": affinity})
        await eventually(lambda: [str(held.slot) for held in agent.stock] == given)
        assert await add(agent, "c1", pod) == given
        refused = await failed(agent, http("ADD", "c2", await lab.pod("b", "n1", wanted)))
        assert refused["code"] == 111, refused
        await lab.store.patch(IP_POOL, "p", {"spec": dict.fromkeys(affinity)})
        await eventually(lambda: agent.stock.count("p", State.READY) > 0)
