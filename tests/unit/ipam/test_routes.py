import pytest

from ipam.addresses import Address, Network
from ipam.errors import BadValue
from ipam.routes import Route, default_route, result_routes, route_problems

SUBNET = Network.parse("10.6.0.0/16")
GATEWAY = Address.parse("10.6.0.1")


def route(dst: str, gw: str) -> Route:
    return Route.parse(dst, gw)


@pytest.mark.parametrize(
    ("dst", "gw", "field"),
    [
        ("10.0.0.0", "10.6.0.1", "dst"),
        ("10.0.0.1/8", "10.6.0.1", "dst"),
        ("10.0.0.0/8", "router", "gw"),
        ("10.0.0.0/8", "fd00::1", "gw"),
    ],
)
def test_a_malformed_route_names_its_field(dst: str, gw: str, field: str) -> None:
    with pytest.raises(BadValue) as caught:
        route(dst, gw)
    assert caught.value.field == field


def test_a00011_the_gateway_is_the_default_route_unless_cleaned() -> None:
    assert result_routes(SUBNET, gateway=GATEWAY, clean_gateway=False) == (route("0.0.0.0/0", "10.6.0.1"),)
    assert result_routes(SUBNET, gateway=GATEWAY, clean_gateway=True) == ()
    assert result_routes(SUBNET, gateway=None, clean_gateway=False) == ()
    assert str(default_route(Address.parse("fd00::1"))) == "::/0 via fd00::1"


def test_precedence_is_subnet_then_pool_then_application() -> None:
    dst = "172.16.0.0/12"
    got = result_routes(
        SUBNET,
        gateway=None,
        clean_gateway=False,
        subnet_routes=[route(dst, "10.6.0.2"), route("192.168.0.0/24", "10.6.0.2")],
        pool_routes=[route(dst, "10.6.0.3"), route("192.168.1.0/24", "10.6.0.3")],
        pod_routes=[route(dst, "10.6.0.4"), route("192.168.2.0/24", "10.6.0.4")],
    )
    assert [str(item) for item in got] == [
        "172.16.0.0/12 via 10.6.0.4",
        "192.168.0.0/24 via 10.6.0.2",
        "192.168.1.0/24 via 10.6.0.3",
        "192.168.2.0/24 via 10.6.0.4",
    ]


def test_pod_routes_by_way_of_another_subnet_are_left_to_that_interface() -> None:
    got = result_routes(
        SUBNET,
        gateway=None,
        clean_gateway=False,
        pod_routes=[route("172.16.0.0/12", "192.168.1.1"), route("fd00::/8", "fd01::1")],
    )
    assert got == ()


def test_a_pods_own_default_route_wins_over_the_gateway_and_over_cleaning() -> None:
    own = route("0.0.0.0/0", "10.6.0.254")
    for clean in (False, True):
        assert result_routes(SUBNET, gateway=GATEWAY, clean_gateway=clean, pod_routes=[own]) == (own,)


def test_d00003_wrong_routes_of_an_object_are_all_named() -> None:
    problems = route_problems(
        [
            route("0.0.0.0/0", "10.6.0.1"),
            route("172.16.0.0/12", "10.7.0.1"),
            route("172.16.0.0/12", "10.6.0.1"),
            route("fd00::/8", "fd01::1"),
            route("192.168.0.0/16", "10.6.0.1"),
        ],
        SUBNET,
    )
    assert [(problem.field, problem.fix) for problem in problems] == [
        ("spec.routes[0].dst", "specify gateway instead"),
        ("spec.routes[1].gw", "name a router inside it"),
        ("spec.routes[2].dst", "keep one of the two"),
        ("spec.routes[3].dst", "remove it"),
        ("spec.routes[3].gw", "name a router inside it"),
    ]
