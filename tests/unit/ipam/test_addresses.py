import pytest

from ipam.addresses import Address, Family, Network
from ipam.errors import BadValue


def test_families_know_their_sizes() -> None:
    assert (Family.V4.bits, Family.V6.bits) == (32, 128)
    assert Family.V4.page_bits == Family.V6.page_bits == 6
    assert Family(4) is Family.V4
    assert Address(Family.V6, Family.V6.limit) == Address.parse("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0",
        "10.0.0.256",
        "10.0.0.05",
        " 10.0.0.5",
        "10.0.0.5 ",
        "10.0.0.5/24",
        "١٠.0.0.1",
        "fe80::1%eth0",
        "fd00::1::2",
        "fd00:::1",
        "12345::",
        "example",
    ],
)
def test_what_is_not_an_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadValue) as caught:
        Address.parse(text)
    assert repr(text) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),  # RFC 5952 4.2.3: the first of two equal runs
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),  # 4.2.2: one zero group is not shortened
        ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),  # 4.2.3: the longer run
        ("0:0:0:0:0:0:0:0", "::"),
        ("::ffff:10.0.0.1", "::ffff:a00:1"),
        ("fd00:0:0:0:0:0:0:0", "fd00::"),
        ("10.0.0.5", "10.0.0.5"),
    ],
)
def test_text_is_canonical(text: str, canonical: str) -> None:
    assert str(Address.parse(text)) == canonical


def test_addresses_sort_by_family_then_value() -> None:
    texts = ["fd00::1", "10.0.0.10", "10.0.0.9", "::1"]
    assert [str(a) for a in sorted(map(Address.parse, texts))] == ["10.0.0.9", "10.0.0.10", "::1", "fd00::1"]


@pytest.mark.parametrize(
    ("text", "gist"),
    [
        ("10.0.0.0", "not a CIDR"),
        ("10.0.0.0/", "not a CIDR"),
        ("10.0.0.0/016", "not a CIDR"),
        ("10.0.0.0/255.255.0.0", "not a CIDR"),
        ("10.0.0.0/+8", "not a CIDR"),
        ("10.0.0.0/²", "not a CIDR"),
        ("10.0.0/16", "not an IP address"),
        ("10.0.0.0/33", "longer than 32"),
        ("fd00::/129", "longer than 128"),
        ("10.0.0.0/" + "9" * 5000, "longer than 32"),
    ],
)
def test_what_is_not_a_cidr_is_refused(text: str, gist: str) -> None:
    with pytest.raises(BadValue, match=gist):
        Network.parse(text)


def test_a_cidr_with_host_bits_is_refused_with_its_network_form() -> None:
    with pytest.raises(BadValue, match="host bits") as caught:
        Network.parse("10.0.0.1/16")
    assert "10.0.0.0/16" in caught.value.hint


def test_network_holds_its_addresses_only() -> None:
    network = Network.parse("10.0.1.0/24")
    assert Address.parse("10.0.1.0") in network
    assert Address.parse("10.0.1.255") in network
    assert Address.parse("10.0.2.0") not in network
    assert Address(Family.V6, network.base) not in network
    assert network.interface(Address.parse("10.0.1.5")) == "10.0.1.5/24"


def test_network_of_everything_and_of_one_address() -> None:
    everything, one = Network.parse("0.0.0.0/0"), Network.parse("10.0.0.1/32")
    assert everything.is_default
    assert not one.is_default
    assert everything.covers(one)
    assert everything.size == 1 << 32
    assert one.size == 1


def test_label_form_of_a_network() -> None:
    assert Network.parse("172.100.0.0/16").label == "172-100-0-0-16"
    assert Network.parse("fd00:1::/64").label == "fd00-1---64"
