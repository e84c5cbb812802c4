"""Kinds, paths, and how the wire structs read and write JSON."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crds import core, nephila, spiderpool
from crds.meta import UNSET, Kind, KubeObject, ObjectList, wire_name
from crds.models import DEFINED, KINDS

# As in Spiderpool's documentation, with the fields that older versions had.
POOL = """
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata:
  name: ipv4-ippool
  creationTimestamp: null
spec:
  default: true
  ipVersion: 4
  vlan: 100
  subnet: 172.18.41.0/24
  ips: [172.18.41.40-172.18.41.50, "172.18.41.60"]
  excludeIPs: [172.18.41.44-172.18.41.47]
  gateway: 172.18.41.1
  routes:
  - {dst: 172.18.42.0/24, gw: 172.18.41.1}
  podAffinity:
    matchExpressions:
    - {key: app, operator: In, values: [web]}
  namespaceName: [default]
  multusName: [kube-system/macvlan-conf]
status:
  allocatedIPs: '{"172.18.41.40":{"interface":"eth0","pod":"default/app-0","podUid":"u"}}'
  allocatedIPCount: 1
  totalIPCount: 8
  somethingNew: {a: 1}
"""
ENDPOINT = """
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderEndpoint
metadata: {name: app-0, namespace: default, finalizers: [spiderpool.spidernet.io]}
status:
  current:
    ips:
    - {interface: eth0, ipv4: 172.18.41.40/24, ipv4Gateway: 172.18.41.1, ipv4Pool: ipv4-ippool, vlan: 0, cleanGateway: false}
    node: worker
    uid: 80f7f2d0
  ownerControllerName: app
  ownerControllerType: StatefulSet
"""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_kind_agrees_with_its_struct(kind: Kind[Any]) -> None:
    block, pool = {"page": "", "epoch": 0, "term": 0}, {"subnet": ""}
    lock = {"holder": "", "renewCount": 0, "leaseDurationSeconds": 15}
    body = {"metadata": {"name": "x"}, "spec": {**block, **pool, **lock}}
    decoded = kind.from_builtins(body)
    assert (decoded.api_version, decoded.kind) == (kind.api_version, kind.kind)
    assert kind.plural == kind.plural.lower()
    assert kind.singular == kind.kind.lower() or kind.singular == "network-attachment-definition"


def test_short_names_are_unique() -> None:
    names = [name for kind in KINDS for name in kind.short_names]
    assert len(set(names)) == len(names)
    assert all(kind.short_names and kind.categories for kind in DEFINED)


@pytest.mark.parametrize(
    ("kind", "place", "path"),
    [
        (core.POD, {}, "/api/v1/pods"),
        (core.POD, {"namespace": "a"}, "/api/v1/namespaces/a/pods"),
        (core.POD, {"namespace": "a", "name": "b"}, "/api/v1/namespaces/a/pods/b"),
        (core.NODE, {"name": "n"}, "/api/v1/nodes/n"),
        (nephila.IP_NODE, {"name": "n", "subresource": "status"}, "/apis/nephila.io/v1alpha1/ipnodes/n/status"),
        (core.NODE, {"name": "a/../b"}, "/api/v1/nodes/a%2F..%2Fb"),
    ],
)
def test_path(kind: Kind[Any], place: dict[str, str], path: str) -> None:
    assert kind.path(**place) == path


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (core.NODE, {"namespace": "a"}),
        (core.POD, {"name": "b"}),
        (core.POD, {"namespace": "a", "subresource": "status"}),
    ],
)
def test_path_that_does_not_exist_is_refused(kind: Kind[Any], place: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=kind.kind):
        kind.path(**place)


@pytest.mark.parametrize(
    ("attribute", "name"),
    [
        ("ips", "ips"),
        ("exclude_ips", "excludeIPs"),
        ("allocated_ip_count", "allocatedIPCount"),
        ("controlled_ip_pools", "controlledIPPools"),
        ("ipv4_pool", "ipv4Pool"),
        ("node_uid", "nodeUID"),
        ("pod_ips", "podIPs"),
        ("boot_id", "bootID"),
        ("api_version", "apiVersion"),
        ("continue_", "continue"),
    ],
)
def test_wire_name(attribute: str, name: str) -> None:
    assert wire_name(attribute) == name


def test_documented_pool_is_read_and_its_unknown_fields_are_ignored() -> None:
    pool = spiderpool.IP_POOL.from_builtins(yaml.safe_load(POOL))
    assert pool.spec.ips == ("172.18.41.40-172.18.41.50", "172.18.41.60")
    assert pool.spec.exclude_ips == ("172.18.41.44-172.18.41.47",)
    assert pool.spec.routes == (spiderpool.Route(dst="172.18.42.0/24", gw="172.18.41.1"),)
    assert pool.spec.namespace_affinity is UNSET
    assert pool.metadata.creation_timestamp is None
    assert pool.status is not UNSET
    assert pool.status.allocated_ip_count == 1
    encoded = msgspec.json.decode(msgspec.json.encode(pool))
    assert "vlan" not in encoded["spec"]
    assert encoded["spec"]["excludeIPs"] == ["172.18.41.44-172.18.41.47"]
    assert spiderpool.IP_POOL.from_builtins(encoded) == pool


def test_documented_endpoint_is_read() -> None:
    endpoint = spiderpool.ENDPOINT.from_builtins(yaml.safe_load(ENDPOINT))
    assert endpoint.status is not UNSET
    assert endpoint.status.current.ips[0].ipv4_pool == "ipv4-ippool"
    assert endpoint.status.current.ips[0].ipv6 is UNSET


def test_absent_routes_differ_from_none() -> None:
    """A pool without the field inherits the subnet's routes; an empty list blocks them."""
    absent = spiderpool.SUBNET.from_builtins({"spec": {"subnet": "10.0.0.0/8"}})
    empty = spiderpool.SUBNET.from_builtins({"spec": {"subnet": "10.0.0.0/8", "routes": []}})
    assert absent.spec.routes is UNSET
    assert empty.spec.routes == ()
    assert msgspec.json.encode(empty.spec) == b'{"subnet":"10.0.0.0/8","routes":[]}'


def test_items_of_a_list_are_decoded_one_by_one() -> None:
    page = msgspec.json.decode(
        b'{"metadata":{"resourceVersion":"7","continue":"c"},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":1}}]}',
        type=ObjectList,
    )
    assert (page.metadata.resource_version, page.metadata.continue_) == ("7", "c")
    good, bad = page.items or ()
    assert core.POD.decode(good).name == "a"
    with pytest.raises(msgspec.ValidationError, match=r"\$\.metadata\.name"):
        core.POD.decode(bad)


def test_api_version_and_kind_are_always_written() -> None:
    written = msgspec.to_builtins(nephila.IPNode())
    assert written == {"apiVersion": "nephila.io/v1alpha1", "kind": "IPNode"}


def test_nulls_that_kubernetes_sends_are_read() -> None:
    deployment = core.DEPLOYMENT.decode(
        b'{"spec":{"replicas":null,"template":{"metadata":{"creationTimestamp":null,"labels":null}}},"metadata":{}}'
    )
    assert deployment.spec.replicas is None
    pod = core.POD.decode(b'{"metadata":{"labels":null,"ownerReferences":null},"status":{"podIPs":null}}')
    assert pod.labels == {}
    assert pod.controller is None


def test_controller_is_the_reference_marked_so() -> None:
    pod = core.POD.decode(
        b'{"metadata":{"ownerReferences":[{"kind":"Other","name":"o"},{"kind":"ReplicaSet","name":"r","controller":true}]}}'
    )
    assert pod.controller is not None
    assert pod.controller.name == "r"


def _kept(value: KubeObject, kind: Kind[Any]) -> bool:
    return bool(kind.decode(msgspec.json.encode(value)) == value)


_text = st.text("abc-1", max_size=8)
_slots = st.sampled_from(["0", "0-7,12", "63"])


@given(
    leases=st.lists(
        st.builds(nephila.LeaseEntry, node=_text, node_uid=_text, slots=_slots, epoch=st.integers(0, 2**48))
    ),
    suspect=st.one_of(st.just(""), _slots),
    domain=_text,
)
def test_block_survives_the_wire(leases: list[nephila.LeaseEntry], suspect: str, domain: str) -> None:
    spec = nephila.IPBlockSpec(
        page="10.0.0.0/26", epoch=1, term=0, leases=tuple(leases), suspect=suspect, domain=domain
    )
    assert _kept(nephila.IPBlock(spec=spec), nephila.IP_BLOCK)
