"""SpiderEndpoints that cannot be written hold up no others, are tried again ever more rarely, and are never forgotten."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from adapters.kube.memory import Answered, Call, MemoryStore
from crds.core import POD
from crds.spiderpool import ENDPOINT
from nodeagent import outbox
from tests.unit.leader.harness import until
from tests.unit.nodeagent.harness import Lab, add, delete, eventually


class Refusing:
    """An API server that refuses the SpiderEndpoints of some pods, as those of a namespace that is going away."""

    def __init__(self, *pods: str) -> None:
        self.pods = set(pods)
        self.tries: Counter[str] = Counter()

    async def __call__(self, call: Call) -> Answered | None:
        if call.kind is not ENDPOINT or call.verb not in ("create", "patch"):
            return None
        self.tries[call.name] += 1
        return Answered(403, "Forbidden") if call.name in self.pods else None


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.90", default=True)
    return lab


async def recorded_uid(lab: Lab, name: str) -> str:
    stored = await lab.store.get(ENDPOINT, name, "default")
    return stored.status.current.uid if stored is not None and stored.status else ""


async def test_as_many_refused_entries_as_workers_do_not_hold_up_the_next_one(lab: Lab) -> None:
    refused = [f"bad-{number}" for number in range(outbox.WORKERS)]
    api = Refusing(*refused)
    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=api)) as agent:
        for name in refused:
            await add(agent, f"c-{name}", await lab.pod(name, "n1"))
        await eventually(lambda: all(api.tries[name] >= 2 for name in refused))
        good = await lab.pod("good", "n1")
        await add(agent, "c-good", good)
        added = time.monotonic()

        async def written() -> bool:
            return await recorded_uid(lab, "good") == good.uid

        await until(written)
        assert time.monotonic() - added < 1.0
        assert agent.outbox.depth == len(refused)
        api.pods.clear()
        await eventually(lambda: agent.outbox.depth == 0)
        for name in refused:
            assert await recorded_uid(lab, name)


async def test_a_refused_entry_is_tried_ever_more_rarely_though_it_is_marked_again(lab: Lab) -> None:
    api = Refusing("bad")
    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=api)) as agent:
        pod = await lab.pod("bad", "n1")
        await add(agent, "c1", pod)
        for _ in range(30):
            await asyncio.sleep(0.05)
            agent.outbox.mark("default/bad", pod.uid)
        # pauses of 0.2 to 0.4, 0.4 to 0.8 and 0.8 to 1.6 seconds
        assert 2 <= api.tries["bad"] <= 4
        assert agent.outbox.is_due("default/bad")


async def test_a_new_pod_of_the_name_does_not_pay_for_its_predecessor(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BACKOFF_S", (60.0, 60.0))
    api = Refusing("p")
    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=api)) as agent:
        await add(agent, "c1", await lab.pod("p", "n1"))
        await eventually(lambda: api.tries["p"] == 1)
        api.pods.clear()
        await delete(agent, "c1")
        await asyncio.sleep(0.3)
        assert agent.outbox.is_due("default/p"), "the old pod's entry rests"
        await lab.store.delete(POD, "p", namespace="default")
        new = await lab.pod("p", "n1")
        await add(agent, "c2", new)
        await eventually(lambda: agent.outbox.depth == 0)
        assert await recorded_uid(lab, "p") == new.uid


async def test_what_was_refused_is_tried_again_after_a_restart(lab: Lab) -> None:
    api = Refusing("p")
    pod = await lab.pod("p", "n1")
    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=api)) as agent:
        await add(agent, "c1", pod)
        await eventually(lambda: api.tries["p"] == 1)
    async with lab.agent("n1") as agent:
        await eventually(lambda: agent.outbox.depth == 0)
        assert await recorded_uid(lab, "p") == pod.uid


async def test_the_del_of_a_former_pod_does_not_take_the_place_of_the_present_pods_record(lab: Lab) -> None:
    """Seed 6627: both are about one name. The new pod's address was recorded nowhere, so that a deleted pool waited for it for ever."""
    api = Refusing("p")
    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=api)) as agent:
        await add(agent, "c1", await lab.pod("p", "n1"))
        await lab.store.delete(POD, "p", namespace="default")
        new = await lab.pod("p", "n1")
        await add(agent, "c2", new)
        await delete(agent, "c1")
    api.pods.clear()
    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=api)) as agent:
        await eventually(lambda: agent.outbox.depth == 0)
        assert await recorded_uid(lab, "p") == new.uid


async def test_a_late_repeat_of_a_former_pods_add_does_not_take_its_place_either(lab: Lab) -> None:
    api = Refusing("p")
    async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=api)) as agent:
        former = await lab.pod("p", "n1")
        await add(agent, "c1", former)
        await lab.store.delete(POD, "p", namespace="default")
        new = await lab.pod("p", "n1")
        await add(agent, "c2", new)
        await eventually(lambda: agent.world.pods.get("p", "default") == new)
        agent.outbox.mark("default/p", former.uid)
        api.pods.clear()
        await eventually(lambda: agent.outbox.depth == 0)
        assert await recorded_uid(lab, "p") == new.uid
