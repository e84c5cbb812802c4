"""Group C as far as it concerns addresses: somebody outside the cluster uses an address of a pool."""

from __future__ import annotations

import pytest

from adapters.frames import MemorySegment
from ipam.stock import State
from tests.compat.steps import Sandbox, held, pod
from tests.unit.nodeagent.harness import Lab, eventually
from tests.unit.nodeagent.test_verification import STRANGER, Host, WireSegment

OWNER = [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "u", "controller": True}]


@pytest.mark.case("C00007", "C00018")
async def test_an_address_that_a_stranger_uses_is_never_given_to_a_pod(lab: Lab) -> None:
    """Upstream gives it to the pod, detects the conflict in its namespace, and releases it; here the pod starts with another one."""
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.12", default=True)
    wire = MemorySegment()
    Host(wire, "10.6.0.10")
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        for name in ("p", "q"):
            await Sandbox(agent, await pod(lab, name)).add()
        assert held(agent) == {"10.6.0.11", "10.6.0.12"}


@pytest.mark.case("C00019")
async def test_a_stateful_pod_keeps_its_address_and_waits_while_a_stranger_uses_it(lab: Lab) -> None:
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.12", default=True)
    wire = MemorySegment()
    async with lab.agent("n1", segment=WireSegment(wire)) as agent:
        one = Sandbox(agent, await pod(lab, "web-0", ownerReferences=OWNER))
        (address,) = await one.add()
        await one.remove()
        await eventually(lambda: not agent.stock.of_pool("v4", State.LEAVING))
        stranger = Host(wire, address)
        again = Sandbox(agent, await pod(lab, "web-0", ownerReferences=OWNER))
        error = await again.refused()
        assert error["code"] == 11 and f"{STRANGER} on the wire answers for it" in error["msg"]
        assert [(seen.ip, seen.mac, seen.pool) for seen in agent.segments.conflicts()] == [(address, STRANGER, "v4")]
        assert agent.teller.counts["PinnedAddressInUse"] == 1
        stranger.leave()
        assert await again.add() == [address]
        assert agent.segments.conflicts() == ()
