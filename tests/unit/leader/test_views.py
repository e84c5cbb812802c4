"""What the leader keeps of a pod: little, and enough of those that ask for a SpiderSubnet."""

from __future__ import annotations

import json

from leader.views import POD_VIEW, PodView


def seen(annotations: dict[str, str]) -> PodView:
    owner = {
        "apiVersion": "apps.kruise.io/v1alpha1",
        "kind": "CloneSet",
        "name": "game",
        "uid": "u",
        "controller": True,
    }
    metadata = {
        "name": "p",
        "namespace": "default",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "ownerReferences": [owner],
        "annotations": annotations,
    }
    return POD_VIEW.decode(json.dumps({"metadata": metadata, "spec": {}, "status": {}}))


def test_of_a_pod_that_asks_for_nothing_no_owner_and_no_annotation_is_kept() -> None:
    pod = POD_VIEW.decode(
        json.dumps({"metadata": {"name": "p", "annotations": {"a": "b", "ipam.spidernet.io/ippool": "{}"}}})
    )
    assert pod.metadata.annotations is None and pod.notes == {}
    kept = seen({"k8s.v1.cni.cncf.io/network-status": "x" * 1000}).metadata
    assert (kept.owner_references, kept.creation_timestamp) == (None, None)


def test_of_one_that_asks_for_a_subnet_what_the_pool_needs_is_kept() -> None:
    pod = seen({"ipam.spidernet.io/subnet": "{}", "ipam.spidernet.io/ippool-ip-number": "3", "other": "x"})
    assert pod.notes == {"ipam.spidernet.io/subnet": "{}", "ipam.spidernet.io/ippool-ip-number": "3"}
    assert pod.metadata.owner_references and pod.metadata.owner_references[0].name == "game"
