"""`nephila explain` names the right cause: ten broken setups and more, each as a user would have made it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from cli.explain.collecting import Asked, explain_planned, explain_pod
from cli.explain.podfile import read_pod
from cli.explain.settings import CONFIG_MAP, Settings, defaults, from_cluster, from_mapping
from cli.failures import CliError
from cli.views.explain import Explanation, explain_text
from crds.core import NETWORK_ATTACHMENT
from ipam.facts import Features
from tests.unit.cli.world import WALL, Site

IPPOOL = "ipam.spidernet.io/ippool"
IPPOOLS = "ipam.spidernet.io/ippools"
SUBNET = "ipam.spidernet.io/subnet"
ROUTES = "ipam.spidernet.io/routes"
ALL_ON = defaults("kube-system", "defaults")


def named(*pools: str) -> dict[str, str]:
    return {IPPOOL: json.dumps({"ipv4": list(pools)})}


@pytest.fixture
def bare() -> Site:
    """Two racks, no pool yet."""
    site = Site()
    site.leader()
    site.namespace("default", {"team": "red"})
    site.node("node-1", rack="a")
    site.node("node-2", rack="b")
    return site


def explained(site: Site, name: str = "web", settings: Settings = ALL_ON, **asked: Any) -> Explanation:
    return asyncio.run(explain_pod(site.store, site.cluster(), settings, "default", name, Asked(**asked)))


def wrong_namespace_affinity(site: Site) -> None:
    site.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9", namespaceAffinity={"matchLabels": {"team": "blue"}})
    site.pod("web", annotations=named("p"))


def disabled_pool(site: Site) -> None:
    site.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9", disable=True)
    site.pod("web", annotations=named("p"))


def wrong_node_affinity(site: Site) -> None:
    site.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9", nodeAffinity={"matchLabels": {"rack": "b"}})
    site.pod("web", annotations=named("p"))


def broken_json(site: Site) -> None:
    site.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9")
    site.pod("web", annotations={IPPOOL: '{"ipv4": ["p",]}'})


def unknown_pool(site: Site) -> None:
    site.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9")
    site.pod("web", annotations=named("q"))


def exhausted_pool(site: Site) -> None:
    site.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.2")
    site.served("a", "10.1.0.1/24", "p")
    site.served("b", "10.1.0.2/24", "p", node="node-2")
    site.pod("web", annotations=named("p"))


def family_switched_off(site: Site) -> None:
    site.pool("p6", "fd00:1::/64", "fd00:1::1-fd00:1::9")
    site.pod("web", annotations={IPPOOL: '{"ipv6": ["p6"]}'})


def reserved_addresses_eat_the_pool(site: Site) -> None:
    site.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9")
    site.reserved("dhcp", "10.1.0.0-10.1.0.50")
    site.pod("web", annotations=named("p"))


def overlapping_younger_pool(site: Site) -> None:
    site.pool("a-first", "10.1.0.0/24", "10.1.0.1-10.1.0.9")
    site.pool("second", "10.1.0.0/24", "10.1.0.2-10.1.0.5")
    site.pod("web", annotations=named("second"))


def bare_pod_with_subnet(site: Site) -> None:
    site.subnet("s", "10.1.0.0/24", "10.1.0.1-10.1.0.9")
    site.pod("web", annotations={SUBNET: '{"ipv4": ["s"]}'})


def missing_subnet(site: Site) -> None:
    site.pod("web", annotations={SUBNET: '{"ipv4": ["s"]}'}, owners=site.deployment("web"))


def full_subnet(site: Site) -> None:
    site.subnet("s", "10.1.0.0/24", "10.1.0.1-10.1.0.2")
    site.pool("other", "10.1.0.0/24", "10.1.0.1-10.1.0.2")
    site.pod("web", annotations={SUBNET: '{"ipv4": ["s"]}'}, owners=site.deployment("web"))


def nothing_names_a_pool(site: Site) -> None:
    site.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9")
    site.pod("web")


def wrong_pod_affinity(site: Site) -> None:
    site.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9", podAffinity={"matchLabels": {"app": "db"}})
    site.pod("web", annotations=named("p"), labels={"app": "web"})


def interface_not_listed(site: Site) -> None:
    site.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9")
    site.pod("web", annotations={IPPOOLS: '[{"interface": "net1", "ipv4": ["p"]}]'})


def wrong_family(site: Site) -> None:
    site.pool("p6", "fd00:1::/64", "fd00:1::1-fd00:1::9")
    site.pod("web", annotations=named("p6"))


def unreadable_pool(site: Site) -> None:
    site.pool("p", "10.1.0.0/24", "10.1.0.9-10.1.0.1")
    site.pod("web", annotations=named("p"))


def silent_agent(site: Site) -> None:
    site.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9")
    site.report("node-1", heartbeat_age_s=900.0)
    site.pod("web", annotations=named("p"))


def evicted_pod(site: Site) -> None:
    site.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9", default=True)
    site.pod("web", phase="Failed", spec={"restartPolicy": "Never"})


def route_without_gateway(site: Site) -> None:
    site.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9")
    site.pod("web", annotations={**named("p"), ROUTES: '[{"dst": "10.9.0.0/16"}]'})


V4_ONLY = Settings(Features(ipv6=False, subnets=True, auto_pools=True), "", "test")

BROKEN: list[tuple[Callable[[Site], None], Settings, str, str]] = [
    (wrong_namespace_affinity, ALL_ON, "namespaceAffinity (team=blue) does not match", "label namespace default"),
    (disabled_pool, ALL_ON, "p: it is disabled", "set spec.disable of SpiderIPPool p to false"),
    (
        wrong_node_affinity,
        ALL_ON,
        "nodeAffinity (rack=b) does not match the labels of node node-1",
        "label node node-1",
    ),
    (broken_json, ALL_ON, f"wrong input: {IPPOOL}: not JSON", "end no list with a comma"),
    (unknown_pool, ALL_ON, "IPPool 'q'", "create it, or correct the name"),
    (exhausted_pool, ALL_ON, "of 2 addresses, 2 in use by pods", "enlarge spec.ips of SpiderIPPool p"),
    (family_switched_off, V4_ONLY, "only a family that is switched off is named", "switch the other one on"),
    (reserved_addresses_eat_the_pool, ALL_ON, "9 withheld by SpiderReservedIP dhcp", "SpiderReservedIP"),
    (overlapping_younger_pool, ALL_ON, "4 owned by older pool a-first", "no older pool claims"),
    (bare_pod_with_subnet, ALL_ON, "doesn't support no-controller pods", f"use {IPPOOL} for a bare pod"),
    (missing_subnet, ALL_ON, "SpiderSubnet 's' does not exist", "create it"),
    (full_subnet, ALL_ON, "SpiderSubnet 's' has no address left", "enlarge the subnet's spec.ips"),
    (nothing_names_a_pool, ALL_ON, "no pool selection rules", "or mark a pool as default"),
    (wrong_pod_affinity, ALL_ON, "podAffinity (app=db) does not match the pod's labels", "label the pod"),
    (interface_not_listed, ALL_ON, "interface eth0 is being set up, but is not among those listed", "add an item"),
    (wrong_family, ALL_ON, "it is of IPv6, but named for IPv4", "the list of its own family"),
    (unreadable_pool, ALL_ON, "SpiderIPPool p cannot be understood: spec.ips[0]", "correct the pool"),
    (silent_agent, ALL_ON, "the agent of node node-1 hands out no new address: Silent", "nephila nodes"),
    (evicted_pod, ALL_ON, "pod default/web has failed", "nothing to do"),
    (route_without_gateway, ALL_ON, f"wrong input: {ROUTES}[0].gw", "10.0.0.5"),
]


@pytest.mark.parametrize(("breaking", "settings", "cause", "fix"), BROKEN, ids=[case[0].__name__ for case in BROKEN])
def test_the_cause_is_named(
    bare: Site, breaking: Callable[[Site], None], settings: Settings, cause: str, fix: str
) -> None:
    breaking(bare)
    found = explained(bare, settings=settings)
    assert not found.served
    (eth0,) = found.interfaces
    assert cause in eth0.cause
    assert fix in eth0.fix
    assert f"NO ADDRESS: {eth0.cause}" in explain_text(found)


def test_the_whole_reasoning_of_a_pod_that_is_served(bare: Site, golden: Callable[[str, str], None]) -> None:
    routes = [{"dst": "10.9.0.0/16", "gw": "10.1.0.254"}]
    bare.pool("small", "10.1.0.0/24", "10.1.0.1-10.1.0.2", gateway="10.1.0.1")
    bare.served("a", "10.1.0.2/24", "small")
    bare.pool("spare", "10.1.0.0/24", "10.1.0.20-10.1.0.29", gateway="10.1.0.1", routes=routes)
    bare.pool("rack-b", "10.1.0.0/24", "10.1.0.40-10.1.0.49", nodeName=["node-2"])
    bare.pod("web", annotations=named("small", "rack-b", "spare"))
    found = explained(bare)
    assert found.served
    golden("explain", explain_text(found))


def test_a_pod_that_has_its_address_is_served_whatever_became_of_the_pool(bare: Site) -> None:
    bare.pool("p", "10.1.0.0/24", "10.1.0.1", disable=True)
    pod = bare.pod("web", "10.1.0.1", annotations=named("p"))
    bare.endpoint(pod, ("10.1.0.1/24", "p"))
    found = explained(bare)
    assert found.served
    assert found.interfaces[0].present == ("10.1.0.1 from p",)


def test_a_pool_that_the_leader_still_makes_is_awaited(bare: Site) -> None:
    bare.subnet("s", "10.1.0.0/24", "10.1.0.1-10.1.0.9")
    bare.pod("web", annotations={SUBNET: '{"ipv4": ["s"]}'}, owners=bare.deployment("web"))
    found = explained(bare)
    assert found.served
    assert found.interfaces[0].awaited == ("IPv4 pool of Deployment default/web from SpiderSubnet s",)
    assert "gets an address once the application pool exists" in explain_text(found)


def test_a_pod_without_node_is_judged_for_every_kind_of_node(bare: Site) -> None:
    bare.node("node-3", rack="a")
    bare.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9", nodeAffinity={"matchLabels": {"rack": "b"}})
    bare.pod("web", node="", annotations=named("p"))
    found = explained(bare)
    assert found.served
    assert [(item.nodes, item.served) for item in found.interfaces] == [
        (("node-2",), True),
        (("node-1", "node-3"), False),
    ]
    assert not explained(bare, node="node-3").served


def test_each_interface_of_multus_is_explained_with_its_network_definition(bare: Site) -> None:
    config = '{"plugins": [{"type": "macvlan", "ipam": {"type": "spiderpool", "default_ipv4_ippool": ["storage"]}}]}'
    bare.make(NETWORK_ATTACHMENT, metadata={"name": "store", "namespace": "default"}, spec={"config": config})
    bare.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9", default=True)
    bare.pool("storage", "10.2.0.0/24", "10.2.0.1-10.2.0.9", multusName=["default/store"])
    bare.pod("web", annotations={"k8s.v1.cni.cncf.io/networks": "store, missing@net7"})
    eth0, net1, net7 = explained(bare).interfaces
    assert [candidate.pool for candidate in eth0.candidates] == ["p"]
    assert [candidate.pool for candidate in net1.candidates] == ["storage"]
    assert net7.cause == "NetworkAttachmentDefinition default/missing does not exist"
    assert len(explained(bare, interface="net1").interfaces) == 1


def test_a_network_configuration_file_can_stand_in(bare: Site) -> None:
    bare.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9")
    bare.pod("web")
    netconf = '{"name": "n", "ipam": {"type": "nephila", "default_ipv4_ippool": ["p"], "clean_gateway": true}}'
    found = explained(bare, netconf=netconf)
    assert found.served
    assert "default_ipv4_ippool" in next(
        item.source for item in found.interfaces[0].sources if item.verdict == "chosen"
    )
    assert not explained(bare, netconf="{").served


def test_a_pinned_identity_gets_its_address_from_a_full_pool(bare: Site) -> None:
    bare.pool("p", "10.1.0.0/24", "10.1.0.3")
    owner = {"kind": "StatefulSet", "namespace": "default", "name": "db-0", "interface": "eth0"}
    bare.block("ip4-10-1-0-0", "10.1.0.0/26", pins=[{"slot": 3, "owner": owner}])
    bare.pod("db-0", annotations=named("p"), owners=bare.stateful_set("db", 1))
    bare.pod("web", annotations=named("p"))
    assert "10.1.0.3 is pinned to this pod" in explain_text(explained(bare, "db-0"))
    assert explained(bare, "db-0").served
    assert not explained(bare, "web").served


def test_a_pod_on_the_hosts_network_needs_nothing(bare: Site) -> None:
    bare.pod("web", spec={"hostNetwork": True})
    found = explained(bare)
    assert (found.served, found.interfaces) == (True, ())
    assert "host's network" in explain_text(found)


MANIFEST = """
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: default}
spec:
  template:
    metadata:
      labels: {app: shop}
      annotations: {ipam.spidernet.io/ippool: '{"ipv4": ["p"]}'}
    spec: {}
"""


def test_a_manifest_is_explained_before_it_is_applied(bare: Site) -> None:
    bare.pool("p", "10.1.0.0/24", "10.1.0.1-10.1.0.9", podAffinity={"matchLabels": {"app": "shop"}})
    planned = read_pod(MANIFEST, "f.yaml", "other")
    assert (planned.owner.kind, planned.pod.namespace, planned.pod.name) == ("Deployment", "default", "shop")
    found = asyncio.run(explain_planned(bare.store, bare.cluster(), ALL_ON, planned, Asked()))
    assert found.served
    assert [item.nodes for item in found.interfaces] == [("node-1", "node-2")]


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not YAML"), ("kind: Service", "no Pod and no workload"), ("{kind: Pod, spec: 3}", "Pod: Expected")],
)
def test_a_bad_manifest_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(CliError) as caught:
        read_pod(text, "f.yaml", "default")
    assert says in str(caught.value)
    assert "f.yaml" in str(caught.value)


def test_settings_are_read_from_an_agents_file_or_spiderpools_keys() -> None:
    nested = from_mapping({"features": {"enableIPv6": False, "clusterNetwork": "ns/n"}}, "f", "kube-system")
    flat = from_mapping({"enableIPv4": True, "enableIPv6": False}, "f", "kube-system")
    assert nested is not None
    assert flat is not None
    assert (nested.features.ipv6, nested.cluster_network) == (False, "ns/n")
    assert flat.features.ipv6 is False
    assert from_mapping({"logLevel": "info"}, "f", "kube-system") is None
    with pytest.raises(CliError):
        from_mapping({"enableIPv4": "yes"}, "f", "kube-system")


def test_spiderpools_configuration_counts_as_it_does_for_the_agents(bare: Site) -> None:
    label = {"app.kubernetes.io/name": "nephila"}
    agent = "spiderpoolConf: /etc/nephila-spiderpool/spiderpool-conf\nfeatures: {enableIPv4: true}\n"
    bare.make(
        CONFIG_MAP, metadata={"name": "s", "namespace": "kube-system", "labels": label}, data={"agent.yaml": agent}
    )
    conf = {"conf.yml": "enableIPv4: false\nenableIPv6: false\n", "clusterNetwork": "kube-system/underlay"}
    bare.make(CONFIG_MAP, metadata={"name": "spiderpool-conf", "namespace": "kube-system"}, data=conf)
    found = asyncio.run(from_cluster(bare.store, "default"))
    assert (found.features.ipv4, found.features.ipv6) == (True, False)
    assert found.cluster_network == "kube-system/underlay"


def test_an_unknown_pod_or_node_is_said_so(bare: Site) -> None:
    with pytest.raises(CliError, match="does not exist"):
        explained(bare, "nobody")
    bare.pod("web", node="")
    with pytest.raises(CliError, match="node 'node-9' does not exist"):
        explained(bare, node="node-9")
    assert bare.cluster().wall == WALL


def test_a_machine_is_known_by_its_own_name(bare: Site) -> None:
    bare.pool("p", "10.1.0.0/24", "10.1.0.3")
    owner = {"kind": "VirtualMachineInstance", "namespace": "default", "name": "vm", "interface": "eth0"}
    bare.block("ip4-10-1-0-0", "10.1.0.0/26", pins=[{"slot": 3, "owner": owner}])
    instance = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "name": "vm",
        "uid": "u",
        "controller": True,
    }
    bare.pod("virt-launcher-vm-x7q2p", annotations=named("p"), owners=[instance])
    assert "10.1.0.3 is pinned to this pod" in explain_text(explained(bare, "virt-launcher-vm-x7q2p"))
