"""Text round trips, and agreement with the standard library's `ipaddress`."""

import ipaddress

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipam.addresses import Address, Family, Network

quick = settings(max_examples=200, deadline=None)

# IPv6 addresses with runs of zero groups, which random integers hardly ever have.
sparse_v6 = st.lists(st.sampled_from([0, 0, 0, 1, 0xAB, 0xFFFF]), min_size=8, max_size=8).map(
    lambda groups: sum(group << 16 * index for index, group in enumerate(groups))
)
addresses = st.one_of(
    st.builds(Address, st.just(Family.V4), st.integers(0, Family.V4.limit)),
    st.builds(Address, st.just(Family.V6), st.one_of(sparse_v6, st.integers(0, Family.V6.limit))),
)


@quick
@given(addresses)
@example(Address(Family.V6, 0))
@example(Address(Family.V6, 1))
@example(Address(Family.V6, 0x0001_0000_0000_0001_0000_0000_0000_0001))
@example(Address(Family.V6, 0x0001_0000_0001_0001_0001_0000_0001_0001))
def test_address_text_is_canonical_and_reads_back(address: Address) -> None:
    text = str(address)
    assert text == str(ipaddress.ip_address(text))
    assert Address.parse(text) == address


@quick
@given(st.integers(0, Family.V6.limit))
def test_any_spelling_of_an_address_is_the_same_address(value: int) -> None:
    spelled = ipaddress.IPv6Address(value)
    assert Address.parse(spelled.exploded.upper()) == Address.parse(str(spelled)) == Address(Family.V6, value)


@quick
@given(addresses, st.data())
def test_network_text_reads_back(address: Address, data: st.DataObject) -> None:
    network = Network.around(address, data.draw(st.integers(0, address.family.bits)))
    assert Network.parse(str(network)) == network
    assert address in network
    standard = ipaddress.ip_network(str(network))
    assert (network.first, network.last, network.size) == (
        int(standard.network_address),
        int(standard.broadcast_address),
        standard.num_addresses,
    )


@quick
@given(addresses, addresses, st.data())
def test_covers_and_overlaps_agree_with_ipaddress(a: Address, b: Address, data: st.DataObject) -> None:
    wide = Network.around(a, data.draw(st.integers(0, a.family.bits)))
    other = Network.around(b, data.draw(st.integers(0, b.family.bits)))
    if a.family is not b.family:
        assert not wide.overlaps(other)
        assert not wide.covers(other)
        return
    x, y = ipaddress.ip_network(str(wide)), ipaddress.ip_network(str(other))
    assert wide.overlaps(other) == x.overlaps(y)
    assert wide.covers(other) == (
        int(x.network_address) <= int(y.network_address) and x.overlaps(y) and x.prefixlen <= y.prefixlen
    )
