from collections.abc import Mapping

import pytest

from ipam.errors import BadValue
from ipam.selectors import LabelSelector, Operator, Requirement


def selector(**raw: object) -> LabelSelector:
    parsed = LabelSelector.parse(raw, "spec.podAffinity")
    assert parsed is not None
    return parsed


def test_absent_is_not_set_and_empty_matches_everything() -> None:
    assert LabelSelector.parse(None, "f") is None
    empty = selector()
    assert empty.is_empty
    assert empty.matches({})
    assert empty.matches({"a": "b"})
    assert selector(matchLabels=None, matchExpressions=None) == empty


@pytest.mark.parametrize(
    ("operator", "values", "labels", "matches"),
    [
        ("In", ["a", "b"], {"k": "a"}, True),
        ("In", ["a", "b"], {"k": "c"}, False),
        ("In", ["a"], {}, False),
        ("NotIn", ["a"], {"k": "a"}, False),
        ("NotIn", ["a"], {"k": "b"}, True),
        ("NotIn", ["a"], {}, True),
        ("Exists", [], {"k": ""}, True),
        ("Exists", [], {}, False),
        ("DoesNotExist", None, {}, True),
        ("DoesNotExist", [], {"k": "a"}, False),
    ],
)
def test_operators(operator: str, values: object, labels: Mapping[str, str], *, matches: bool) -> None:
    expression = {"key": "k", "operator": operator, "values": values}
    assert selector(matchExpressions=[expression]).matches(labels) is matches


def test_all_parts_must_hold() -> None:
    both = selector(matchLabels={"a": "1", "b": "2"}, matchExpressions=[{"key": "c", "operator": "Exists"}])
    assert both.matches({"a": "1", "b": "2", "c": "x", "d": "y"})
    assert not both.matches({"a": "1", "b": "2"})
    assert not both.matches({"a": "1", "b": "3", "c": "x"})
    assert not both.is_empty


def test_equal_content_is_an_equal_value() -> None:
    assert LabelSelector.of({"a": "1", "b": "2"}) == LabelSelector.of({"b": "2", "a": "1"})
    assert Requirement("k", Operator.IN, frozenset("ab")) == Requirement("k", Operator.IN, frozenset("ba"))


def test_text_form() -> None:
    text = str(
        selector(matchLabels={"a": "1"}, matchExpressions=[{"key": "k", "operator": "In", "values": ["y", "x"]}])
    )
    assert text == "a=1, k In (x, y)"
    assert str(Requirement("k", Operator.EXISTS)) == "k Exists"


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ([], "sel"),
        ("x", "sel"),
        ({"matchLabels": []}, "sel.matchLabels"),
        ({"matchLabels": {"a": 1}}, "sel.matchLabels[a]"),
        ({"matchLabels": {"bad key": "x"}}, "sel.matchLabels[bad key]"),
        ({"matchLabels": {"-a": "x"}}, "sel.matchLabels[-a]"),
        ({"matchLabels": {"/a": "x"}}, "sel.matchLabels[/a]"),
        ({"matchLabels": {"Upper.io/a": "x"}}, "sel.matchLabels[Upper.io/a]"),
        ({"matchLabels": {"x" * 254 + "/a": "x"}}, "sel.matchLabels[" + "x" * 254 + "/a]"),
        ({"matchLabels": {"a": "y" * 64}}, "sel.matchLabels[a]"),
        ({"matchLabels": {"a": "y\n"}}, "sel.matchLabels[a]"),
        ({"matchExpressions": {}}, "sel.matchExpressions"),
        ({"matchExpressions": ["x"]}, "sel.matchExpressions[0]"),
        ({"matchExpressions": [{"operator": "Exists"}]}, "sel.matchExpressions[0].key"),
        ({"matchExpressions": [{"key": "a"}]}, "sel.matchExpressions[0].operator"),
        ({"matchExpressions": [{"key": "a", "operator": "Gt"}]}, "sel.matchExpressions[0].operator"),
        ({"matchExpressions": [{"key": "a", "operator": "In"}]}, "sel.matchExpressions[0].values"),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": "x"}]}, "sel.matchExpressions[0].values"),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": [1]}]}, "sel.matchExpressions[0].values"),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["!"]}]}, "sel.matchExpressions[0].values"),
        ({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}, "sel.matchExpressions[0].values"),
    ],
)
def test_invalid_selectors_name_the_field(raw: object, field: str) -> None:
    with pytest.raises(BadValue) as caught:
        LabelSelector.parse(raw, "sel")
    assert caught.value.field == field


def test_prefixed_keys_and_empty_values_are_valid() -> None:
    assert selector(matchLabels={"kubernetes.io/metadata.name": "", "A_b.c": "x-Y_1"}).matches(
        {"kubernetes.io/metadata.name": "", "A_b.c": "x-Y_1"}
    )
