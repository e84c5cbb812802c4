"""Readiness, CNI STATUS and liveness say what is so, over real HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
from prometheus_client import CollectorRegistry

from adapters.clock import ManualClock
from adapters.health import HealthServer
from adapters.pulse import STALL_S, Pulse
from ipam.fence import Fence
from ipam.parents import Parent
from nodeagent.segment import Segment
from probes.watcher import OnIntrusion
from tests.unit.nodeagent.harness import Lab, eventually, failed, http


class NoSegment:
    """A parent interface that is not there."""

    parent = Parent("eth9")

    async def open(self, on_intrusion: OnIntrusion) -> Segment:
        raise OSError("no such device")


@asynccontextmanager
async def served(ready: Callable[[], str], alive: Callable[[], str] = str) -> AsyncIterator[Callable[[str], object]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = HealthServer(f"127.0.0.1:{port}", CollectorRegistry(), ready, alive)
    await server.start()
    async with aiohttp.ClientSession() as session:

        async def get(path: str) -> tuple[int, str]:
            async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.status, await answer.text()

        try:
            yield get
        finally:
            await server.stop()


async def lab_with_node() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.20", default=True)
    return lab


async def test_status_and_readiness_agree_open_and_fenced() -> None:
    lab = await lab_with_node()
    async with lab.agent("n1") as agent, served(agent.why_not_ready) as get:
        assert (await agent.serve(http("STATUS", ""))).status == 200
        assert await get("/v1/runtime/readiness") == (200, "ok")  # type: ignore[misc]
        assert agent.mailbox is not None
        agent.mailbox.fence = Fence(60.0, mark="7-abc")
        error = await failed(agent, http("STATUS", ""))
        status, why = await get("/v1/runtime/readiness")  # type: ignore[misc]
        assert error["code"] == 50 and status == 503
        assert "7-abc" in why and why in error["msg"]


async def test_a_node_whose_parent_interface_is_gone_is_not_ready_and_says_so() -> None:
    lab = await lab_with_node()
    async with lab.agent("n1", segment=NoSegment()) as agent, served(agent.why_not_ready) as get:
        await eventually(lambda: "no such device" in agent.why_not_ready())
        error = await failed(agent, http("STATUS", ""))
        status, why = await get("/v1/runtime/readiness")  # type: ignore[misc]
        assert (error["code"], status) == (50, 503) and why in error["msg"]
        assert agent.teller.counts["SegmentUnusable"] == 1


async def test_a_cut_wire_is_told_by_a_code_of_its_own_whatever_else_is_wrong() -> None:
    """CNI 1.1, STATUS: 51 says that running containers may be cut off too, 50 only that a new one cannot be served."""
    asked: list[str] = []

    async def why_cut(interface: str) -> str:
        asked.append(interface)
        return "it has no carrier" if interface == "eth7" else ""

    lab = await lab_with_node()
    async with lab.agent("n1", why_cut=why_cut) as agent:
        assert (await agent.serve(http("STATUS", "", conf={"master": "eth8"}))).status == 200
        assert (await agent.serve(http("STATUS", ""))).status == 200
        error = await failed(agent, http("STATUS", "", conf={"master": "eth7"}))
        assert error["code"] == 51 and "eth7" in error["msg"] and "no carrier" in error["msg"]
        assert agent.mailbox is not None
        agent.mailbox.fence = Fence(60.0, mark="7-abc")
        assert (await failed(agent, http("STATUS", "", conf={"master": "eth7"})))["code"] == 51
        assert (await failed(agent, http("STATUS", "", conf={"master": "eth8"})))["code"] == 50
        assert asked == ["eth8", "eth7", "eth7", "eth8"]


async def test_a_starting_agent_is_not_ready_and_alive() -> None:
    async with served(lambda: "the agent is starting") as get:
        assert await get("/v1/runtime/startup") == (503, "the agent is starting")  # type: ignore[misc]
        assert await get("/v1/runtime/liveness") == (200, "ok")  # type: ignore[misc]


async def test_liveness_fails_once_the_pulse_has_stopped() -> None:
    clock = ManualClock()
    beats: list[float] = []
    pulse = Pulse(clock, lambda: beats.append(clock.now()))
    task = asyncio.create_task(pulse.run())
    async with served(str, pulse.why_dead) as get:
        for _ in range(40):
            await clock.advance(1.0)
        assert await get("/v1/runtime/liveness") == (200, "ok")  # type: ignore[misc]
        assert len(beats) >= 40 and pulse.worst_lag_s == 0.0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await clock.advance(STALL_S + 1)
        status, why = await get("/v1/runtime/liveness")  # type: ignore[misc]
        assert status == 503 and "did not turn for" in why


async def test_a_late_loop_shows_its_lag() -> None:
    clock = ManualClock()
    pulse = Pulse(clock)
    task = asyncio.create_task(pulse.run())
    await asyncio.sleep(0)
    await clock.advance(4.0)  # one jump: the beat that was due after one second comes after four
    task.cancel()
    assert pulse.worst_lag_s >= 0.0
