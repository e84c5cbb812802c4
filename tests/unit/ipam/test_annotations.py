import json

import pytest

from ipam.addresses import Family
from ipam.annotations import (
    IPPOOL,
    IPPOOL_NUMBER,
    IPPOOL_RECLAIM,
    IPPOOLS,
    NAMESPACE_POOLS,
    ROUTES,
    SUBNET,
    SUBNETS,
    NicRequest,
    is_pattern,
    parse_ippool,
    parse_ippools,
    parse_namespace_pools,
    parse_pool_number,
    parse_reclaim,
    parse_routes,
    parse_subnet,
    parse_subnets,
)
from ipam.applications import PoolNumber
from ipam.errors import BadAnnotation
from ipam.routes import Route

V4, V6 = Family.V4, Family.V6


def test_ippool_keeps_the_listed_order() -> None:
    assert parse_ippool('{"ipv4":["b","a"],"ipv6":["c"]}') == NicRequest("", {V4: ("b", "a"), V6: ("c",)})


@pytest.mark.parametrize("text", ['{"ipv4":["a"]}', '{"ipv4":["a"],"ipv6":[]}', '{"ipv4":["a"],"ipv6":null}'])
def test_e00009_one_family_alone_is_enough(text: str) -> None:
    assert parse_ippool(text) == NicRequest("", {V4: ("a",)})


def test_a00002_unknown_fields_and_any_letter_case_are_accepted() -> None:
    text = '{"IPv4":["a"],"dst":"x","gw":1,"nics":[]}'
    assert parse_ippool(text).names == {V4: ("a",)}
    (item,) = parse_ippools('[{"Interface":"eth0","IPV6":["a"],"cleanGateway":true}]')
    assert item == NicRequest("eth0", {V6: ("a",)}, clean_gateway=True)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", ""),
        ("{", ""),
        ('{"ipv4":["a"],}', ""),
        ("[]", ""),
        ("null", ""),
        ("{}", ""),
        ('{"ipv4":[]}', ""),
        ('{"ipv4":"a"}', ".ipv4"),
        ('{"ipv4":[1]}', ".ipv4[0]"),
        ('{"ipv4":["a",""]}', ".ipv4[1]"),
        ('{"ipv6":["  "]}', ".ipv6[0]"),
        ('{"ipv4":["a","a"]}', ""),
        ('{"ipv4":["a"],"ipv6":["a"]}', ""),
        ("[" * 100_000, ""),
        ('{"ipv4":[' + "1" * 10_000 + "]}", ""),
    ],
)
def test_a00003_invalid_ippool_is_wrong_input(text: str, field: str) -> None:
    with pytest.raises(BadAnnotation, match="wrong input") as caught:
        parse_ippool(text)
    assert caught.value.field == IPPOOL + field
    assert caught.value.hint


def test_patterns_may_repeat() -> None:
    assert parse_ippool('{"ipv4":["a*","a*"]}').names == {V4: ("a*", "a*")}
    assert [is_pattern(name) for name in ("a*", "a?", "a[1]", "a-1.b")] == [True, True, True, False]


def test_ippools_named_and_unnamed() -> None:
    named = parse_ippools('[{"interface":"eth0","ipv4":["a"],"cleangateway":false},{"interface":"net1","ipv4":["a"]}]')
    assert [(item.interface, item.clean_gateway) for item in named] == [("eth0", False), ("net1", None)]
    unnamed = parse_ippools('[{"ipv4":["a"]},{"ipv4":["b"]}]')
    assert [item.interface for item in unnamed] == ["", ""]


@pytest.mark.parametrize(
    ("text", "gist"),
    [
        ("[]", "list is empty"),
        ('{"ipv4":["a"]}', "not a JSON list"),
        ('[["a"]]', "not a JSON object"),
        ('[{"interface":"eth0","ipv4":["a"]},{"ipv4":["b"]}]', "some items name their interface"),
        ('[{"interface":"eth0","ipv4":["a"]},{"interface":"eth0","ipv4":["b"]}]', "'eth0' is named twice"),
        ('[{"interface":0,"ipv4":["a"]}]', "not a string"),
        ('[{"ipv4":["a"],"cleangateway":"true"}]', "not a boolean"),
        ('[{"interface":"eth0"}]', "names nothing"),
        ('[{"ipv4":["a","a"]}]', "'a' is named twice"),
    ],
)
def test_a00014_invalid_ippools_is_wrong_input(text: str, gist: str) -> None:
    with pytest.raises(BadAnnotation, match=gist) as caught:
        parse_ippools(text)
    assert caught.value.field.startswith(IPPOOLS)


def test_subnets_default_to_eth0() -> None:
    assert parse_subnet('{"ipv4":["s"]}').interface == "eth0"
    assert parse_subnet('{"interface":"net1","ipv6":["s"]}') == NicRequest("net1", {V6: ("s",)})
    listed = parse_subnets('[{"ipv4":["s"],"ipv6":["t"]},{"interface":"net1","ipv4":["u","s"]}]')
    assert [item.interface for item in listed] == ["eth0", "net1"]


@pytest.mark.parametrize(
    ("text", "gist"),
    [
        ("[]", "list is empty"),
        ("x", "not JSON"),
        ('[{"interface":"eth0"}]', "names nothing"),
        ('[{"interface":"eth0","ipv4":[""]}]', "not a name"),
        ('[{"interface":"eth0","ipv4":["s"]},{"interface":"net1","ipv4":["s"]}]', "'s' is named twice"),
        ('[{"ipv4":["s"]},{"interface":"eth0","ipv4":["t"]}]', "'eth0' is named twice"),
    ],
)
def test_invalid_subnets_is_wrong_input(text: str, gist: str) -> None:
    with pytest.raises(BadAnnotation, match=gist) as caught:
        parse_subnets(text)
    assert caught.value.field.startswith(SUBNETS)


def test_invalid_subnet_is_wrong_input() -> None:
    with pytest.raises(BadAnnotation, match="'s' is named twice") as caught:
        parse_subnet('{"ipv4":["s"],"ipv6":["s"]}')
    assert caught.value.field == SUBNET


def test_namespace_pools() -> None:
    v4_key, v6_key = NAMESPACE_POOLS[V4], NAMESPACE_POOLS[V6]
    assert parse_namespace_pools({}) is None
    assert parse_namespace_pools({v4_key: "[]", v6_key: "null"}) is None
    assert parse_namespace_pools({v4_key: '["b","a*"]'}) == {V4: ("b", "a*")}
    assert parse_namespace_pools({v4_key: '["a"]', v6_key: '["b"]'}) == {V4: ("a",), V6: ("b",)}
    for bad in ("", "a", '{"a":1}', '["a","a"]', '[""]'):
        with pytest.raises(BadAnnotation) as caught:
            parse_namespace_pools({v6_key: bad})
        assert caught.value.field.startswith(v6_key)


@pytest.mark.parametrize(
    ("text", "number"), [("5", PoolNumber(fixed=5)), ("0", PoolNumber(fixed=0)), ("+2", PoolNumber(extra=2))]
)
def test_pool_numbers(text: str, number: PoolNumber) -> None:
    assert parse_pool_number(text) == number


@pytest.mark.parametrize("text", ["", "+", "++1", "-1", "1.5", "five", " 1", "²", "1" * 10])
def test_what_is_not_a_number_is_wrong_input(text: str) -> None:
    with pytest.raises(BadAnnotation) as caught:
        parse_pool_number(text)
    assert caught.value.field == IPPOOL_NUMBER


def test_reclaim_takes_gos_boolean_words() -> None:
    assert [parse_reclaim(word) for word in ("1", "t", "True", "0", "F", "false")] == [True] * 3 + [False] * 3
    with pytest.raises(BadAnnotation) as caught:
        parse_reclaim("yes")
    assert caught.value.field == IPPOOL_RECLAIM


def test_routes_of_both_families() -> None:
    text = json.dumps([{"dst": "10.0.0.0/16", "gw": "192.168.1.1"}, {"dst": "fd00::/8", "gw": "fd01::1"}])
    assert parse_routes(text) == (Route.parse("10.0.0.0/16", "192.168.1.1"), Route.parse("fd00::/8", "fd01::1"))
    assert parse_routes("[]") == ()


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"dst": "10.0.0.1", "gw": "192.168.1.1"}, "dst"),
        ({"dst": "10.0.0.0/16", "gw": "fd00::1"}, "gw"),
        ({"dst": "10.0.0.0/16"}, "gw"),
        ({"dst": 1, "gw": "192.168.1.1"}, "dst"),
    ],
)
def test_a_bad_route_is_wrong_input_with_its_field(item: object, field: str) -> None:
    with pytest.raises(BadAnnotation, match="wrong input") as caught:
        parse_routes(json.dumps([item]))
    assert caught.value.field == f"{ROUTES}[0].{field}"
