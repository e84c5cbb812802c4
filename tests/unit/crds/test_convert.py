"""Objects become domain values, or a BadValue that names the field and the cure."""

from __future__ import annotations

from typing import Any

import pytest

from crds import convert, core, spiderpool
from ipam.addresses import Address, Family, Network
from ipam.applications import AppOwner
from ipam.errors import BadValue
from ipam.pools import pool_problems


def pool(name: str = "blue", labels: dict[str, str] | None = None, **spec: Any) -> spiderpool.SpiderIPPool:
    metadata = {"name": name, "uid": "u", "creationTimestamp": "2026-11-22T10:00:00Z", "labels": labels}
    return spiderpool.IP_POOL.from_builtins({"metadata": metadata, "spec": {"subnet": "10.6.0.0/16", **spec}})


def test_pool_with_every_field() -> None:
    value = convert.pool(
        pool(
            ips=["10.6.0.10-10.6.0.19", "10.6.0.30"],
            excludeIPs=["10.6.0.12"],
            gateway="10.6.0.30",
            routes=[{"dst": "10.7.0.0/16", "gw": "10.6.0.2"}],
            podAffinity={"matchLabels": {"app": "web"}},
            nodeAffinity={"matchExpressions": [{"key": "gpu", "operator": "Exists"}]},
            nodeName=["n1"],
            multusName=["macvlan"],
            default=True,
        )
    )
    assert value.family is Family.V4
    assert value.subnet == Network.parse("10.6.0.0/16")
    assert value.total_count == 10
    assert str(value.usable) == "10.6.0.10-10.6.0.11, 10.6.0.13-10.6.0.19"
    assert value.gateway == Address.parse("10.6.0.30")
    assert [str(route) for route in value.routes] == ["10.7.0.0/16 via 10.6.0.2"]
    assert value.pod_affinity is not None
    assert value.pod_affinity.matches({"app": "web"})
    assert value.node_affinity is not None
    assert value.namespace_affinity is None
    assert (value.default, value.disable, value.deleting) == (True, False, False)
    assert value.seniority == ("2026-11-22T10:00:00Z", "blue")


def test_application_pool_is_recognised() -> None:
    keys = {
        "app-api-group": "apps",
        "app-api-version": "v1",
        "app-kind": "Deployment",
        "app-namespace": "a",
        "app-name": "w",
    }
    affinity = {"matchLabels": {f"ipam.spidernet.io/{key}": value for key, value in keys.items()}}
    labels = {convert.INTERFACE: "net1", convert.OWNER_SUBNET: "s4"}
    value = convert.pool(pool(labels=labels, podAffinity=affinity))
    assert value.app == AppOwner("apps", "v1", "Deployment", "a", "w")
    assert (value.app_interface, value.owner_subnet) == ("net1", "s4")


def test_l2_domain_comes_from_the_annotation() -> None:
    stored = spiderpool.IP_POOL.from_builtins(
        {"metadata": {"name": "p", "annotations": {convert.L2_DOMAIN: "rack-1"}}, "spec": {"subnet": "10.6.0.0/16"}}
    )
    assert convert.pool(stored).domain == "rack-1"


def test_route_with_host_bits_means_its_network() -> None:
    value = convert.pool(pool(routes=[{"dst": "10.7.0.1/16", "gw": "10.6.0.2"}]))
    assert value.routes[0].dst == Network.parse("10.7.0.0/16")
    assert pool_problems(value) == ()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"subnet": "10.6.0.1/16"}, "spec.subnet"),
        ({"ipVersion": 6}, "spec.ipVersion"),
        ({"ips": ["10.6.0.1", "10.6.0.9-10.6.0.2"]}, "spec.ips[1]"),
        ({"subnet": "fd00::/64", "ips": ["fd00::9-fd00::2"]}, "spec.ips[0]"),
        ({"excludeIPs": ["fd00::1"]}, "spec.excludeIPs[0]"),
        ({"gateway": "router"}, "spec.gateway"),
        (
            {"routes": [{"dst": "10.7.0.0/16", "gw": "10.6.0.1"}, {"dst": "10.7.0.0/33", "gw": "10.6.0.1"}]},
            "spec.routes[1].dst",
        ),
        ({"routes": [{"dst": "10.7.0.0", "gw": "10.6.0.1"}]}, "spec.routes[0].dst"),
        ({"routes": [{"dst": "10.7.0.0/16", "gw": "fd00::1"}]}, "spec.routes[0].gw"),
        (
            {"nodeAffinity": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
            "spec.nodeAffinity.matchExpressions[0].values",
        ),
    ],
)
def test_unreadable_field_is_named(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(BadValue) as caught:
        convert.pool(pool(**spec))
    assert caught.value.field == field
    assert str(caught.value).startswith(field)


def test_malformed_l2_domain_is_named() -> None:
    stored = spiderpool.IP_POOL.from_builtins(
        {"metadata": {"name": "p", "annotations": {convert.L2_DOMAIN: "Rack_1"}}, "spec": {"subnet": "10.6.0.0/16"}}
    )
    with pytest.raises(BadValue, match=r"metadata\.annotations\[nephila.io/l2-domain\]"):
        convert.pool(stored)


def test_one_unreadable_object_hides_no_other() -> None:
    found = convert.readable([pool("a"), pool("b", gateway="x"), pool("c")], convert.pool)
    assert [value.name for value in found.values] == ["a", "c"]
    assert found.unreadable.keys() == {"b"}
    assert found.unreadable["b"].field == "spec.gateway"


def test_subnet_is_a_pool_without_affinities() -> None:
    stored = spiderpool.SUBNET.from_builtins(
        {"metadata": {"name": "s"}, "spec": {"subnet": "fd00::/64", "ips": ["fd00::1-fd00::ff"]}}
    )
    value = convert.subnet(stored)
    assert value.family is Family.V6
    assert value.total_count == 255


def test_reserved_addresses_are_joined_by_family() -> None:
    def reserved(**spec: Any) -> spiderpool.SpiderReservedIP:
        return spiderpool.RESERVED_IP.from_builtins({"metadata": {"name": "r"}, "spec": spec})

    objects = [
        reserved(ips=["10.6.0.1-10.6.0.9"]),
        reserved(ips=["10.6.0.5-10.6.0.20"]),
        reserved(ipVersion=6),
        reserved(),
    ]
    union = convert.reserved_union(map(convert.reserved, objects))
    assert str(union[Family.V4]) == "10.6.0.1-10.6.0.20"
    assert not union[Family.V6]
    with pytest.raises(BadValue, match=r"spec\.ips\[0\]"):
        convert.reserved(reserved(ipVersion=6, ips=["10.6.0.1"]))
    with pytest.raises(BadValue, match=r"spec\.ipVersion"):
        convert.reserved(reserved(ipVersion=5))


def test_pod_facts_take_labels_of_node_and_namespace() -> None:
    stored = core.POD.from_builtins(
        {
            "metadata": {
                "name": "web-0",
                "namespace": "a",
                "uid": "u",
                "labels": {"app": "web"},
                "deletionTimestamp": "2026-11-22T10:00:00Z",
            },
            "spec": {"nodeName": "n1", "restartPolicy": "Never"},
            "status": {"phase": "Failed", "reason": "Evicted"},
        }
    )
    node = core.NODE.from_builtins({"metadata": {"name": "n1", "labels": {"gpu": "1"}}})
    namespace = core.NAMESPACE.from_builtins(
        {"metadata": {"name": "a", "labels": {"team": "x"}, "annotations": {"k": "v"}}}
    )
    facts = convert.pod_facts(stored, namespace, node)
    assert (facts.namespace, facts.name, facts.uid, facts.node) == ("a", "web-0", "u", "n1")
    assert (facts.labels, facts.node_labels, facts.namespace_labels) == ({"app": "web"}, {"gpu": "1"}, {"team": "x"})
    assert facts.namespace_annotations == {"k": "v"}
    assert (facts.deleting, facts.phase, facts.restart_policy, facts.status_reason) == (
        True,
        "Failed",
        "Never",
        "Evicted",
    )
    unknown = convert.pod_facts(stored, None, None)
    assert unknown.node_labels == {}


def test_owners() -> None:
    stored = core.POD.from_builtins(
        {
            "metadata": {
                "name": "web-0",
                "namespace": "a",
                "uid": "u",
                "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "s", "controller": True}
                ],
            }
        }
    )
    (reference,) = convert.owner_references(stored)
    assert (reference.kind, reference.name, reference.controller) == ("StatefulSet", "web", True)
    owner = convert.as_owner(stored)
    assert owner.is_bare_pod
    assert (owner.namespace, owner.name, owner.uid) == ("a", "web-0", "u")


@pytest.mark.parametrize(
    ("spec", "expected"), [({}, (0, 1)), ({"replicas": 0}, (0, 0)), ({"replicas": 3, "ordinals": {"start": 5}}, (5, 3))]
)
def test_ordinals_of_a_stateful_set(spec: dict[str, Any], expected: tuple[int, int]) -> None:
    assert convert.ordinals(core.STATEFUL_SET.from_builtins({"metadata": {"name": "web"}, "spec": spec})) == expected
