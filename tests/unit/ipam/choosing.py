"""Pods and pools for tests of the selection, in one line each."""

import json
from typing import Any

import pytest

from ipam.addresses import Family, Network
from ipam.annotations import IPPOOL
from ipam.applications import AppOwner
from ipam.errors import NoPoolMatches
from ipam.owners import TopOwner
from ipam.pools import Pool
from ipam.ranges import RangeSet
from ipam.selection import Catalog, Features, NicFacts, PodFacts, Selection, select
from ipam.selectors import LabelSelector

V4, V6 = Family.V4, Family.V6
WEB = LabelSelector.of({"app": "web"})
DB = LabelSelector.of({"app": "db"})
DEPLOYMENT = TopOwner("apps/v1", "Deployment", "default", "web", "uid-12345678")
APP = AppOwner.of(DEPLOYMENT)
ETH0 = NicFacts()
DEFAULTS = Features()
SUBNET_MODE = Features(subnets=True, auto_pools=True)


def pool(name: str, subnet: str = "10.6.0.0/16", **more: Any) -> Pool:
    network = Network.parse(subnet)
    empty = RangeSet.empty(network.family)
    return Pool(name, network.family, network, empty, empty, **more)


def pool6(name: str, **more: Any) -> Pool:
    return pool(name, "fd00::/64", **more)


def app_pool(name: str, subnet: str = "10.6.0.0/16", app_interface: str = "eth0", **more: Any) -> Pool:
    return pool(name, subnet, **{"app": APP, "app_interface": app_interface, "owner_subnet": "s4", **more})


def pod(annotations: dict[str, Any] | None = None, **more: Any) -> PodFacts:
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (annotations or {}).items()}
    return PodFacts("default", "web-0", "pod-uid", "n1", annotations=texts, **{"labels": {"app": "web"}, **more})


def by_ippool(*names: str, v6: tuple[str, ...] = (), **more: Any) -> PodFacts:
    return pod({IPPOOL: {"ipv4": names, "ipv6": v6}}, **more)


def chosen(facts: PodFacts, *pools: Pool, nic: NicFacts = ETH0, features: Features = DEFAULTS) -> Selection:
    return select(facts, nic, Catalog(pools), features)


def v4(facts: PodFacts, *pools: Pool, **more: Any) -> tuple[str, ...]:
    return chosen(facts, *pools, **more).candidates[V4]


def why_not(facts: PodFacts, *pools: Pool, **more: Any) -> str:
    """The reason for refusing the only pool."""
    with pytest.raises(NoPoolMatches) as caught:
        chosen(facts, *pools, **more)
    (refusal,) = caught.value.refused
    return refusal.reason
