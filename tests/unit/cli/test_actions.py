"""The commands that change something, and the guards before them."""

from __future__ import annotations

import asyncio

import pytest

from adapters.kube.memory import MemoryStore
from adapters.kube.store import Stored
from cli.actions import CONFIRMED, fence, release
from cli.failures import CliError, Exit
from crds.blocks import block_from_wire
from crds.nephila import IP_BLOCK, IP_NODE
from crds.spiderpool import ENDPOINT
from ipam.addresses import Address
from ipam.blocks import Block
from ipam.slots import SlotId
from leader.controllers import reclaim
from tests.unit.cli.world import Site


def slot(ip: str) -> SlotId:
    address = Address.parse(ip)
    return SlotId("", address.family, address.value)


def refusal(site: Site, ip: str) -> CliError:
    with pytest.raises(CliError) as caught:
        asyncio.run(release(site.store, site.cluster(), slot(ip)))
    return caught.value


def block(site: Site, name: str = "ip4-10-6-0-0") -> Block:
    entry = site.memory.read(IP_BLOCK, ("", name))
    assert entry is not None
    return block_from_wire(entry.object)  # type: ignore[arg-type]  # read by that kind


def test_a_living_node_is_not_fenced(site: Site) -> None:
    with pytest.raises(CliError) as caught:
        asyncio.run(fence(site.store, site.cluster(), "node-1"))
    assert caught.value.code is Exit.REFUSED
    assert "last heartbeat is 5s old" in str(caught.value)


def mark(site: Site, node: str, answered: str = "") -> None:
    """The leader's fence mark in the node's mailbox."""
    fence_mark = {"id": "3-abc", "term": 3, "since": "2026-07-25T11:50:00Z"}
    site.memory.patch(IP_NODE, ("", node), {"spec": {"fence": fence_mark}}, resource_version="", subresource="")
    site.memory.patch(
        IP_NODE, ("", node), {"status": {"clearedFence": answered}}, resource_version="", subresource="status"
    )


def test_the_leaders_mark_on_a_silent_node_is_confirmed(site: Site) -> None:
    site.node("off", heartbeat_age_s=600.0)
    mark(site, "off")
    text = asyncio.run(fence(site.store, site.cluster(), "off"))
    entry = site.memory.read(IP_NODE, ("", "off"))
    assert entry is not None
    assert entry.object.annotations == {CONFIRMED: "3-abc"}
    assert "counts where the leader's reclaim.unreachable is Confirm" in text
    assert "With Probe, the default, it takes them without this; with Never, not even now." in text
    assert "kubectl taint nodes off node.kubernetes.io/out-of-service" in text


def test_the_leader_reads_the_annotation_that_we_write() -> None:
    assert reclaim.CONFIRMED == CONFIRMED


@pytest.mark.parametrize("answered", ["", "3-abc"])
def test_nothing_is_confirmed_without_a_standing_mark(site: Site, answered: str) -> None:
    site.node("off", heartbeat_age_s=600.0)
    if answered:
        mark(site, "off", answered)
    with pytest.raises(CliError) as caught:
        asyncio.run(fence(site.store, site.cluster(), "off"))
    assert caught.value.code is Exit.REFUSED
    assert "no fence mark stands on node off (Silent)" in str(caught.value)


def test_a_node_that_beats_meanwhile_is_not_fenced(site: Site) -> None:
    site.node("off", heartbeat_age_s=600.0)
    mark(site, "off")
    seen = site.cluster()
    site.report("off", heartbeat_age_s=1.0)
    with pytest.raises(CliError, match="changed by somebody else"):
        asyncio.run(fence(site.store, seen, "off"))


def test_an_unknown_node_is_not_fenced(site: Site) -> None:
    with pytest.raises(CliError, match="does not exist"):
        asyncio.run(fence(site.store, site.cluster(), "node-9"))


def test_the_address_of_a_living_pod_is_not_released(site: Site) -> None:
    error = refusal(site, "10.6.0.10")
    assert error.code is Exit.REFUSED
    assert "pod default/web-1 (eth0) on node-1 has it" in str(error)


def test_a_slot_in_a_living_nodes_lease_is_left_to_its_agent(site: Site) -> None:
    before = block(site)
    assert "node-1 holds it ready" in str(refusal(site, "10.6.0.11"))
    assert block(site) == before


def test_nothing_to_release_is_said_with_the_reason(site: Site) -> None:
    assert "nobody has it" in str(refusal(site, "10.6.0.27"))
    site.block("ip4-10-6-9-0", "10.6.9.0/26", leases=[site.lease("removed", "9")])
    assert "node removed (NodeGone) has it leased" in str(refusal(site, "10.6.9.9"))


def test_an_address_taken_by_force_is_an_ordinary_free_one_on_the_operators_word(site: Site) -> None:
    before = block(site)
    (text,) = asyncio.run(release(site.store, site.cluster(), slot("10.6.0.26")))
    assert "suspect mark cleared" in text
    after = block(site)
    assert (before.suspect, after.suspect, after.epoch) == (1 << 26, 0, before.epoch + 1)
    assert (after.leases, after.pins, after.cooling) == (before.leases, before.pins, before.cooling)
    assert "nobody has it" in str(refusal(site, "10.6.0.26"))


def test_an_address_taken_by_force_that_a_node_probes_is_left_to_it(site: Site) -> None:
    site.block("ip4-10-6-9-0", "10.6.9.0/26", leases=[site.lease("node-1", "9")], suspect="9")
    assert "node-1 has it leased to probe it" in str(refusal(site, "10.6.9.9"))
    assert block(site, "ip4-10-6-9-0").suspect == 1 << 9


def test_an_address_taken_by_force_that_a_living_pod_may_have_stays_suspect(site: Site) -> None:
    pod = site.pod("db-0")
    owner = {"kind": "StatefulSet", "namespace": "default", "name": "db-0", "interface": "eth0"}
    holder = {"node": "node-1", "podUID": pod.uid}
    site.block("ip4-10-6-9-0", "10.6.9.0/26", pins=[{"slot": 3, "owner": owner, "holder": holder}], suspect="3")
    assert refusal(site, "10.6.9.3").code is Exit.REFUSED
    assert block(site, "ip4-10-6-9-0").suspect == 1 << 3


def test_the_pin_of_an_address_taken_by_force_outlives_the_mark(site: Site) -> None:
    owner = {"kind": "StatefulSet", "namespace": "default", "name": "db-0", "interface": "eth0"}
    holder = {"node": "node-1", "podUID": "of-a-gone-pod"}
    site.block("ip4-10-6-9-0", "10.6.9.0/26", pins=[{"slot": 3, "owner": owner, "holder": holder}], suspect="3")
    (text,) = asyncio.run(release(site.store, site.cluster(), slot("10.6.9.3")))
    assert "it stays pinned to StatefulSet default/db-0" in text
    after = block(site, "ip4-10-6-9-0")
    assert (after.suspect, len(after.pins)) == (0, 1)
    (text,) = asyncio.run(release(site.store, site.cluster(), slot("10.6.9.3")))
    assert "pin of StatefulSet default/db-0 dropped" in text


def test_the_endpoint_of_a_gone_pod_is_deleted(site: Site) -> None:
    gone = site.pod("gone", phase="Failed")
    site.endpoint(gone, ("10.6.0.28/24", "office"))
    assert asyncio.run(release(site.store, site.cluster(), slot("10.6.0.28"))) == [
        "SpiderEndpoint default/gone deleted: its pod is gone"
    ]
    assert site.memory.read(ENDPOINT, ("default", "gone")) is None


def test_an_endpoint_that_a_new_pod_wrote_meanwhile_stays(site: Site) -> None:
    gone = site.pod("gone", phase="Failed")
    site.endpoint(gone, ("10.6.0.28/24", "office"))
    seen = site.cluster()
    changed = asyncio.run(site.store.patch(ENDPOINT, "gone", {"metadata": {"labels": {"a": "b"}}}, namespace="default"))
    assert isinstance(changed, Stored)
    with pytest.raises(CliError, match="changed by somebody else"):
        asyncio.run(release(site.store, seen, slot("10.6.0.28")))
    assert site.memory.read(ENDPOINT, ("default", "gone")) is not None


def test_a_cooldown_is_ended_under_a_new_epoch(site: Site) -> None:
    before = block(site)
    asyncio.run(release(site.store, site.cluster(), slot("10.6.0.25")))
    after = block(site)
    assert (after.cooling, after.leases, after.epoch) == ((), before.leases, before.epoch + 1)


def test_the_pin_of_an_identity_that_does_not_run_is_dropped(site: Site) -> None:
    owner = {"kind": "StatefulSet", "namespace": "default", "name": "db-0", "interface": "eth0"}
    holder = {"node": "node-1", "podUID": "of-a-gone-pod"}
    site.block("ip4-10-6-9-0", "10.6.9.0/26", pins=[{"slot": 3, "owner": owner, "holder": holder}])
    (text,) = asyncio.run(release(site.store, site.cluster(), slot("10.6.9.3")))
    assert "pin of StatefulSet default/db-0 dropped" in text
    assert block(site, "ip4-10-6-9-0").pins == ()


def test_the_pin_of_a_running_identity_stays(site: Site) -> None:
    pod = site.pod("db-0")
    owner = {"kind": "StatefulSet", "namespace": "default", "name": "db-0", "interface": "eth0"}
    holder = {"node": "node-1", "podUID": pod.uid}
    site.block("ip4-10-6-9-0", "10.6.9.0/26", pins=[{"slot": 3, "owner": owner, "holder": holder}])
    assert refusal(site, "10.6.9.3").code is Exit.REFUSED


def test_a_block_changed_between_read_and_write_is_not_overwritten(site: Site) -> None:
    class Racing(MemoryStore):
        async def get(self, kind, name, namespace=""):  # type: ignore[no-untyped-def]
            found = await super().get(kind, name, namespace)
            changes = {"spec": {"epoch": 101, "suspect": "26-27"}}
            site.memory.patch(IP_BLOCK, ("", name), changes, resource_version="", subresource="")
            return found

    with pytest.raises(CliError, match="changed by somebody else"):
        asyncio.run(release(Racing(site.memory), site.cluster(), slot("10.6.0.25")))
    assert block(site).epoch == 101
