"""RangeSet against a naive model: a Python set of integers."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ipam.addresses import Address, Family, Network
from ipam.ranges import PAGE_SIZE, RangeSet

quick = settings(max_examples=150, deadline=None)

# Windows around which sets are drawn: the edges of both families, and a page border in the middle.
WINDOW = 400
origins = st.sampled_from(
    [
        (Family.V4, 0),
        (Family.V4, 0x0A00_0000),
        (Family.V4, Family.V4.limit - WINDOW),
        (Family.V6, 0),
        (Family.V6, 0xFD00 << 112),
        (Family.V6, Family.V6.limit - WINDOW),
    ]
)
raw_spans = st.lists(st.tuples(st.integers(0, WINDOW), st.integers(0, 90)), max_size=8)


@st.composite
def set_pairs(draw: st.DrawFn) -> tuple[tuple[RangeSet, set[int]], tuple[RangeSet, set[int]]]:
    family, origin = draw(origins)

    def one() -> tuple[RangeSet, set[int]]:
        spans = [(origin + low, origin + min(low + length, WINDOW)) for low, length in draw(raw_spans) if low <= WINDOW]
        model = {value for low, high in spans for value in range(low, high + 1)}
        return RangeSet.of(family, spans), model

    return one(), one()


def is_normal(ranges: RangeSet) -> bool:
    ordered = all(low <= high for low, high in ranges.spans)
    apart = all(a[1] + 1 < b[0] for a, b in zip(ranges.spans, ranges.spans[1:], strict=False))
    return ordered and apart


@quick
@given(set_pairs())
def test_behaves_like_a_set_of_integers(pair: tuple[tuple[RangeSet, set[int]], tuple[RangeSet, set[int]]]) -> None:
    (a, model_a), (b, model_b) = pair
    assert list(a) == sorted(model_a)
    assert a.size == len(model_a)
    assert bool(a) == bool(model_a)
    for got, expected in ((a | b, model_a | model_b), (a & b, model_a & model_b), (a - b, model_a - model_b)):
        assert list(got) == sorted(expected)
        assert is_normal(got)
    assert (a == b) == (model_a == model_b)


@quick
@given(set_pairs(), st.integers(-3, WINDOW + 3))
def test_membership_agrees_with_the_model(
    pair: tuple[tuple[RangeSet, set[int]], tuple[RangeSet, set[int]]], offset: int
) -> None:
    (a, model), (b, _) = pair
    probe = min(b.spans[0][0] if b else 0, a.spans[0][0] if a else 0) + offset
    assert (probe in a) == (probe in model)


@quick
@given(set_pairs(), st.integers(-1, WINDOW + 5))
def test_first_takes_the_lowest(pair: tuple[tuple[RangeSet, set[int]], tuple[RangeSet, set[int]]], count: int) -> None:
    (a, model), _ = pair
    assert list(a.first(count)) == sorted(model)[: max(count, 0)]
    assert is_normal(a.first(count))


@quick
@given(set_pairs())
def test_format_and_parse_are_inverse(pair: tuple[tuple[RangeSet, set[int]], tuple[RangeSet, set[int]]]) -> None:
    (a, _), _ = pair
    assert RangeSet.parse(a.family, a.format()) == a


@quick
@given(set_pairs())
def test_pages_cover_the_set_exactly(pair: tuple[tuple[RangeSet, set[int]], tuple[RangeSet, set[int]]]) -> None:
    (a, model), _ = pair
    bases = sorted({value // PAGE_SIZE * PAGE_SIZE for value in model})
    assert a.page_count == len(bases)
    assert [a.page_base(index) for index in range(a.page_count)] == bases
    for start in range(len(bases) + 2):
        assert list(a.page_bases(start)) == bases[start:]
    rebuilt = RangeSet.empty(a.family)
    for base in bases:
        mask = a.mask(base)
        assert {base + slot for slot in range(PAGE_SIZE) if mask >> slot & 1} == {
            value for value in model if base <= value < base + PAGE_SIZE
        }
        rebuilt |= RangeSet.from_mask(a.family, base, mask)
    assert rebuilt == a


@quick
@given(st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 20))
def test_mask_and_from_mask_are_inverse(mask: int, page: int) -> None:
    ranges = RangeSet.from_mask(Family.V4, page * PAGE_SIZE, mask)
    assert is_normal(ranges)
    assert ranges.mask(page * PAGE_SIZE) == mask
    assert ranges.size == mask.bit_count()


@quick
@given(st.integers(0, Family.V6.limit), st.integers(0, 128))
def test_networks_agree_with_their_range_sets(value: int, prefix: int) -> None:
    network = Network.around(Address(Family.V6, value), prefix)
    whole = RangeSet.of_network(network)
    assert whole.size == network.size
    for edge in (network.first - 1, network.first, value, network.last, network.last + 1):
        if 0 <= edge <= Family.V6.limit:
            assert (edge in whole) == (Address(Family.V6, edge) in network)
