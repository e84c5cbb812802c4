"""What a node does about its stock when a pool is scarce: nothing is kept back that somebody waits for."""

from __future__ import annotations

import time

import msgspec

from crds.core import POD
from nodeagent.config import LeaseSettings
from tests.unit.nodeagent.harness import Lab, add, delete, eventually

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
