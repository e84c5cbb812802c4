"""I8: no free address strands. A leader and agents over one in-memory API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sized

import msgspec
import pytest

from adapters.kube.memory import Call, MemoryStore
from crds.meta import UNSET
from crds.nephila import IP_NODE, IPNode
from ipam.stock import State
from leader.controllers import recalls
from nodeagent import heartbeats
from nodeagent.agent import Agent
from tests.unit.leader.harness import leader
from tests.unit.nodeagent.harness import FAST, Lab, add, eventually

RARE = msgspec.structs.replace(
    FAST, heartbeat_s=20.0
)  # no heartbeat in the time of a test, but those that have a reason
SMALL = {"ipam.spidernet.io/ippool": '{"ipv4":["small"]}'}


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    for name in ("n1", "n2", "n3"):
        await lab.node(name)
    return lab


async def hoard(agent: Agent) -> None:
    """The agent keeps what it has until it is asked."""
    serve = agent.refill._serve

    async def busy(pool: str, needed: int) -> None:
        if agent.line.waiting(pool) or needed:
            await serve(pool, needed)

    agent.refill._serve = busy  # type: ignore[method-assign,assignment]


async def test_an_add_gets_an_address_that_is_free_on_another_node(lab: Lab) -> None:
    """All free addresses sit on n1, as warm stock; n2's ADD gets one within a quarter of a second."""
    await lab.pool("small", "10.7.0.0/24", "10.7.0.1-10.7.0.8")
    async with lab.agent("n1") as one, lab.agent("n2") as two, leader(lab):
        await hoard(one)
        await one.keeper.claim("small", "", one.world.pools.effective["small"], 8)
        assert one.stock.count("small", State.READY) == 8
        pod = await lab.pod("p", "n2", SMALL)
        began = time.monotonic()
        assert (await add(two, "c1", pod))[0].startswith("10.7.0.")
        assert time.monotonic() - began < 1.0


async def test_what_is_free_elsewhere_comes_before_the_next_pool_of_the_list(lab: Lab) -> None:
    """The first pool is not exhausted as long as another node has a free address of it; then the next one serves without a pause."""
    await lab.pool("small", "10.7.0.0/24", "10.7.0.1-10.7.0.2")
    await lab.pool("backup", "10.8.0.0/24", "10.8.0.1-10.8.0.9")
    listed = {"ipam.spidernet.io/ippool": '{"ipv4":["small","backup"]}'}
    async with lab.agent("n1") as one, lab.agent("n2") as two, leader(lab):
        await hoard(one)
        await one.keeper.claim("small", "", one.world.pools.effective["small"], 2)
        await eventually(lambda: (two.world.supply("small") or (0, 0))[0] == 2)
        got = [(await add(two, f"c{i}", await lab.pod(f"p{i}", "n2", listed)))[0] for i in range(2)]
        assert got == ["10.7.0.1", "10.7.0.2"] or got == ["10.7.0.2", "10.7.0.1"]
        await eventually(lambda: two.world.supply("small") == (0, 1))
        assert (await add(two, "c2", await lab.pod("p2", "n2", listed)))[0].startswith("10.8.")
        began = time.monotonic()
        assert (await add(two, "c3", await lab.pod("p3", "n2", listed)))[0].startswith("10.8.")
        assert time.monotonic() - began < 0.3


async def test_without_a_leader_the_same_add_fails(lab: Lab) -> None:
    """The test above shows something: nothing but the leader brings the address."""
    await lab.pool("small", "10.7.0.0/24", "10.7.0.1-10.7.0.8")
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        await hoard(one)
        one.needs.likely = lambda: frozenset({"small"})  # type: ignore[method-assign]
        await one.keeper.claim("small", "", one.world.pools.effective["small"], 8)
        pod = await lab.pod("p", "n2", SMALL)
        with pytest.raises(AssertionError, match="small"):
            await add(two, "c1", pod)


async def test_every_last_address_of_a_pool_is_used_by_any_node(lab: Lab) -> None:
    await lab.pool("small", "10.7.0.0/24", "10.7.0.1-10.7.0.30")
    async with lab.agent("n1") as one, lab.agent("n2") as two, lab.agent("n3") as three, leader(lab):
        agents = (one, two, three)
        await one.keeper.claim("small", "", one.world.pools.effective["small"], 30)
        pods = [await lab.pod(f"p{i}", f"n{i % 3 + 1}", SMALL) for i in range(30)]
        answers = await asyncio.gather(*(add(agents[i % 3], f"c{i}", pod) for i, pod in enumerate(pods)))
    assert len({answer[0] for answer in answers}) == 30


async def test_recalls_leave_the_mailbox_once_they_are_answered(lab: Lab) -> None:
    await lab.pool("small", "10.7.0.0/24", "10.7.0.1-10.7.0.8")
    async with lab.agent("n1") as one, lab.agent("n2") as two, leader(lab):
        await one.keeper.claim("small", "", one.world.pools.effective["small"], 8)
        await add(two, "c1", await lab.pod("p", "n2", SMALL))
        await eventually(lambda: len(one.recalls.answers()) == 1)
        await one.mailbox.beat()  # type: ignore[union-attr]
        stored = await lab.store.get(IP_NODE, "n1")
        assert stored is not None and stored.status is not UNSET
        asked = stored.spec.recalls
        assert asked and asked[0].pool == "small" and "n2" in asked[0].reason
        assert {answer.id for answer in stored.status.recalls} == {recall.id for recall in asked}

        async def empty() -> bool:
            found = await lab.store.get(IP_NODE, "n1")
            return found is not None and not found.spec.recalls

        for _ in range(100):
            if await empty():
                break
            await asyncio.sleep(0.05)
        assert await empty()


async def test_a_node_that_does_not_answer_is_passed_over(lab: Lab) -> None:
    """n1 holds most of the free addresses but is cut off; n3 has some too."""
    await lab.pool("small", "10.7.0.0/24", "10.7.0.1-10.7.0.8")
    async with lab.agent("n3") as three, lab.agent("n2") as two, leader(lab, silent_s=0.3):
        async with lab.agent("n1") as one:
            await one.keeper.claim("small", "", one.world.pools.effective["small"], 6)
            await one.mailbox.beat()  # type: ignore[union-attr]
        await three.keeper.claim("small", "", three.world.pools.effective["small"], 2)
        await asyncio.sleep(0.4)
        assert await add(two, "c1", await lab.pod("p", "n2", SMALL))


async def test_what_the_leader_publishes_sizes_the_warm_stock(lab: Lab) -> None:
    await lab.pool("wide", "10.9.0.0/24", "10.9.0.1-10.9.0.250", default=True)
    async with lab.agent("n1") as one, leader(lab):
        await add(one, "c1", await lab.pod("p", "n1"))
        await eventually(lambda: one.world.supply("wide") is not None and one.world.supply("wide")[1] == 1)  # type: ignore[index]
        await eventually(lambda: one.refill.targets.get("wide") == 16)


async def test_plenty_costs_no_recall(lab: Lab) -> None:
    await lab.pool("wide", "10.9.0.0/24", "10.9.0.1-10.9.0.250", default=True)
    counting = MemoryStore(lab.cluster)
    async with lab.agent("n1") as one, lab.agent("n2") as two, leader(lab, store=counting) as boss:
        pods = [await lab.pod(f"p{i}", f"n{i % 2 + 1}") for i in range(20)]
        await asyncio.gather(*(add((one, two)[i % 2], f"c{i}", pod) for i, pod in enumerate(pods)))
        await asyncio.sleep(0.3)
        assert boss.reign is not None and boss.reign.recalls.total == 0


async def test_a_recalled_pool_leaves_by_one_write_although_others_wrote_the_block(lab: Lab) -> None:
    """A second one, for what the end of the warm stock sets free, was in the way of the claim it was for; and the first failed on an old picture."""
    await lab.pool("small", "10.7.0.0/24", "10.7.0.1-10.7.0.8")
    async with lab.agent("n1") as one, lab.agent("n2") as two, lab.agent("n3") as three, leader(lab):
        await hoard(one)
        await one.keeper.claim("small", "", one.world.pools.effective["small"], 7)
        await add(three, "c3", await lab.pod("p3", "n3", SMALL))
        attempts = one.keeper.counters.attempts
        await add(two, "c2", await lab.pod("p2", "n2", SMALL))
        await eventually(lambda: not one.stock.pools())
        assert one.keeper.counters.attempts == attempts + 1
        assert one.keeper.counters.conflicts == 0


async def test_what_is_recalled_of_two_families_is_offered_by_one_write(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recalls, "TOGETHER_S", 0.3)
    await lab.pool("small", "10.7.0.0/24", "10.7.0.1-10.7.0.4")
    await lab.pool("small6", "fd00:7::/64", "fd00:7::1-fd00:7::4")
    both = {"ipam.spidernet.io/ippool": '{"ipv4":["small"],"ipv6":["small6"]}'}
    offered: list[set[str]] = []

    def notice(stored: IPNode | None) -> None:
        if stored is not None and stored.spec.offers:
            pools = {offer.pool for offer in stored.spec.offers}
            if pools not in offered:
                offered.append(pools)

    async def slow(call: Call) -> None:
        if call.verb == "delete" and call.name.startswith("ip6"):  # given back whole, the block is empty
            await asyncio.sleep(0.03)

    async def nothing_yet(*_args: object, **_options: object) -> int:
        return 0

    giving = MemoryStore(lab.cluster, fault=slow)
    async with lab.agent("n1", store=giving) as one, lab.agent("n2") as two, leader(lab):
        await hoard(one)
        for pool in ("small", "small6"):
            await one.keeper.claim(pool, "", one.world.pools.effective[pool], 4)
        two.world.mailbox.listen(lambda _old, new: notice(new))
        claim, two.keeper.claim = two.keeper.claim, nothing_yet  # type: ignore[method-assign]
        waiting = asyncio.create_task(add(two, "c1", await lab.pod("p", "n2", both)))
        await eventually(lambda: bool(offered))
        two.keeper.claim = claim  # type: ignore[method-assign]
        assert offered == [{"small", "small6"}]
        await waiting


async def test_a_leaders_own_words_are_no_reason_to_plan_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "ANSWER_S", 60.0)
    async with lab.agent("n1", lease=RARE) as one, leader(lab) as boss:
        assert boss.reign is not None
        sight = boss.reign.sight
        told: list[str] = []
        sight.kicks.append(lambda changed: told.append(changed.name) if changed.kind == "IPNode" else None)
        offer = {"id": "1-a", "pool": "none", "pages": ["10.7.0.0/26"]}
        await lab.store.patch(IP_NODE, "n1", {"spec": {"offers": [offer]}})
        await eventually(lambda: bool((found := sight.mailboxes.get("n1")) and found.spec.offers))
        assert not told
        await one.mailbox.beat()  # type: ignore[union-attr]
        await eventually(lambda: bool(told))


async def test_a_recall_and_its_answer_cost_one_heartbeat(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that only says that the mailbox was read was in the way of the very write that was asked for."""
    monkeypatch.setattr(heartbeats, "ANSWER_S", 60.0)
    await lab.pool("small", "10.7.0.0/24", "10.7.0.1-10.7.0.8")
    beats: list[int] = []
    answers: Callable[[], Sized] = tuple

    async def count(call: Call) -> None:
        if call.verb == "patch" and call.kind is IP_NODE and call.subresource == "status":
            beats.append(len(answers()))

    async with (
        lab.agent("n1", lease=RARE, store=MemoryStore(lab.cluster, fault=count)) as one,
        lab.agent("n2") as two,
        leader(lab),
    ):
        await hoard(one)
        answers = one.recalls.answers
        await one.keeper.claim("small", "", one.world.pools.effective["small"], 8)
        await one.mailbox.beat()  # type: ignore[union-attr]
        beats.clear()
        await add(two, "c1", await lab.pod("p", "n2", SMALL))
        await eventually(lambda: bool(beats))
        assert beats[0] == 1, "the answer is in the first"


def cleared(agent: Agent) -> str:
    stored = agent.mailbox.object if agent.mailbox is not None else None
    return stored.status.cleared_fence if stored is not None and stored.status is not UNSET else ""


async def test_a_fence_mark_is_answered_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "ANSWER_S", 60.0)
    async with lab.agent("n1", lease=RARE) as one:
        mark = {"id": "m1", "term": 1, "reason": "", "since": "2026-01-01T00:00:00Z"}
        await lab.store.patch(IP_NODE, "n1", {"spec": {"fence": mark}})
        await eventually(lambda: one.mailbox is not None and cleared(one) == "m1")
