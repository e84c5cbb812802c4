"""A KubeVirt machine keeps its address; a live migration lets two pods of one machine have it, and nobody else (I4, I6)."""

from __future__ import annotations

import asyncio

import pytest

from adapters.frames import MemorySegment
from adapters.kube.memory import Answered, Call, Fault, MemoryStore
from crds.blocks import block_from_wire
from crds.core import NODE, POD
from crds.nephila import IP_BLOCK
from crds.spiderpool import ENDPOINT, IP_POOL, SpiderEndpoint
from ipam.blocks import Block
from ipam.invariants import Allocation, Facts, violations
from ipam.slots import SlotId
from ipam.stock import State
from nodeagent.agent import Agent
from nodeagent.config import FeatureSettings
from nodeagent.verification import Verification
from tests.unit.nodeagent.harness import Lab, add, delete, eventually, failed, http
from tests.unit.nodeagent.machines import boot, launcher, machine, migrated, migration, pins, stop
from tests.unit.nodeagent.test_verification import Host, WireSegment


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    lab.sandboxes.alive |= {f"/run/netns/c{i}" for i in range(20)}
    await lab.namespace()
    for name in ("n1", "n2", "n3"):
        await lab.node(name)
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.19", gateway="10.6.0.1", default=True)
    return lab


async def endpoint(lab: Lab) -> SpiderEndpoint:
    found = await lab.store.get(ENDPOINT, "vm", "default")
    assert found is not None and found.status
    return found


async def told(lab: Lab) -> tuple[str, str]:
    """(node, pod UID) of the machine's SpiderEndpoint."""
    current = (await endpoint(lab)).status.current  # type: ignore[union-attr]
    return current.node, current.uid


async def blocks(lab: Lab) -> list[Block]:
    return [block_from_wire(stored) for stored in (await lab.store.list(IP_BLOCK)).items]


async def sound(lab: Lab, *agents: Agent) -> None:
    """The consistency predicate over the blocks and what these agents have given out."""
    given = [
        Allocation(grant.slot, agent.keeper.me, item.pod_uid, item.key.container_id)
        for agent in agents
        for item in agent.allocator.all()
        for grant in item.grants
    ]
    pods = {pod.uid for pod in (await lab.store.list(POD)).items}
    assert violations(Facts(blocks=await blocks(lab), allocations=given, live_pods=frozenset(pods))) == ()


async def gone(agent: Agent, container: str) -> None:
    await delete(agent, container)
    await eventually(lambda: not any(held.state is State.LEAVING for held in agent.stock))


async def test_an_ordinary_restart_moves_the_pin_to_a_pod_of_another_name(lab: Lab) -> None:
    vmi = await machine(lab)
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        pod = await launcher(lab, vmi, "n1")
        first = await add(one, "c1", pod)
        assert await told(lab) == ("n1", pod.uid)
        assert not (await endpoint(lab)).metadata.owner_references
        await gone(one, "c1")
        await stop(lab, pod)
        again = await launcher(lab, await boot(lab), "n2")
        assert await add(two, "c2", again) == first
        assert await told(lab) == ("n2", again.uid)


async def test_two_pods_of_a_machine_without_a_migration_do_not_share(lab: Lab) -> None:
    vmi = await machine(lab)
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        await add(one, "c1", await launcher(lab, vmi, "n1"))
        for note in ("", "no-such-migration", await migration(lab, await machine(lab, "other"), "others")):
            error = await failed(two, http("ADD", "c2", await launcher(lab, vmi, "n2", migration=note)))
            assert error["code"] == 11 and "still exists" in error["msg"]
        over = await migration(lab, vmi, "over")
        await migrated(lab, over, "Failed")
        assert (await failed(two, http("ADD", "c2", await launcher(lab, vmi, "n2", migration=over))))["code"] == 11


async def test_a_pod_of_a_former_instance_is_no_source_of_a_migration(lab: Lab) -> None:
    vmi = await machine(lab)
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        await add(one, "c1", await launcher(lab, vmi, "n1"))
        again = await boot(lab)
        target = await launcher(lab, again, "n2", migration=await migration(lab, again))
        assert "still exists" in (await failed(two, http("ADD", "c2", target)))["msg"]


async def test_a_migration_shares_the_address_and_ends_with_the_source(lab: Lab) -> None:
    vmi = await machine(lab)
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        source = await launcher(lab, vmi, "n1")
        first = await add(one, "c1", source)
        target = await launcher(lab, vmi, "n2", migration=await migration(lab, vmi))
        assert await add(two, "c2", target) == first
        pin = (await pins(lab))[first[0]]
        assert pin.holder is not None and (pin.holder.node, pin.holder.pod_uid) == ("n2", target.uid)
        assert pin.source is not None and (pin.source.node, pin.source.pod_uid) == ("n1", source.uid)
        await sound(lab, one, two)
        assert await add(two, "c2", target) == first and await add(one, "c1", source) == first  # repeats
        assert await told(lab) == ("n1", source.uid), "others are told of the source until it has left"
        await migrated(lab, "move", "Succeeded")
        await gone(one, "c1")
        await stop(lab, source)
        await eventually(lambda: not two.pins.migrating and two.outbox.depth == 0)
        assert await told(lab) == ("n2", target.uid)
        assert (await pins(lab))[first[0]].source is None
        await sound(lab, one, two)
        assert first[0] not in [str(held.slot.address) for held in one.stock]


async def test_a_failed_migration_leaves_the_machine_where_it_was(lab: Lab) -> None:
    vmi = await machine(lab)
    async with lab.agent("n1") as one, lab.agent("n2") as two, lab.agent("n3") as three:
        source = await launcher(lab, vmi, "n1")
        first = await add(one, "c1", source)
        target = await launcher(lab, vmi, "n2", migration=await migration(lab, vmi))
        await add(two, "c2", target)
        await migrated(lab, "move", "Failed")
        await gone(two, "c2")
        await stop(lab, target)
        pin = (await pins(lab))[first[0]]
        assert pin.holder is not None and pin.holder.pod_uid == source.uid and not pin.is_shared
        await sound(lab, one, two)
        assert await told(lab) == ("n1", source.uid)
        others = [await add(two, f"c{i}", await lab.pod(f"p{i}", "n2")) for i in range(10, 19)]
        assert first not in others
        again = await launcher(lab, vmi, "n3", migration=await migration(lab, vmi, "second"))
        assert await add(three, "c3", again) == first
        await gone(one, "c1")
        assert (await pins(lab))[first[0]].holder.pod_uid == again.uid  # type: ignore[union-attr]
        await sound(lab, one, two, three)


async def test_the_source_never_hands_out_the_address_after_its_del_even_if_it_was_restarted(lab: Lab) -> None:
    vmi = await machine(lab)
    async with lab.agent("n2") as two:
        async with lab.agent("n1") as one:
            first = await add(one, "c1", await launcher(lab, vmi, "n1"))
            await one.keeper.give_back([held.slot for held in one.stock])  # the page is the machine's alone
            target = await launcher(lab, vmi, "n2", migration=await migration(lab, vmi))
            await add(two, "c2", target)
        async with lab.agent("n1") as one:
            assert [str(grant.slot.address) for item in one.allocator.all() for grant in item.grants] == first
            await gone(one, "c1")
            assert (await pins(lab))[first[0]].source is None
            got = [await add(one, f"c{i}", await lab.pod(f"p{i}", "n1")) for i in range(10, 15)]
            assert first not in got
            await sound(lab, one, two)


async def test_the_del_of_the_source_during_an_outage_is_made_up_for_after_a_restart(lab: Lab) -> None:
    down = False

    async def fault(_call: Call) -> Fault | None:
        return Answered(503) if down else None

    vmi = await machine(lab)
    async with lab.agent("n2") as two:
        async with lab.agent("n1", store=MemoryStore(lab.cluster, fault=fault)) as one:
            first = await add(one, "c1", await launcher(lab, vmi, "n1"))
            target = await launcher(lab, vmi, "n2", migration=await migration(lab, vmi))
            assert await add(two, "c2", target) == first
            down = True
            await delete(one, "c1")
        assert two.keeper.shared()
        async with lab.agent("n1"):
            await eventually(lambda: not two.keeper.shared())


async def test_an_end_of_the_migration_that_a_restarted_target_did_not_see_is_told(lab: Lab) -> None:
    vmi = await machine(lab)
    async with lab.agent("n1") as one:
        await add(one, "c1", await launcher(lab, vmi, "n1"))
        target = await launcher(lab, vmi, "n2", migration=await migration(lab, vmi))
        async with lab.agent("n2") as two:
            await add(two, "c2", target)
        await gone(one, "c1")
        async with lab.agent("n2") as two:
            await eventually(lambda: two.outbox.depth == 0)
            assert await told(lab) == ("n2", target.uid)


async def test_a_target_that_crashed_before_its_grant_gives_the_pin_back(lab: Lab) -> None:
    vmi = await machine(lab)
    async with lab.agent("n1") as one:
        source = await launcher(lab, vmi, "n1")
        first = await add(one, "c1", source)
        target = await launcher(lab, vmi, "n2", migration=await migration(lab, vmi))
        async with lab.agent("n2") as two:

            def crash(*_: object) -> None:
                raise KeyboardInterrupt

            two.allocator.grant = crash  # type: ignore[method-assign,assignment]
            with pytest.raises(KeyboardInterrupt):
                await two.serve(http("ADD", "c2", target))
        async with lab.agent("n2") as two:
            assert await add(two, "c3", target) == first
            await delete(two, "c3")
            await eventually(lambda: not any(held.state is State.LEAVING for held in two.stock))
        pin = (await pins(lab))[first[0]]
        assert pin.holder is not None and pin.holder.pod_uid == source.uid and not pin.is_shared
        await sound(lab, one)


async def test_a_third_pod_waits_for_the_source_of_the_last_migration(lab: Lab) -> None:
    vmi = await machine(lab)
    async with lab.agent("n1") as one, lab.agent("n2") as two, lab.agent("n3") as three:
        first = await add(one, "c1", await launcher(lab, vmi, "n1"))
        await add(two, "c2", await launcher(lab, vmi, "n2", migration=await migration(lab, vmi)))
        third = await launcher(lab, vmi, "n3", migration=await migration(lab, vmi, "second"))
        error = await failed(three, http("ADD", "c3", third))
        assert error["code"] == 11 and "has not left it since the last migration" in error["msg"]
        waiting = asyncio.create_task(add(three, "c3", third))
        await asyncio.sleep(0.1)
        await delete(one, "c1")
        assert await waiting == first
        await sound(lab, one, two, three)


async def test_a_migration_cannot_change_the_address(lab: Lab) -> None:
    vmi = await machine(lab)
    async with lab.agent("n1") as one, lab.agent("n2") as two:
        first = await add(one, "c1", await launcher(lab, vmi, "n1"))
        await lab.pool("other", "10.7.0.0/24", "10.7.0.10-10.7.0.19", default=True)
        await lab.store.patch(IP_POOL, "v4", {"spec": {"default": False}})
        await eventually(lambda: two.world.pools.catalog.get("other") is not None)
        target = await launcher(lab, vmi, "n2", migration=await migration(lab, vmi))
        assert await add(two, "c2", target) == first, "its pools changed, but the address goes along"
        await gone(two, "c2")
        await lab.store.patch(IP_POOL, "v4", {"spec": {"ips": []}})
        await eventually(lambda: two.world.pools.effective["v4"].size == 0)
        error = await failed(two, http("ADD", "c3", target))
        assert error["code"] == 11 and "a live migration cannot change it" in error["msg"]


async def test_a_dead_source_node_gives_way_to_the_restarted_machine_on_evidence(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodeagent.evidence.WATCH_S", 0.5)
    vmi = await machine(lab)
    async with lab.agent("n1") as one:
        source = await launcher(lab, vmi, "n1")
        first = await add(one, "c1", source)
    async with lab.agent("n2") as two:
        await stop(lab, source)
        again = await launcher(lab, await boot(lab), "n2")
        assert "is not known to be gone" in (await failed(two, http("ADD", "c2", again)))["msg"]
        out = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
        await lab.store.patch(NODE, "n1", {"spec": {"taints": [out]}})
        assert await add(two, "c3", again) == first


async def test_with_the_feature_off_a_machine_is_a_pod_like_any_other(lab: Lab) -> None:
    vmi = await machine(lab)
    async with lab.agent("n1", features=FeatureSettings(enable_kubevirt_static_ip=False)) as agent:
        pod = await launcher(lab, vmi, "n1")
        await add(agent, "c1", pod)
        await eventually(lambda: agent.outbox.depth == 0)
        assert await pins(lab) == {} and await lab.store.get(ENDPOINT, pod.name, "default") is not None


# On the segment --------------------------------------------------------------------------------------------------------------------------


def verification(agent: Agent) -> Verification:
    (watch,) = agent.segments
    assert watch.verification is not None
    return watch.verification


def knows_mac(agent: Agent, slot: SlotId) -> bool:
    live = verification(agent)._live.get(slot)
    return live is not None and live.mac != ""


def conflicts(agent: Agent) -> list[str]:
    return [seen.ip for seen in agent.segments.conflicts()]


async def test_the_two_ends_of_a_migration_are_no_conflict_and_the_target_is_silent_until_it_is_over(lab: Lab) -> None:
    wire = MemorySegment()
    vmi = await machine(lab)
    left, right = (WireSegment(wire, f"02:00:00:00:00:0{n}", f"02:00:00:00:0a:0{n}") for n in (1, 2))
    async with lab.agent("n1", segment=left) as one, lab.agent("n2", segment=right) as two:
        (address,) = await add(one, "c1", await launcher(lab, vmi, "n1"))
        slot = one.allocator.all()[0].grants[0].slot
        await eventually(lambda: knows_mac(one, slot))
        announced: list[str] = []
        for name, agent in (("n1", one), ("n2", two)):
            count_announcements(agent, name, announced)
        target = await launcher(lab, vmi, "n2", migration=await migration(lab, vmi))
        assert await add(two, "c2", target) == [address]
        await eventually(lambda: knows_mac(two, slot))
        host = Host(wire, address)
        host.leave()  # it answers nobody
        host.claim()  # the machine resumes at the other end: its frames carry another MAC
        await asyncio.sleep(0.3)
        assert conflicts(one) == conflicts(two) == [] and announced == []
        await delete(one, "c1")
        await eventually(lambda: announced == ["n2"])
        await asyncio.sleep(1.1)
        host.claim()  # now it is a stranger
        await eventually(lambda: conflicts(two) == [address])


def count_announcements(agent: Agent, name: str, into: list[str]) -> None:
    prober = verification(agent)._prober
    real = prober.announce

    def announce(address: object, mac: str) -> None:
        into.append(name)
        real(address, mac)  # type: ignore[arg-type]

    prober.announce = announce  # type: ignore[method-assign]
