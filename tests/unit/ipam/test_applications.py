import re

import pytest

from ipam.addresses import Family
from ipam.applications import AppOwner, PoolNumber, foreign_keys, pool_name
from ipam.owners import TopOwner
from ipam.selectors import LabelSelector, Operator, Requirement

OWNER = TopOwner("apps/v1", "Deployment", "default", "test-app", "a7a56e2c-9b1f-4f3e-8d2a-40371ab2c9d0")


def test_pool_name_follows_the_documented_example() -> None:
    assert pool_name(Family.V4, OWNER, "eth0") == "auto4-test-app-eth0-40371"
    assert pool_name(Family.V6, OWNER, "Net1") == "auto6-test-app-net1-40371"


@pytest.mark.parametrize("name", ["x" * 253, "a." * 126 + "a", "a" * 236 + ".-" + "b" * 10])
def test_i00017_long_application_names_give_valid_object_names(name: str) -> None:
    made = pool_name(Family.V4, TopOwner("apps/v1", "Deployment", "d", name, "u-12345678"), "eth0.100")
    assert len(made) <= 253
    assert made.endswith("-eth0.100-12345")
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", part) for part in made.split("."))


def test_application_keys_round_trip_through_the_selector() -> None:
    app = AppOwner.of(OWNER)
    assert app == AppOwner("apps", "v1", "Deployment", "default", "test-app")
    assert AppOwner.from_selector(app.selector()) == app
    assert foreign_keys(app.selector()) == ()
    assert str(app) == "Deployment default/test-app"


def test_an_ordinary_selector_names_no_application() -> None:
    assert AppOwner.from_selector(None) is None
    assert AppOwner.from_selector(LabelSelector.of({"app": "web"})) is None
    assert AppOwner.from_selector(LabelSelector.of({"ipam.spidernet.io/app-name": "web"})) is None


def test_what_an_application_pool_asks_beyond_its_keys() -> None:
    selector = LabelSelector((("tier", "db"),), (Requirement("zone", Operator.EXISTS),))
    assert foreign_keys(selector) == ("tier", "zone Exists")


@pytest.mark.parametrize(
    ("number", "replicas", "wanted"),
    [
        (PoolNumber(fixed=5), 9, 5),
        (PoolNumber(extra=2), 3, 5),
        (PoolNumber(extra=2), 0, 3),
        (PoolNumber(fixed=0), 3, 0),
    ],
)
def test_pool_size(number: PoolNumber, replicas: int, wanted: int) -> None:
    assert number.wanted(replicas) == wanted
