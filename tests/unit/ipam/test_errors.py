import pytest

from ipam import errors
from ipam.errors import (
    MAX_DETAILS,
    MAX_MESSAGE,
    BadAnnotation,
    BadValue,
    NephilaError,
    NoPoolMatches,
    NoPoolSelected,
    PoolNotFound,
    Problem,
    Refusal,
    Retry,
)

LEAVES = [
    thing
    for thing in vars(errors).values()
    if isinstance(thing, type) and issubclass(thing, NephilaError) and not thing.__subclasses__()
]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("IncompatibleVersion", 1),
        ("BadEnvironment", 4),
        ("JournalFailed", 5),
        ("BadJson", 6),
        ("BadConfig", 7),
        ("BadValue", 7),
        ("PoolExhausted", 11),
        ("ApiUnreachable", 11),
        ("Fenced", 11),
        ("DeadlineExceeded", 11),
        ("PinnedElsewhere", 11),
        ("GatewayUnreachable", 11),
        ("OwnerMissing", 11),
        ("NotReady", 50),
        ("BadAnnotation", 101),
        ("NoPoolSelected", 110),
        ("NoPoolMatches", 111),
        ("PoolNotFound", 112),
        ("PodGone", 120),
        ("Tombstoned", 121),
        ("CheckFailed", 130),
        ("Internal", 199),
    ],
)
def test_codes_are_fixed(name: str, code: int) -> None:
    assert getattr(errors, name).code == code
    assert getattr(errors, name).reason == name


def test_every_leaf_is_drawn_in_the_tree_with_its_code() -> None:
    drawn = [line.split() for line in (errors.__doc__ or "").splitlines()]
    for leaf in LEAVES:
        assert any(leaf.__name__ in words and str(leaf.code) in words for words in drawn), leaf


def test_reasons_are_unique() -> None:
    reasons = [leaf.reason for leaf in LEAVES]
    assert len(set(reasons)) == len(reasons)


def test_cni_form_carries_reason_hint_and_details() -> None:
    error = errors.PoolExhausted("pool p has no free address", "add addresses", details="10 in use")
    assert error.cni("1.1.0") == {
        "cniVersion": "1.1.0",
        "code": 11,
        "msg": "pool p has no free address",
        "details": "PoolExhausted; hint: add addresses; 10 in use",
    }
    assert errors.Internal("oops").cni("0.4.0")["details"] == "Internal"
    assert str(error) == "pool p has no free address (add addresses)"
    assert str(errors.Internal("oops")) == "oops"


def test_cni_form_is_bounded() -> None:
    answer = errors.Internal("m" * 9999, details="d" * 9999).cni("1.0.0")
    assert len(str(answer["msg"])) == MAX_MESSAGE
    assert len(str(answer["details"])) == MAX_DETAILS


def test_a_field_is_named_from_outside_in() -> None:
    error = BadValue("gw", "is wrong", "write it right", details="long").within("[2]").within("spec.routes")
    assert error.field == "spec.routes[2].gw"
    assert error.message == "spec.routes[2].gw: is wrong"
    assert (error.hint, error.details) == ("write it right", "long")
    assert BadValue("", "is wrong").message == "is wrong"
    assert BadValue("", "is wrong").within("spec.gateway").field == "spec.gateway"


def test_a_bad_annotation_says_wrong_input_once() -> None:
    error = BadAnnotation("ipv4[0]", "not a name").within("ipam.spidernet.io/ippool")
    assert error.message == "wrong input: ipam.spidernet.io/ippool.ipv4[0]: not a name"
    assert str(error) == error.message
    assert isinstance(error, BadAnnotation)


def test_no_pool_matches_carries_every_refusal() -> None:
    refused = (Refusal("a", "it is disabled"), Refusal("b", "it is being deleted"))
    error = NoPoolMatches("none fits", refused=refused)
    assert error.refused == refused
    assert error.details == "a: it is disabled; b: it is being deleted"
    assert NoPoolMatches("none fits", refused=refused, details="other").details == "other"


def test_a_refusal_is_rendered_when_read() -> None:
    refusal = Refusal("a", "node {} of {} is not listed", ("n1", 7))
    assert (refusal.reason, str(refusal)) == ("node n1 of 7 is not listed", "a: node n1 of 7 is not listed")
    assert Refusal("a", "no {} here").reason == "no {} here"


def test_values_read_well() -> None:
    assert "no pool selection rules of any type" in NoPoolSelected().message
    assert PoolNotFound("gone", name="p").name == "p"
    assert str(Problem("spec.ips", "is odd", "fix it")) == "spec.ips: is odd (fix it)"


def test_retry_classes() -> None:
    assert errors.BadConfig("x").retry is Retry.NEVER
    assert errors.PoolExhausted("x").retry is Retry.LATER
    assert errors.DeadlineExceeded("x").retry is Retry.NOW
