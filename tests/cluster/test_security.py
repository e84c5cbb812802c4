"""What a node's token cannot do, and that it can do all the protocol needs: real tokens, roles and policies on the real API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from adapters.clock import SystemClock
from adapters.entropy import SeededEntropy
from adapters.journal.memory import MemoryDisk
from adapters.kube.kubestore import KubeStore
from adapters.kube.store import Stored
from adapters.kube.transport import Explicit, connect
from adapters.sandboxes import ListedSandboxes
from crds.blocks import block_changes, block_from_wire
from crds.core import POD, Pod
from crds.generate import ROOT
from crds.meta import Kind
from crds.nephila import IP_BLOCK, IP_NODE, LEADER_LOCK, IPBlock
from crds.spiderpool import ENDPOINT
from e2e.cluster.attempts import By, Who, allowed_attempts, block_attempts, other_attempts
from e2e.cluster.client import MERGE_PATCH
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.refusals import PAGE, Court, Outcome, table, written
from e2e.cluster.security import install
from e2e.cluster.standing import BLOCKS, NODES, block
from ipam import lease
from ipam.addresses import Family
from ipam.blocks import Block, Holder, Lease, NodeRef, PinOwner
from ipam.ranges import RangeSet
from ipam.slots import Page
from ipam.stock import State, Stock, Trust
from leader.config import ElectionSettings, LeaderConfig
from leader.leader import Leader
from leader.leader import Ports as LeaderPorts
from nodeagent.agent import Agent
from nodeagent.blockkeeper import BlockKeeper
from nodeagent.config import AgentConfig, LeaseSettings
from nodeagent.lastresort import LastResort
from nodeagent.ports import Ports
from tests.cluster.objects import eventually, must
from tests.unit.nodeagent.harness import http

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
POOL = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def court(cluster: ControlPlane) -> Court:
    opened = Court(cluster)
    await opened.open()
    return opened


def wrong(outcomes: list[Outcome]) -> list[str]:
    return [f"{outcome.attempt.title}: {outcome.wrong}" for outcome in outcomes if outcome.wrong]


# Refusals and permissions, one request each ----------------------------------------------------------------------------------------------


async def test_each_forbidden_call_is_refused_and_the_page_shows_it(court: Court) -> None:
    outcomes = await court.hear([*block_attempts(), *other_attempts()])
    assert wrong(outcomes) == []
    assert written((ROOT / PAGE).read_text(), table(outcomes)) == (ROOT / PAGE).read_text(), (
        "python -m e2e.cluster.refusals --write"
    )


async def test_each_step_of_the_protocol_is_allowed(court: Court) -> None:
    assert wrong(await court.hear(allowed_attempts())) == []


async def test_policies_know_every_field_they_name(court: Court) -> None:
    """The API server checks the types of policies against the CRDs, and tells in their status."""
    admin = court.cluster.client()

    def checked(answer: Any) -> bool:
        return all(item.get("status", {}).get("observedGeneration") for item in answer.body["items"])

    answer = await eventually(lambda: admin.get(POLICIES), checked)
    told = {item["metadata"]["name"]: item["status"].get("typeChecking", {}) for item in answer.body["items"]}
    assert told == {name: {} for name in told}
    assert len(told) == 4


async def test_a_full_block_stays_within_the_cost_limit(court: Court) -> None:
    """64 leases, 64 pins, 63 cooling slots, all of them suspect: the dearest block there can be."""
    admin, agent = court.cluster.client(), court.client(Who.AGENT_A)
    full = block()
    full["metadata"] = {"name": "ip4-10-9-3-0"}
    owner = {"kind": "StatefulSet", "namespace": "default", "name": "web", "interface": "eth0"}
    nodes = ["node-a", *(f"node-{i}" for i in range(1, 64))]
    full["spec"] |= {
        "page": "10.9.3.0/26",
        "leases": [{"node": name, "nodeUID": "u", "slots": str(i), "epoch": 9} for i, name in enumerate(nodes)],
        "pins": [{"slot": i, "owner": owner, "holder": {"node": nodes[i], "podUID": f"p{i}"}} for i in range(64)],
        "suspect": "0-63",
        "cooling": [{"slots": str(i), "until": "2026-01-01T00:00:00Z"} for i in range(63)],
    }
    await must(admin.post(BLOCKS, full))
    spec = deepcopy(full["spec"])
    spec["epoch"] = 101
    spec["leases"][0] |= {"slots": "0,40-41", "epoch": 101}
    spec["pins"][40]["holder"] = spec["pins"][41]["holder"] = {"node": "node-a", "podUID": "new"}
    spec["leases"] = [entry for i, entry in enumerate(spec["leases"]) if i not in (40, 41)]
    spec["cooling"] = [{"slots": "0", "until": "2026-01-01T00:00:00Z"}] * 64
    spec["suspect"] = "1-63"
    path = f"{BLOCKS}/ip4-10-9-3-0?dryRun=All"
    answer = await agent.request("PATCH", path, {"spec": spec}, content_type=MERGE_PATCH)
    assert answer.status == 200, answer.message


# Beyond RBAC ------------------------------------------------------------------------------------------------------------------------------


async def test_policies_refuse_even_what_a_too_generous_role_allows(court: Court) -> None:
    outcomes = await court.hear_without_rbac(other_attempts())
    assert wrong(outcomes) == []
    assert len(outcomes) == len([attempt for attempt in other_attempts() if attempt.by is By.BOTH]) == 5


async def test_the_stricter_policy_lets_only_vacant_pins_move(court: Court) -> None:
    admin = court.cluster.client()
    await install(admin, policies=("ipblocks-vacant",))
    titles = {
        "take over a pin whose pod was replaced by one here",
        "end node-b's pin, as if its pod were replaced",
        "share the address of a machine that migrates here",
    }
    steps = allowed_attempts()
    strict = [attempt for attempt in steps if attempt.title in titles]
    assert {attempt.title for attempt in strict} == titles
    refused = await court.hear([replace(attempt, by=By.POLICY, says="") for attempt in strict])
    assert wrong(refused) == []
    assert (
        wrong(await court.hear([*block_attempts(), *(attempt for attempt in steps if attempt.title not in titles)]))
        == []
    )
    await install(admin)
    assert wrong(await court.hear(strict)) == []  # until the usual policy is in force again


# The product's own code -------------------------------------------------------------------------------------------------------------------


class Refusals(list[str]):
    """Requests answered with 403, by the product's own store."""

    def note(self, method: str, kind: Kind[Any], status: int, _seconds: float) -> None:
        if status == 403:
            self.append(f"{method} {kind.plural}")


@asynccontextmanager
async def store_of(court: Court, token: str, refusals: Refusals) -> AsyncIterator[KubeStore]:
    source = Explicit(court.cluster.url, token, str(court.cluster.ca_file))
    transport = await connect(source, component="test", version="0")
    try:
        yield KubeStore(transport, SystemClock(), SeededEntropy(1), on_request=refusals.note)
    finally:
        await transport.close()


def keeper_of(store: KubeStore, node: str) -> BlockKeeper:
    stock = Stock(Trust.unlimited())
    clock = SystemClock()
    return BlockKeeper(
        store,
        MemoryDisk().open(),
        clock,
        SeededEntropy(3),
        stock,
        NodeRef(node, f"uid-{node}"),
        lambda _: "v4",
        LastResort(lambda _: True),
    )


async def test_the_block_keepers_of_two_nodes_do_all_they_must(court: Court) -> None:
    """Claim, give back, retake, pin, vacate, move (vacant, and displaced), clear suspects, end a pin, delete: no refusal."""
    refusals = Refusals()
    tokens = {"node-a": court.tokens[Who.AGENT_A], "node-b": court.tokens[Who.AGENT_B]}
    async with AsyncExitStack() as stack:
        stores = {
            node: await stack.enter_async_context(store_of(court, text, refusals)) for node, text in tokens.items()
        }
        a, b = (keeper_of(stores[node], node) for node in tokens)
        page = Page.parse("10.8.0.0/26")
        addresses = RangeSet(Family.V4, ((page.base, page.base + 63),))

        async def now() -> Block:
            return await a.look(page)

        assert await a.claim("v4", "", addresses, 8) == 8
        assert await b.claim("v4", "", addresses, 8) == 8
        mine = sorted(a._stock, key=lambda held: held.slot)
        first, second = mine[0].slot, mine[1].slot
        owner = PinOwner("StatefulSet", "default", "web-0", "eth0")
        number = first.value - page.base

        def holder(node: str, pod: str) -> Holder:
            return Holder(node, pod)

        # Pin, vacate, move while node-a leases the slot, take back from a pod that is gone.
        assert await a.change(page, lambda block: lease.pin(block, a.me, number, owner, holder("node-a", "p1")))
        assert await a.change(page, lambda block: lease.vacate_pin(block, a.me, number, "p1"))
        assert await b.change(page, lambda block: lease.move_pin(block, owner, b.me, holder("node-b", "p2")))
        gone = holder("node-b", "p2")
        assert await a.change(page, lambda block: lease.move_pin(block, owner, a.me, holder("node-a", "p3"), [gone]))
        assert (pinned := (await now()).pin_of(owner)) is not None
        assert pinned.holder == holder("node-a", "p3")

        await b.retake_all([b.me])
        # The leader takes a slot of node-b by force; node-b claims it again and clears the suspicion.
        taken = next(held.slot for held in b._stock if held.state is not State.PINNED)
        await _as_leader(court, page, lambda block: lease.reclaim(block, _lease(block, b.me), taken.bit, 5))
        await b.reload()
        assert (await now()).suspect == taken.bit
        assert await b.change(page, lambda block: lease.claim(block, b.me, taken.bit))
        assert await b.change(page, lambda block: lease.clear_suspect(block, b.me, taken.bit))

        assert await a.give_back([second]) == 1
        former = holder("node-a", "p3")
        assert await a.change(page, lambda block: lease.vacate_pin(block, a.me, number, former.pod_uid))
        assert await a.change(page, lambda block: lease.unpin(block, number, owner, block.term))
        other = Page.parse("10.8.0.64/26")
        assert await b.claim("v4", "", RangeSet(Family.V4, ((other.base, other.base + 63),)), 2) == 2
        assert await b.give_back([held.slot for held in b._stock if held.slot.page == other]) == 2
        assert await stores["node-b"].get(IP_BLOCK, other.name) is None
        assert refusals == []


def _lease(block: Block, node: NodeRef) -> Lease:
    found = block.lease_of(node)
    assert found is not None
    return found


async def _as_leader(court: Court, page: Page, decide: Callable[[Block], Block]) -> None:
    refusals = Refusals()
    async with store_of(court, court.tokens[Who.LEADER], refusals) as store:
        stored = await store.get(IP_BLOCK, page.name)
        assert stored is not None
        await _write_block(store, stored, decide(block_from_wire(stored)))
    assert refusals == []


async def _write_block(store: KubeStore, stored: IPBlock, wanted: Block) -> None:
    outcome = await store.patch(IP_BLOCK, stored.name, block_changes(wanted), resource_version=stored.resource_version)
    assert isinstance(outcome, Stored), outcome


FAST = LeaseSettings(
    heartbeat_s=0.5, lease_s=60.0, cooldown_s=0.3, cooldown_floor_s=0.1, wait_s=5.0, leak_confirm_s=0.2
)


class Nodes:
    """Whole agents on both nodes, each with its own token."""

    def __init__(self, court: Court, refusals: Refusals) -> None:
        self._court = court
        self._refusals = refusals
        self.sandboxes = ListedSandboxes()

    @asynccontextmanager
    async def agent(self, node: str, who: Who) -> AsyncIterator[Agent]:
        async with store_of(self._court, self._court.tokens[who], self._refusals) as store:
            journal = MemoryDisk().open()
            ports = Ports(store, journal, SystemClock(), SeededEntropy(7), self.sandboxes, "boot-1", "test")
            agent = Agent(AgentConfig(node=node, lease=FAST), ports)
            task = asyncio.create_task(agent.run())
            try:
                await eventually(_asked(agent.why_closed), lambda why: not why)
                yield agent
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                journal.close()


def _asked(question: Callable[[], str]) -> Callable[[], Awaitable[str]]:
    async def ask() -> str:
        return question()

    return ask


async def new_pod(court: Court, name: str, node: str, *, stateful: bool) -> Pod:
    admin = court.cluster.client()
    path = "/api/v1/namespaces/default/pods"
    await admin.request("DELETE", f"{path}/{name}?gracePeriodSeconds=0")
    owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "set-1", "controller": True}
    metadata: dict[str, Any] = {"name": name} | ({"ownerReferences": [owner]} if stateful else {})
    spec = {"nodeName": node, "containers": [{"name": "main", "image": "k8s.local/pause:1"}]}
    await must(admin.post(path, {"metadata": metadata, "spec": spec}))
    refusals = Refusals()
    async with store_of(court, court.cluster.admin_token, refusals) as store:
        found = await store.get(POD, name, "default")
    assert found is not None
    return found


async def call(agent: Agent, verb: str, container: str, pod: Pod) -> list[str]:
    reply = await agent.serve(http(verb, container, pod))
    assert reply.status == 200, reply.body
    return [ip["address"] for ip in json.loads(reply.body)["ips"]] if verb == "ADD" else []


async def test_whole_agents_and_the_leader_live_within_their_rights(court: Court) -> None:
    """Pods come, go and move between nodes, a mark is answered, mailboxes are made: nothing is answered with 403."""
    cluster, refusals = court.cluster, Refusals()
    admin = cluster.client()
    cluster.controller_manager.pause()  # its garbage collector would delete pods of a StatefulSet that does not exist
    pool = {"subnet": "10.7.0.0/24", "ips": ["10.7.0.10-10.7.0.19"], "default": True}
    body = {
        "apiVersion": "spiderpool.spidernet.io/v2beta1",
        "kind": "SpiderIPPool",
        "metadata": {"name": "v4"},
        "spec": pool,
    }
    await must(admin.post(POOL, body))
    for node in ("node-a", "node-b"):
        await admin.request("DELETE", f"{NODES}/{node}")
    nodes = Nodes(court, refusals)
    try:
        async with (
            nodes.agent("node-a", Who.AGENT_A) as a,
            nodes.agent("node-b", Who.AGENT_B) as b,
            store_of(court, court.tokens[Who.LEADER], refusals) as leading,
        ):
            leader = Leader(
                LeaderConfig(node="node-a", election=ElectionSettings()),
                LeaderPorts(leading, SystemClock(), SeededEntropy(9), _Silent()),
            )
            ruling = asyncio.create_task(leader.run())
            plain = await new_pod(court, "plain", "node-a", stateful=False)
            await eventually(lambda: a._ports.store.get(IP_NODE, "node-a"), lambda found: found is not None)
            assert len(await call(a, "ADD", "c1", plain)) == 1
            await eventually(lambda: leading.get(ENDPOINT, "plain", "default"), lambda found: found is not None)

            web = await new_pod(court, "web-0", "node-a", stateful=True)
            address = await call(a, "ADD", "c2", web)
            await call(a, "DEL", "c2", web)
            web = await new_pod(court, "web-0", "node-b", stateful=True)
            assert await call(b, "ADD", "c3", web) == address

            mark = {"spec": {"fence": {"id": "mark-9", "term": 9, "since": "2026-01-01T00:00:00Z"}}}
            await must(admin.request("PATCH", f"{NODES}/node-a", mark, content_type=MERGE_PATCH), 200)
            await eventually(
                lambda: admin.get(f"{NODES}/node-a"),
                lambda answer: answer.body.get("status", {}).get("clearedFence") == "mark-9",
            )
            await call(a, "DEL", "c1", plain)
            await admin.request("DELETE", "/api/v1/namespaces/default/pods/plain?gracePeriodSeconds=0")
            await eventually(lambda: leading.get(ENDPOINT, "plain", "default"), lambda found: found is None)
            await eventually(
                lambda: leading.get(LEADER_LOCK, "nephila"),
                lambda lock: lock is not None and lock.spec.holder.startswith("node-a"),
                timeout_s=60.0,
            )
            await eventually(
                lambda: admin.get(f"{POOL}/v4"), lambda answer: "allocatedIPCount" in answer.body.get("status", {})
            )
            ruling.cancel()
            await asyncio.gather(ruling, return_exceptions=True)
    finally:
        cluster.controller_manager.resume()
    assert refusals == []


class _Silent:
    def announce(self, *_: object) -> None: ...
