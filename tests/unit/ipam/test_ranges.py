import pytest

from ipam.addresses import Address, Family
from ipam.errors import BadValue
from ipam.ranges import RangeSet


def v4(*items: str) -> RangeSet:
    return RangeSet.parse(Family.V4, items)


def test_items_are_merged_and_sorted() -> None:
    assert v4("10.0.0.9", "10.0.0.1-10.0.0.4", "10.0.0.5", "10.0.0.3").format() == ("10.0.0.1-10.0.0.5", "10.0.0.9")
    assert str(v4("10.0.0.1", "10.0.0.2")) == "10.0.0.1-10.0.0.2"


@pytest.mark.parametrize(
    ("item", "gist", "hint"),
    [
        ("10.0.0.0/30", "is a CIDR", "10.0.0.0-10.0.0.3"),
        ("10.0.0.1/30", "is a CIDR", "10.0.0.5-10.0.0.9"),
        ("10.0.0.9-10.0.0.5", "start is above the end", "10.0.0.5-10.0.0.9"),
        ("10.0.0.5-9", "'9' is not an IP address", "10.0.0.5"),
        ("10.0.0.5-", "'' is not an IP address", "10.0.0.5"),
        ("10.0.0.5 - 10.0.0.9", "not an IP address", "10.0.0.5"),
        ("10.0.0.5-10.0.0.6-10.0.0.7", "not an IP address", "10.0.0.5"),
        ("fd00::5", "not of IPv4", "IPv4"),
        ("10.0.0.5-fd00::5", "not of IPv4", "IPv4"),
    ],
)
def test_a_bad_item_is_named_with_its_index_and_a_cure(item: str, gist: str, hint: str) -> None:
    with pytest.raises(BadValue) as caught:
        v4("10.0.0.1", item)
    assert caught.value.field == "[1]"
    assert gist in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.within("spec.ips").field == "spec.ips[1]"


@pytest.mark.parametrize("span", [(5, 4), (-1, 3), (0, 1 << 32)])
def test_a_span_that_cannot_be_is_a_defect_of_the_caller(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not a span of IPv4"):
        RangeSet.of(Family.V4, [span])


def test_families_do_not_mix() -> None:
    a, b = RangeSet.of(Family.V4, [(1, 2)]), RangeSet.of(Family.V6, [(1, 2)])
    for operation in (a.__or__, a.__and__, a.__sub__):
        with pytest.raises(ValueError, match="do not mix"):
            operation(b)


def test_the_empty_set() -> None:
    empty = RangeSet.empty(Family.V4)
    assert not empty
    assert empty.size == empty.page_count == 0
    assert list(empty) == list(empty.page_bases()) == []
    assert empty.format() == ()
    assert empty.mask(0) == 0
    assert 0 not in empty


@pytest.mark.parametrize("index", [-1, 2])
def test_a_page_that_is_not_there_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError):
        v4("10.0.0.1", "10.0.0.200").page_base(index)


def test_d00017_a_large_ipv6_pool_is_counted_and_paged_without_enumeration() -> None:
    whole = RangeSet.parse(Family.V6, ["fd00::-fd00::ffff:ffff:ffff:ffff"])
    assert whole.size == 1 << 64
    assert whole.page_count == 1 << 58
    assert whole.page_base(1 << 57) == Address.parse("fd00::8000:0:0:0").value
    assert next(whole.page_bases((1 << 58) - 1)) == Address.parse("fd00::ffff:ffff:ffff:ffc0").value
    assert whole.mask(whole.page_base(12345)) == (1 << 64) - 1
    rest = whole - RangeSet.parse(Family.V6, ["fd00::", "fd00::ffff:ffff:ffff:ffff"])
    assert rest.size == (1 << 64) - 2
    assert rest.first(1).format() == ("fd00::1",)


def test_subtracting_up_to_the_last_address_of_the_family() -> None:
    everything = RangeSet.of(Family.V4, [(0, Family.V4.limit)])
    assert (everything - RangeSet.of(Family.V4, [(7, Family.V4.limit)])).spans == ((0, 6),)
    assert not everything - everything


def test_two_spans_on_one_page_count_it_once() -> None:
    ranges = v4("10.0.0.1", "10.0.0.60-10.0.0.70", "10.0.0.100")
    assert ranges.page_count == 2
    assert ranges.mask(ranges.page_base(0)) == 1 << 1 | 0b1111 << 60
    assert ranges.mask(ranges.page_base(1)) == 0b111_1111 | 1 << 36
