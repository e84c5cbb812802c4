"""Adopting a running Spiderpool cluster: no pod changes its address, nothing in use is given out again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from cli.cluster import Cluster
from cli.failures import CliError
from cli.fsck import check
from cli.migrate.command import plan_text, write
from cli.migrate.planning import Planned, merged, plan
from crds.blocks import block_from_wire
from crds.core import POD, STATEFUL_SET, StatefulSet
from crds.nephila import IP_BLOCK
from crds.spiderpool import ENDPOINT, IP_POOL
from ipam.blocks import Block, NodeRef
from ipam.lease import choose_free, choose_last_resort, claim, new_block
from ipam.slots import ALL_SLOTS, Page
from tests.unit.cli.world import WALL, Site


@pytest.fixture
def spider() -> Site:
    """A Spiderpool cluster: two nodes, a pool, a Deployment's pod and a StatefulSet's."""
    site = Site()
    site.namespace("default")
    site.node("node-1", heartbeat_age_s=None)
    site.node("node-2", heartbeat_age_s=None)
    site.pool("office", "10.6.0.0/24", "10.6.0.10-10.6.0.200")
    web = site.served("web-1", "10.6.0.10/24", "office")
    owners = site.stateful_set("db", 2)
    db = site.pod("db-0", "10.6.0.100", node="node-2", owners=owners)
    site.endpoint(db, ("10.6.0.100/24", "office"), node="node-2")
    records(site, "office", {"10.6.0.10": web, "10.6.0.100": db})
    return site


def records(site: Site, pool: str, pods: Mapping[str, object]) -> None:
    """`status.allocatedIPs`, as Spiderpool writes it."""
    text = json.dumps({ip: {"pod": f"{pod.namespace}/{pod.name}", "podUid": pod.uid} for ip, pod in pods.items()})  # type: ignore[attr-defined]
    site.memory.patch(
        IP_POOL, ("", pool), {"status": {"allocatedIPs": text}}, resource_version="", subresource="status"
    )


def planned(site: Site, cluster: Cluster | None = None) -> Planned:
    listing = asyncio.run(site.store.list(STATEFUL_SET))
    sets: tuple[StatefulSet, ...] = listing.items
    return plan(cluster or site.cluster(), sets)


def applied(site: Site) -> Planned:
    made = planned(site)
    seeds = iter(range(1000, 2000))
    asyncio.run(write(site.store, made, lambda: next(seeds)))
    return made


def block(site: Site, name: str) -> Block:
    entry = site.memory.read(IP_BLOCK, ("", name))
    assert entry is not None
    return block_from_wire(entry.object)  # type: ignore[arg-type]  # read by that kind


def test_every_address_in_use_becomes_a_pin_held_by_its_pod(spider: Site) -> None:
    made = applied(spider)
    assert made.plan.refused == ()
    assert made.plan.blocks == ("ip4-10-6-0-0", "ip4-10-6-0-64")
    (web,) = block(spider, "ip4-10-6-0-0").pins
    (db,) = block(spider, "ip4-10-6-0-64").pins
    pods = {pod.name: pod.uid for pod in spider.cluster().pods}
    assert (web.slot, web.owner.kind, web.owner.name, web.owner.interface) == (10, "Pod", "web-1", "eth0")
    assert (db.slot, db.owner.kind, db.owner.name) == (36, "StatefulSet", "db-0")
    assert web.holder is not None
    assert db.holder is not None
    assert (web.holder.node, web.holder.pod_uid) == ("node-1", pods["web-1"])
    assert (db.holder.node, db.holder.pod_uid) == ("node-2", pods["db-0"])


def test_nobody_can_lease_what_was_adopted(spider: Site) -> None:
    applied(spider)
    found = block(spider, "ip4-10-6-0-0")
    everything = choose_free(found, ALL_SLOTS, 64, 0, WALL) | choose_last_resort(found, ALL_SLOTS, 64, WALL, ALL_SLOTS)
    assert not everything >> 10 & 1
    node = spider.cluster().node_of_name["node-1"]
    assert claim(found, NodeRef("node-1", node.uid), everything).pins == found.pins


def test_planning_and_writing_again_changes_nothing(spider: Site) -> None:
    applied(spider)
    before = block(spider, "ip4-10-6-0-0")
    again = applied(spider)
    assert (again.plan.adopted, again.plan.present) == ((), 2)
    assert block(spider, "ip4-10-6-0-0") == before


def test_an_adopted_cluster_is_consistent_and_an_unadopted_one_is_not(spider: Site) -> None:
    assert {item.invariant for item in check(spider.cluster())} == {"I2"}
    applied(spider)
    assert check(spider.cluster()) == ()


def test_the_pin_of_a_plain_pod_ends_when_the_pod_is_gone(spider: Site) -> None:
    applied(spider)
    for name in ("web-1", "db-0"):
        spider.memory.delete(POD, ("default", name), uid="", resource_version="")
        spider.memory.delete(ENDPOINT, ("default", name), uid="", resource_version="")
    again = applied(spider)
    assert again.plan.ended == ("10.6.0.10 (pod default/web-1 is gone)",)
    assert block(spider, "ip4-10-6-0-0").pins == ()
    assert [pin.owner.name for pin in block(spider, "ip4-10-6-0-64").pins] == ["db-0"]


def test_what_a_node_leased_meanwhile_is_not_overwritten(spider: Site) -> None:
    made = planned(spider)
    spider.block("ip4-10-6-0-0", "10.6.0.0/26", leases=[spider.lease("node-2", "10")])
    with pytest.raises(CliError, match="was leased meanwhile"):
        asyncio.run(write(spider.store, made, lambda: 1))
    refused = planned(spider).plan.refused
    assert [item.reason for item in refused] == ["Nephila has leased it to node node-2 already"]


def test_addresses_of_gone_pods_become_free_but_identities_keep_theirs(spider: Site) -> None:
    ghost = spider.pod("ghost", phase="Succeeded")
    absent = spider.make(STATEFUL_SET, metadata={"name": "x", "namespace": "other"}, spec={})
    spider.memory.patch(IP_POOL, ("", "office"), {"status": {}}, resource_version="", subresource="status")
    text = json.dumps(
        {
            "10.6.0.50": {"pod": "default/ghost", "podUid": ghost.uid},
            "10.6.0.51": {"pod": "default/db-1", "podUid": "before-its-restart"},
            "10.6.0.52": {"pod": "default/db-7", "podUid": "scaled-away"},
        }
    )
    spider.memory.patch(
        IP_POOL, ("", "office"), {"status": {"allocatedIPs": text}}, resource_version="", subresource="status"
    )
    made = planned(spider).plan
    assert absent.name == "x"
    assert made.dropped == ("10.6.0.50 (pod default/ghost is gone)", "10.6.0.52 (pod default/db-7 is gone)")
    kept = next(item for item in made.adopted if item.address == "10.6.0.51")
    assert (kept.running, kept.identity) == (False, "StatefulSet default/db-1")


def test_an_unknown_node_a_double_and_a_disagreement_are_refused(spider: Site) -> None:
    spider.served("lost", "10.6.0.20/24", "office", node="node-9")
    for name in ("one", "two"):
        spider.served(name, "10.6.0.21/24", "office")
    other = spider.pod("other", "10.6.0.99")
    spider.endpoint(other, ("10.6.0.22/24", "office"))
    found = {item.address: item for item in planned(spider).plan.refused}
    assert found["10.6.0.20"].reason == "its node node-9 is not known to the API"
    assert found["10.6.0.21"].reason == "two living pods are recorded with it"
    assert found["10.6.0.21"].pod == "default/one and default/two"
    assert found["10.6.0.22"].reason == "the pod runs with 10.6.0.99 instead"
    assert all(item.blocking and item.fix for item in found.values())


def test_an_address_outside_every_pool_is_left_alone(spider: Site) -> None:
    spider.served("far", "10.6.0.250/24", "office")
    (item,) = planned(spider).plan.refused
    assert (item.address, item.blocking) == ("10.6.0.250", False)
    assert "no pool's spec.ips holds it" in item.reason


def test_a_second_interface_needs_its_endpoint(spider: Site) -> None:
    pod = spider.pod("multi", "10.9.9.9")
    records(spider, "office", {"10.6.0.30": pod})
    (item,) = planned(spider).plan.refused
    assert "no SpiderEndpoint says which interface" in item.reason
    spider.endpoint(pod, ("10.6.0.30/24", "office"), interface="net1")
    made = planned(spider).plan
    assert made.refused == ()
    assert next(item for item in made.adopted if item.address == "10.6.0.30").interface == "net1"


@pytest.mark.parametrize("text", ["[]", "{", '{"ten": {"pod": "a/b"}}', '{"10.6.0.10": {"pod": "nobody"}}'])
def test_a_broken_record_stops_the_migration(spider: Site, text: str) -> None:
    spider.memory.patch(
        IP_POOL, ("", "office"), {"status": {"allocatedIPs": text}}, resource_version="", subresource="status"
    )
    (item,) = planned(spider).plan.refused
    assert item.blocking


def test_merging_keeps_everything_else_of_a_block(spider: Site) -> None:
    pins = planned(spider).pins[Page.parse("10.6.0.0/26")]
    spider.block("ip4-10-6-0-0", "10.6.0.0/26", leases=[spider.lease("node-1", "0-3")], suspect="5")
    before = block(spider, "ip4-10-6-0-0")
    after = merged(before, pins)
    assert (after.leases, after.suspect, after.epoch) == (before.leases, before.suspect, before.epoch + 1)
    assert merged(after, pins) is after
    fresh = merged(new_block(Page.parse("10.6.0.0/26"), 7), pins)
    assert fresh.epoch == 8


def test_the_plan_in_words(spider: Site) -> None:
    spider.served("lost", "10.6.0.20/24", "office", node="node-9")
    text = plan_text(planned(spider).plan)
    assert (
        text.splitlines()[0] == "adopt 2 addresses in 2 blocks; 0 known already, 0 of gone pods become free, 1 refused"
    )
    assert "adopt   10.6.0.100  office  default/db-0 eth0 on node-2, as StatefulSet default/db-0" in text
    assert "REFUSE  10.6.0.20 default/lost: its node node-9 is not known to the API" in text


def test_a_running_kubevirt_machine_is_adopted_as_what_it_is(spider: Site) -> None:
    """Its pods differ in name from start to start; Spiderpool's records name the machine."""
    owner = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "name": "vm",
        "uid": "vmi-1",
        "controller": True,
    }
    launcher = spider.pod("virt-launcher-vm-x7q2p", "10.6.0.11", owners=[owner])
    named = replace_name(launcher, "vm")
    spider.endpoint(named, ("10.6.0.11/24", "office"))
    applied(spider)
    pin = next(pin for pin in block(spider, "ip4-10-6-0-0").pins if pin.slot == 11)
    assert (pin.owner.kind, pin.owner.name, pin.owner.uid) == ("VirtualMachineInstance", "vm", "vmi-1")
    assert pin.holder is not None and pin.holder.pod_uid == launcher.uid and pin.source is None


def replace_name(pod: Any, name: str) -> Any:
    return msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, name=name))
