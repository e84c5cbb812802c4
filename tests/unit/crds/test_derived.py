"""Derived fields as one decision for the leader and the webhook: the same merge patch, which the webhook tells as a JSON patch."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds import derived
from crds.admission import json_patch
from crds.spiderpool import FINALIZER, IP_POOL, SUBNET, SpiderIPPool, SpiderSubnet
from e2e.apiserver import patches

NET = "10.1.0.0/24"


def pool(metadata: dict[str, Any] | None = None, **spec: Any) -> SpiderIPPool:
    return IP_POOL.from_builtins({"metadata": {"name": "p", **(metadata or {})}, "spec": {"subnet": NET, **spec}})


def subnet(**spec: Any) -> SpiderSubnet:
    return SUBNET.from_builtins({"metadata": {"name": "s4", "uid": "u"}, "spec": {"subnet": NET, **spec}})


@pytest.mark.parametrize(
    ("items", "merged"),
    [
        (["10.1.0.9", "10.1.0.1-10.1.0.5", "10.1.0.6"], ["10.1.0.1-10.1.0.6", "10.1.0.9"]),
        (["10.1.0.1", "10.1.0.1"], ["10.1.0.1"]),
        (["10.1.0.1-10.1.0.5", "10.1.0.9"], None),
        (["10.1.0.5-10.1.0.5"], None),  # as Spiderpool: a single item stays as it was written
        (["10.1.0.5", "nonsense"], None),
    ],
)
def test_ranges_are_merged_where_there_are_several(items: list[str], merged: list[str] | None) -> None:
    for name in ("ips", "excludeIPs"):
        spec: dict[str, Any] = {name: items}
        assert derived.of_pool(pool(None, **spec), None)["spec"].get(name) == merged
        assert derived.of_subnet(subnet(**spec), is_used=False)["spec"].get(name) == merged


def test_a_pool_inherits_what_it_does_not_say_once() -> None:
    routes = [{"dst": "10.9.0.0/16", "gw": "10.1.0.2"}]
    owner = subnet(gateway="10.1.0.1", routes=routes)
    changes = derived.of_pool(pool(), owner)
    assert changes["spec"] == {"ipVersion": 4, "gateway": "10.1.0.1", "routes": routes}
    assert changes["metadata"]["finalizers"] == [FINALIZER]
    assert changes["metadata"]["labels"] == {
        derived.POOL_CIDR: "10-1-0-0-24",
        "ipam.spidernet.io/owner-spider-subnet": "s4",
    }
    assert changes["metadata"]["ownerReferences"][0]["uid"] == "u"
    said = derived.of_pool(pool(gateway="10.1.0.9", routes=[], ipVersion=4), owner)
    assert "spec" not in said
    seen = pool({"labels": changes["metadata"]["labels"], "finalizers": [FINALIZER]}, ipVersion=4)
    assert derived.of_pool(seen, owner) == {}


def test_what_is_being_deleted_or_cannot_be_read_is_left_alone() -> None:
    gone = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["other"]}
    assert derived.of_pool(pool(gone, ips=["10.1.0.2", "10.1.0.1"]), subnet()) == {}
    broken = IP_POOL.from_builtins({"metadata": {"name": "p"}, "spec": {"subnet": "10.1.0.1/24"}})
    assert derived.of_pool(broken, None) == {}


texts = st.text("ab/~", max_size=3)
values = st.recursive(
    st.none() | st.booleans() | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=3),
)
objects = st.dictionaries(texts, values, max_size=4)
# What a patch of ours holds: no null inside a new part.
changes = st.recursive(
    st.booleans() | texts | st.lists(texts, max_size=2),
    lambda inner: st.dictionaries(texts, inner, min_size=1, max_size=3),
)


@given(objects, st.dictionaries(texts, st.none() | changes, max_size=4))
def test_the_json_patch_does_what_the_merge_patch_does(present: dict[str, Any], merge: dict[str, Any]) -> None:
    assert patches.json_patch(present, json_patch(present, merge)) == patches.merge(present, merge)
