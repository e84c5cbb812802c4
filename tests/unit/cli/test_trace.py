"""Who has an address, and of a free one whether it is usable and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cli.views.trace import mac_text, story_text, trace_ip, trace_mac, trace_pod
from ipam.addresses import Address
from tests.unit.cli.world import Site


@pytest.mark.parametrize(
    ("ip", "state", "usable", "why"),
    [
        ("10.6.0.10", "allocated", False, "pod default/web-1 has it"),
        ("10.6.0.11", "leased", True, "node-1 holds it ready"),
        ("10.6.0.12", "reserved", False, "SpiderReservedIP printers withholds it"),
        ("10.6.0.15", "conflict", False, "02:00:00:00:00:99 seen by node-1 30s ago (ARP reply)"),
        ("10.6.0.25", "cooling", True, "cooling for 40s"),
        ("10.6.0.26", "suspect", True, "fully probed before its next use"),
        ("10.6.0.27", "free", True, "any node may lease it for pool office"),
        ("10.6.0.40", "outside", False, "not in spec.ips of any pool of subnet 10.6.0.0/24"),
        ("10.6.0.1", "gateway", False, "gateway of pool office"),
        ("192.0.2.1", "unknown", False, "no pool"),
        ("fd00:6::1:0:0", "free", True, "pool lab6"),
    ],
)
def test_every_state_of_an_address(site: Site, ip: str, state: str, usable: bool, why: str) -> None:  # noqa: FBT001
    (story,) = trace_ip(site.cluster(), Address.parse(ip))
    assert (story.state, story.usable) == (state, usable)
    assert why in story.why


def test_the_story_of_an_address_in_words(site: Site, golden: Callable[[str, str], None]) -> None:
    cluster = site.cluster()
    texts = [
        story_text(story)
        for ip in ("10.6.0.10", "10.6.0.11", "10.6.0.15")
        for story in trace_ip(cluster, Address.parse(ip))
    ]
    golden("trace", "\n".join(texts))


def test_an_excluded_address_and_one_of_an_older_pool(site: Site) -> None:
    young = {"creationTimestamp": "2026-03-01T00:00:00Z"}
    site.pool("late", "10.6.0.0/24", "10.6.0.20-10.6.0.60", excludeIPs=["10.6.0.50"], meta=young)
    cluster = site.cluster()
    assert trace_ip(cluster, Address.parse("10.6.0.50"))[0].why == "pool late does not hand it out (in its excludeIPs)"
    owners = trace_ip(cluster, Address.parse("10.6.0.27"))[0].pools
    assert len(owners) == 2
    assert sum("an older pool owns it" in owner for owner in owners) == 1


def test_a_disabled_pool_makes_its_addresses_unusable(site: Site) -> None:
    site.pool("shut", "10.9.0.0/24", "10.9.0.5", disable=True)
    (story,) = trace_ip(site.cluster(), Address.parse("10.9.0.5"))
    assert (story.usable, story.why) == (False, "its pool shut is disabled")


def test_two_living_pods_with_one_address_are_called_a_double(site: Site) -> None:
    other = site.pod("thief", "10.6.0.10", node="node-2")
    site.endpoint(other, ("10.6.0.10/24", "office"), node="node-2")
    (story,) = trace_ip(site.cluster(), Address.parse("10.6.0.10"))
    assert story.state == "double"
    assert "default/thief" in story.why
    assert "default/web-1" in story.why


def test_a_leftover_endpoint_is_told_from_a_living_pod(site: Site) -> None:
    gone = site.pod("gone", phase="Succeeded")
    site.endpoint(gone, ("10.6.0.28/24", "office"))
    (story,) = trace_ip(site.cluster(), Address.parse("10.6.0.28"))
    assert story.state == "leftover"
    assert "nephila release" in story.why


def test_a_pod_is_known_by_its_pod_ips_before_its_endpoint_is_written(site: Site) -> None:
    site.pod("fresh", "10.6.0.14")
    (story,) = trace_ip(site.cluster(), Address.parse("10.6.0.14"))
    assert (story.state, story.pod, story.recorded_by) == ("allocated", "default/fresh", "pod.status.podIPs")


def test_one_address_in_two_l2_domains_has_two_stories(site: Site) -> None:
    site.pool("east", "10.6.0.0/24", "10.6.0.10", meta={"annotations": {"nephila.io/l2-domain": "east"}})
    stories = trace_ip(site.cluster(), Address.parse("10.6.0.10"))
    assert [(story.domain, story.state) for story in stories] == [("", "allocated"), ("east", "free")]


def test_a_pinned_address_waits_for_its_identity(site: Site) -> None:
    owner = {"kind": "StatefulSet", "namespace": "default", "name": "db-0", "interface": "eth0"}
    site.pool("dbs", "10.5.0.0/24", "10.5.0.1-10.5.0.9")
    site.block("ip4-10-5-0-0", "10.5.0.0/26", pins=[{"slot": 3, "owner": owner}])
    (story,) = trace_pod(site.cluster(), "default", "db-0")
    assert (story.address, story.state, story.usable) == ("10.5.0.3", "pinned", False)
    assert story.pin == "StatefulSet default/db-0 eth0 (does not run now)"


def test_a_mac_is_found_in_network_status_and_in_conflicts(site: Site) -> None:
    status = '[{"name":"n","interface":"eth0","ips":["10.6.0.11"],"mac":"0A:58:0a:06:00:0b"}]'
    site.pod("seen", annotations={"k8s.v1.cni.cncf.io/network-status": status})
    cluster = site.cluster()
    (found,) = trace_mac(cluster, "0a-58-0a-06-00-0b")
    assert (found.whose, found.addresses) == ("default/seen eth0", ("10.6.0.11",))
    (stranger,) = trace_mac(cluster, "02:00:00:00:00:99")
    assert "not ours" in mac_text(stranger)
    assert trace_mac(cluster, "02:00:00:00:00:01") == ()
