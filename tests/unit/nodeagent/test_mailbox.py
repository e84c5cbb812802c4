"""The agent's side of the mailbox, where another party writes it at the same time."""

from __future__ import annotations

import pytest

from adapters.clock import ManualClock
from adapters.journal.memory import MemoryJournal
from adapters.kube.memory import Call, MemoryStore
from adapters.kube.memory_cluster import MemoryCluster
from crds.meta import ObjectMeta
from crds.nephila import IP_NODE, IPNode
from ipam.errors import ApiUnreachable
from ipam.fence import Fence
from nodeagent.mailbox import Identity, Mailbox, NodeReport, standing_mark


async def test_a_leader_that_writes_the_mailbox_all_the_time_does_not_keep_the_node_fenced() -> None:
    """Seed 688: recalls and offers to a starving node made every answer to its fence mark lose the compare-and-swap, for ever."""
    clock = ManualClock()
    cluster = MemoryCluster(clock)
    leader = MemoryStore(cluster)
    await leader.create(IP_NODE, IPNode(metadata=ObjectMeta(name="n1")))
    mark = {"id": "m1", "term": 1, "reason": "", "since": "2026-01-01T00:00:00Z"}
    await leader.patch(IP_NODE, "n1", {"spec": {"fence": mark}})
    retaken: list[int] = []
    written: list[int] = []

    async def write_in_between(call: Call) -> None:
        if call.verb == "patch" and len(written) < 2:
            written.append(1)
            recalls = [{"id": f"r{len(written)}", "pool": "v4", "count": 1}]
            await leader.patch(IP_NODE, "n1", {"spec": {"recalls": recalls}})

    async def retake() -> None:
        retaken.append(1)

    mailbox = Mailbox(
        MemoryStore(cluster, fault=write_in_between),
        MemoryJournal(),
        clock,
        Identity("n1", "u1", "boot-1"),
        Fence(60.0),
        NodeReport,
        retake,
    )
    await mailbox.beat()
    assert written and retaken == [1]
    assert mailbox.fence.is_open(clock.now())
    stored = await leader.get(IP_NODE, "n1")
    assert stored is not None and standing_mark(stored) == ""


async def test_a_pause_between_the_retaking_and_its_end_makes_the_leases_be_retaken_once_more() -> None:
    """Found by the model in 18 steps: the agent stood still before it made its mailbox; meanwhile the leader marked, waited, took the slots and
    removed the mailbox of the node that was gone; then the agent went on."""
    clock = ManualClock()
    cluster = MemoryCluster(clock)
    paused: list[Call] = []
    retaken: list[int] = []

    async def stand_still(call: Call) -> None:
        if call.verb == "create" and not paused:
            paused.append(call)
            await clock.advance(500.0)

    async def retake() -> None:
        retaken.append(1)

    journal = MemoryJournal()
    mailbox = Mailbox(
        MemoryStore(cluster, fault=stand_still),
        journal,
        clock,
        Identity("n1", "u1", "boot-1"),
        Fence(60.0),
        NodeReport,
        retake,
    )
    with pytest.raises(ApiUnreachable):
        await mailbox.beat()
    assert not mailbox.fence.is_open(clock.now())
    assert "mailboxUID" not in journal.load().meta, (
        "an agent that restarts here must find a mailbox that is not its own"
    )
    await mailbox.beat()
    assert retaken == [1, 1] and mailbox.fence.is_open(clock.now())
