"""A node dies and is said to be out of service: its addresses are used elsewhere after the leader's fence, and never before; then it returns."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec

from crds.blocks import block_from_wire
from crds.core import OUT_OF_SERVICE
from crds.meta import UNSET
from crds.nephila import IP_BLOCK, IP_NODE, IPBlock, IPNode
from e2e.cluster.client import MERGE_PATCH
from e2e.cluster.nodes import manifests
from e2e.cluster.nodes.chart import LEADER_PODS, ChartInstallation
from e2e.cluster.nodes.kube import Kube, Object, address_of
from e2e.cluster.nodes.labs import RealCluster
from e2e.cluster.nodes.soundness import fsck
from ipam.slots import Page
from tests.cluster.chart import FENCE_WAIT_S, MARKS, sound
from tests.cluster.objects import eventually, must
from tests.cluster.workloads import addresses, end, start

pytestmark = MARKS

RANGE, PAGE, SIZE = "10.6.3.1-10.6.3.6", Page.parse("10.6.3.0/26"), 6
NOT_READY_S = 40.0
# On top of the two waits: the leader's period, an ADD that waits in line, kubelet's next try.
SLACK_S = 40.0


@dataclass(slots=True)
class Timeline:
    """What became of the dead node's addresses, in Unix seconds. One machine, so every writer has the same clock."""

    node: str
    lost: set[str]  # the addresses that its pods had
    beat: float = 0.0  # the last heartbeat
    marked: float = 0.0
    taken: float = 0.0
    early: set[str] = field(default_factory=set)  # what a pod elsewhere had while the dead node's lease stood

    async def look(self, api: Kube) -> bool:
        """True once as many pods as before have addresses on other nodes. Pods are read first: what one has by then must be out of the dead
        node's lease in the block as read afterwards."""
        pods = await api.pods("tight")
        elsewhere = {address_of(pod) for pod in pods if pod["spec"].get("nodeName") != self.node} - {""}
        held = await leased_by(api, self.node) & self.lost
        self.early |= elsewhere & held
        if not held:
            self.taken = self.taken or time.time()
        box = msgspec.convert(await api.get(IP_NODE.path(name=self.node)), IPNode)
        if not self.marked and box.spec.fence is not UNSET:
            assert box.status is not UNSET and box.status.heartbeat is not UNSET
            self.beat, self.marked = box.status.heartbeat.renew_time.timestamp(), box.spec.fence.since.timestamp()
        return len(elsewhere) == len(pods) == SIZE


async def leased_by(api: Kube, node: str) -> set[str]:
    """Addresses of the tight pool's page that the block says are that node's; none if there is no block."""
    answer = await api.client.get(IP_BLOCK.path(name=PAGE.name))
    if answer.status == 404:
        return set()
    assert answer.status == 200, answer.message
    leases = block_from_wire(msgspec.convert(answer.body, IPBlock)).leases_named(node)
    return {str(slot.address) for lease in leases for slot in PAGE.slot_ids(lease.slots)}


async def say_out_of_service(api: Kube, node: str, *taints: Object) -> None:
    """The operator's word or, without taints, its withdrawal; the taints of controllers stay."""
    known = (await api.get(f"/api/v1/nodes/{node}"))["spec"].get("taints", [])
    wanted = [taint for taint in known if taint["key"] != OUT_OF_SERVICE] + list(taints)
    change = {"spec": {"taints": wanted}}
    await must(api.client.request("PATCH", f"/api/v1/nodes/{node}", change, content_type=MERGE_PATCH), 200)


@asynccontextmanager
async def out_of_service(cluster: RealCluster, node: str) -> AsyncIterator[None]:
    """Inside, the node's processes are gone and the operator has said so; afterwards it has booted and is Ready."""
    await cluster.nodes[node].stop()
    try:
        await eventually(cluster.api.ready_nodes, lambda ready: node not in ready, timeout_s=NOT_READY_S)
        taint = {"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}
        await say_out_of_service(cluster.api, node, taint)
        yield
    finally:
        await say_out_of_service(cluster.api, node)
        await cluster.nodes[node].start()
        await cluster.ready()


async def test_a_dead_nodes_addresses_are_used_elsewhere_after_the_fence_and_never_before(
    nephila: ChartInstallation, cluster: RealCluster, api: Kube, note: Callable[[str], None]
) -> None:
    await api.apply(manifests.pool("tight", RANGE))
    deployment = await start(api, "tight", SIZE, pools=("tight",))
    before = set((await addresses(api, "tight")).values())
    # Whether another leader takes over is not what is asked here.
    leading = {pod["spec"]["nodeName"] for pod in (await api.get(LEADER_PODS))["items"]}
    dead = min(set(cluster.nodes) - leading)
    seen = Timeline(dead, {address_of(pod) for pod in await api.pods("tight") if pod["spec"]["nodeName"] == dead})
    assert seen.lost and seen.lost <= await leased_by(api, dead)

    ended = time.time()
    async with out_of_service(cluster, dead):
        await eventually(lambda: seen.look(api), bool, timeout_s=2 * FENCE_WAIT_S + SLACK_S)
        await api.running("tight", SIZE)
        note(
            f"node dead: marked {seen.marked - ended:.1f} s after its end, its addresses free {seen.taken - ended:.1f} s, as many pods as before "
            f"Running with them {time.time() - ended:.1f} s (two waits of {FENCE_WAIT_S:.0f} s)"
        )
        assert seen.early == set()
        assert seen.marked - seen.beat >= FENCE_WAIT_S
        assert seen.taken - seen.marked >= FENCE_WAIT_S
        after = await addresses(api, "tight")
        assert set(after.values()) == before  # all six, so the dead node's too
        await eventually(lambda: fsck(cluster), lambda answer: answer[0] == 0, timeout_s=30.0)

    # It is back: it has answered the mark, keeps nothing of what was taken, and serves again.
    await nephila.rolled_out()
    more = await start(api, "back", 6)
    assert dead in {pod["spec"]["nodeName"] for pod in await api.pods("back")}
    assert await addresses(api, "tight") == after
    assert not seen.lost & await leased_by(api, dead)
    await sound(cluster, SIZE + 6)
    await end(api, more)
    await end(api, deployment)
    await sound(cluster, 0)
