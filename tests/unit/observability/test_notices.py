"""Events: told for what a user must know, on the right objects, and every reason in the code is in the table."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.clock import ManualClock, SystemClock
from adapters.entropy import SeededEntropy
from adapters.kube.events import EventRecorder
from adapters.kube.memory import MemoryStore
from adapters.kube.memory_cluster import MemoryCluster
from crds.core import EVENT, POD, Event
from ipam.errors import PoolExhausted
from ipam.fence import Fence
from leader.notices import LEADER_NOTICES
from nodeagent.notices import AGENT_NOTICES
from nodeagent.telling import _ON_FAILED_ADD, Teller
from tests.unit.leader.harness import Heard, leader
from tests.unit.nodeagent.harness import Lab, add, eventually, failed, http

ROOT = Path(__file__).resolve().parents[3]


async def events(lab: Lab) -> list[Event]:
    return list((await lab.store.list(EVENT)).items)


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.11", default=True)
    return lab


async def test_a_pod_without_address_is_told_why_and_the_pool_says_who_holds_it(lab: Lab) -> None:
    heard = Heard()
    pods = [await lab.pod(f"p{number}", "n1") for number in range(3)]
    async with lab.agent("n1") as agent, leader(lab, heard=heard):
        for number, pod in enumerate(pods[:2]):
            await add(agent, f"c{number}", pod)
        error = await failed(agent, http("ADD", "c2", pods[2]))
        assert "PoolExhausted" in error["details"]
        await asyncio.sleep(0.05)
        told = [event for event in await events(lab) if event.reason == "PoolExhausted"]
        assert [(event.regarding.kind, event.regarding.name) for event in told] == [("Pod", "p2")]
        await eventually(lambda: any(reason == "PoolExhausted" for _, reason, _ in heard.told))
        name, _, note = next(found for found in heard.told if found[1] == "PoolExhausted")
        assert name == "v4" and "in use by namespaces default 2" in note


async def test_the_same_trouble_again_is_one_event(lab: Lab) -> None:
    pods = [await lab.pod(f"p{number}", "n1") for number in range(3)]
    async with lab.agent("n1") as agent:
        for number, pod in enumerate(pods[:2]):
            await add(agent, f"c{number}", pod)
        for attempt in range(2):
            await failed(agent, http("ADD", f"d{attempt}", pods[2]))
        await asyncio.sleep(0.05)
        assert len([event for event in await events(lab) if event.reason == "PoolExhausted"]) == 1
        assert agent.teller.counts["PoolExhausted"] == 2


async def test_two_pools_on_the_same_addresses_are_told_once(lab: Lab) -> None:
    heard = Heard()
    async with leader(lab, heard=heard):
        await lab.pool("other", "10.6.0.0/24", "10.6.0.11-10.6.0.20")
        await eventually(
            lambda: {name for name, reason, _ in heard.told if reason == "PoolOverlaps"} == {"v4", "other"}
        )
        await asyncio.sleep(0.3)
        assert len([reason for _, reason, _ in heard.told if reason == "PoolOverlaps"]) == 2


async def test_a_released_leak_is_told_on_the_node(lab: Lab) -> None:
    async with lab.agent("n1") as agent:
        pod = await lab.pod("p", "n1")
        await add(agent, "c1", pod)
        await lab.store.delete(POD, "p", namespace="default")
        await eventually(lambda: agent.reconciler.released == 1)
        await asyncio.sleep(0.05)
        told = [event for event in await events(lab) if event.reason == "LeakReleased"]
        assert [(event.regarding.kind, event.regarding.name, event.type) for event in told] == [
            ("Node", "n1", "Normal")
        ]


async def test_a_mark_and_its_end_are_told_but_not_a_first_start() -> None:
    clock = ManualClock()
    store = MemoryStore(MemoryCluster(SystemClock()))
    recorder = EventRecorder(store, clock, SeededEntropy(1), controller="c", instance="n1")
    teller = Teller(recorder, clock, "n1", lambda _slot: None)
    teller.on_fence(Fence(300.0), Fence(300.0, mark="mailbox-missing"))
    assert not teller.counts
    before = Fence(300.0, acknowledged_at=clock.now())
    marked = Fence(300.0, acknowledged_at=clock.now(), mark="7-abc")
    teller.on_fence(before, marked)
    teller.on_fence(marked, before)
    assert teller.counts == {"NodeFenced": 1, "NodeUnfenced": 1}
    await clock.advance(400.0)
    teller.on_fence(before, Fence(300.0, acknowledged_at=clock.now()))
    assert teller.counts["LeaseLapsed"] == teller.lapses == 1


def constants(folder: str, method: str, position: int) -> Iterator[str]:
    """Every literal that is given to a method as its argument at this position."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            if isinstance(node, ast.Call) and called == method and len(node.args) > position:
                argument = node.args[position]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value


def test_the_tables_hold_exactly_the_reasons_in_the_code() -> None:
    assert {*constants("nodeagent", "_tell", 0)} | _ON_FAILED_ADD == set(AGENT_NOTICES)
    assert {*constants("leader", "announce", 1)} == set(LEADER_NOTICES)


def test_every_reason_is_an_error_of_the_tree_where_it_comes_from_one() -> None:
    assert PoolExhausted.reason in _ON_FAILED_ADD


def test_a_reason_that_is_not_in_the_table_is_refused() -> None:
    clock = ManualClock()
    store = MemoryStore(MemoryCluster(SystemClock()))
    recorder = EventRecorder(store, clock, SeededEntropy(1), controller="c", instance="n1")
    with pytest.raises(KeyError):
        Teller(recorder, clock, "n1", lambda _slot: None)._tell("Unheard", "Verify", "")
