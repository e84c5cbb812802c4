"""One interface of a pod gets the default route: the named one, else eth0."""

from __future__ import annotations

import pytest

from ipam.defaultroute import DEFAULT_ROUTE_NIC, lacks_default_route, require_known
from ipam.errors import BadAnnotation
from ipam.facts import NicFacts, PodFacts


def asked(annotations: dict[str, str], interface: str, *, stated: bool | None = None, netconf: bool = False) -> bool:
    pod = PodFacts("default", "p", "u", "n1", annotations=annotations)
    return lacks_default_route(pod, NicFacts(interface, clean_gateway=netconf), stated=stated)


def test_without_the_annotation_eth0_has_it() -> None:
    assert [asked({}, name) for name in ("eth0", "net1", "net2")] == [False, True, True]


def test_an_item_may_ask_for_more_than_one() -> None:
    assert not asked({}, "net1", stated=False)
    assert asked({}, "eth0", stated=True)


def test_the_annotation_beats_what_items_state() -> None:
    chosen = {DEFAULT_ROUTE_NIC: "net1"}
    assert [asked(chosen, name, stated=False) for name in ("eth0", "net1", "net2")] == [True, False, True]


def test_an_interface_that_shall_have_none_gets_none_even_if_chosen() -> None:
    chosen = {DEFAULT_ROUTE_NIC: "net1"}
    assert asked(chosen, "net1", stated=True) and asked(chosen, "net1", netconf=True)


@pytest.mark.parametrize(
    "notes",
    [
        {"k8s.v1.cni.cncf.io/networks": "a,b@data"},
        {"k8s.v1.cni.cncf.io/networks": '[{"name":"b","interface":"data"}]'},
        {"ipam.spidernet.io/ippools": '[{"interface":"data","ipv4":["p"]}]'},
        {"ipam.spidernet.io/subnets": '[{"interface":"data","ipv4":["s"]}]'},
    ],
)
def test_an_interface_is_known_by_any_annotation_that_names_it(notes: dict[str, str]) -> None:
    require_known({DEFAULT_ROUTE_NIC: "data", **notes}, "default", "eth0")
    with pytest.raises(BadAnnotation, match="'net9' does not exist in the pod, which has data, eth0"):
        require_known({DEFAULT_ROUTE_NIC: "net9", **notes}, "default", "eth0")
