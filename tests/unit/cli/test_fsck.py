"""The consistency predicate over a picture of the API."""

from __future__ import annotations

import asyncio

import pytest

from cli.fsck import check, lasting, report, report_text
from crds.core import POD, STATEFUL_SET
from crds.spiderpool import ENDPOINT
from tests.unit.cli.world import Site


def found(site: Site) -> list[tuple[str, str]]:
    return [(item.invariant, f"{item.subject}: {item.text}") for item in check(site.cluster())]


def test_a_sound_cluster_is_consistent(site: Site) -> None:
    cluster = site.cluster()
    assert check(cluster) == ()
    assert report_text(report(cluster, ())) == "consistent: 1 block, 2 SpiderEndpoints, 3 pods, 2 nodes\n"


def test_two_leases_of_one_slot(site: Site) -> None:
    site.block("ip4-10-6-9-0", "10.6.9.0/26", leases=[site.lease("node-1", "0-3"), site.lease("node-2", "3")])
    ((invariant, text),) = found(site)
    assert invariant == "I1"
    assert "ip4-10-6-9-0" in text
    assert "slots 3 are in two leases" in text


def test_a_pod_whose_address_is_leased_to_another_node(site: Site) -> None:
    site.served("lost", "10.6.0.21/24", "office", node="node-1")
    ((invariant, text),) = found(site)
    assert invariant == "I2"
    assert text.startswith("10.6.0.21: allocated by node-1")
    assert text.endswith("it is leased to node-2")


def test_a_pod_whose_address_nobody_leased_is_found_by_its_pod_ip_too(site: Site) -> None:
    site.pod("stray", "10.6.0.28", node="node-2")
    ((invariant, text),) = found(site)
    assert (invariant, "nobody has it leased" in text) == ("I2", True)


def test_one_address_with_two_living_pods(site: Site) -> None:
    other = site.pod("thief", "10.6.0.10")
    site.endpoint(other, ("10.6.0.10/24", "office"))
    assert {invariant for invariant, _ in found(site)} == {"I4"}


def test_endpoints_of_gone_pods_are_no_double(site: Site) -> None:
    gone = site.pod("gone", phase="Succeeded")
    site.endpoint(gone, ("10.6.0.10/24", "office"))
    assert found(site) == []


def test_a_block_written_under_a_term_that_no_leader_had(site: Site) -> None:
    site.block("ip4-10-6-9-0", "10.6.9.0/26", term=9)
    ((invariant, text),) = found(site)
    assert invariant == "I9"
    assert "term 9 is above the LeaderLock's 3" in text


def test_an_object_that_cannot_be_understood(site: Site) -> None:
    site.block("ip4-10-6-9-0", "10.6.9.0/26", suspect="9-2")
    site.pool("odd", "10.9.0.0/24", "ten")
    assert [invariant for invariant, _ in found(site)] == ["read", "read"]


def test_leaks_are_looked_for_only_when_nothing_is_under_way(site: Site) -> None:
    owners = site.stateful_set("db", 1)
    pins = [
        {"slot": slot, "owner": {"kind": "StatefulSet", "namespace": "default", "name": name, "interface": "eth0"}}
        for slot, name in ((1, "db-0"), (2, "db-7"))
    ]
    site.block("ip4-10-6-9-0", "10.6.9.0/26", pins=pins, leases=[site.lease("removed", "9")])
    cluster = site.cluster()
    assert owners
    assert check(cluster) == ()
    sets = asyncio.run(site.store.list(STATEFUL_SET)).items
    texts = [item.text for item in check(cluster, sets)]
    assert len(texts) == 2
    assert any("removed" in text for text in texts)
    assert any("db-7" in text for text in texts)


def leaks(site: Site) -> list[str]:
    sets = asyncio.run(site.store.list(STATEFUL_SET)).items
    return [f"{item.invariant} {item.subject}: {item.text}" for item in check(site.cluster(), sets)]


def test_a_record_whose_pod_is_gone_is_a_leak(site: Site) -> None:
    gone = site.served("gone", "10.6.0.11/24", "office")
    assert leaks(site) == []
    asyncio.run(site.store.delete(POD, "gone", namespace="default"))
    assert leaks(site) == [f"I7 10.6.0.11: SpiderEndpoint default/gone names it for pod {gone.uid}, which is gone"]
    assert found(site) == []  # it may be on its way out


@pytest.mark.parametrize(
    ("kind", "owner", "name", "kept"),
    [
        ("StatefulSet", "db", "db-0", True),
        ("StatefulSet", "db", "db-7", False),
        ("StatefulSet", "other", "other-0", False),
        ("VirtualMachineInstance", "vm", "vm", True),
        ("VirtualMachineInstance", "vm", "virt-launcher-vm-x", False),
        ("ReplicaSet", "web", "web-x", False),
    ],
)
def test_the_record_of_an_identity_that_is_wanted_is_no_leak(
    site: Site,
    kind: str,
    owner: str,
    name: str,
    kept: bool,  # noqa: FBT001  # a case of the table
) -> None:
    site.stateful_set("db", 1)
    site.served(name, "10.6.0.11/24", "office")
    changes = {"status": {"ownerControllerType": kind, "ownerControllerName": owner}}
    site.memory.patch(ENDPOINT, ("default", name), changes, resource_version="", subresource="")
    asyncio.run(site.store.delete(POD, name, namespace="default"))
    assert (leaks(site) == []) is kept


def test_the_record_of_a_pod_that_has_finished_is_no_leak(site: Site) -> None:
    site.endpoint(site.pod("done", phase="Succeeded"), ("10.6.0.11/24", "office"))
    assert leaks(site) == []


def test_only_what_two_looks_show_counts(site: Site) -> None:
    before = check(site.cluster())
    site.block("ip4-10-6-9-0", "10.6.9.0/26", term=9)
    after = check(site.cluster())
    assert after
    assert lasting(before, after) == ()
    assert lasting(after, after) == after
    text = report_text(report(site.cluster(), after))
    assert text.startswith("1 violation in 2 blocks")
    assert "  I9    ip4-10-6-9-0: " in text
