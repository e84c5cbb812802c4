"""Frames field by field against the RFCs, with offsets written out here, independent of scapy; and hostile bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.addresses import Address, Family
from probes import codec
from probes.acd import arp_announcement, arp_probe
from probes.announce import unsolicited_advertisement
from probes.dad import nd_probe
from probes.macs import mac_bytes
from probes.messages import Advertisement, Arp, Message, Solicitation, signs
from tests.unit.probes.wire import NONCE, OURS, THEIRS, V4, V4B, V6, V6B, advertisement, reply, request

MAC = mac_bytes(OURS)
V4_BYTES = V4.value.to_bytes(4, "big")
V6_BYTES = V6.value.to_bytes(16, "big")

MESSAGES: list[Message] = [
    arp_probe(V4, OURS),
    arp_probe(V4, OURS, vlan=7),
    arp_announcement(V4, OURS),
    reply(V4, THEIRS),
    request(V4, THEIRS),
    nd_probe(V6, OURS, NONCE),
    nd_probe(V6, OURS, NONCE, vlan=4094),
    Solicitation(V6B, V6, OURS, link_mac=OURS),
    Solicitation(V6B, V6, OURS, nonce=NONCE, link_mac=OURS),
    unsolicited_advertisement(V6, OURS),
    unsolicited_advertisement(V6, OURS, vlan=7),
    Advertisement(V6, V6, THEIRS, router=True),
]


def checksum(frame: bytes, start: int = 14) -> int:
    """RFC 1071 sum over the pseudo header of RFC 8200 section 8.1 and the ICMPv6 packet; 0xffff if the checksum is right."""
    body = frame[start + 40 :]
    data = frame[start + 8 : start + 40] + len(body).to_bytes(4, "big") + bytes([0, 0, 0, 58]) + body
    total = sum(int.from_bytes(data[index : index + 2], "big") for index in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_an_arp_probe_is_rfc_5227_section_1_1_field_by_field() -> None:
    frame = codec.encode(arp_probe(V4, OURS))
    assert len(frame) == 42
    assert frame[0:6] == b"\xff" * 6  # broadcast
    assert frame[6:12] == MAC
    assert frame[12:14] == b"\x08\x06"
    assert frame[14:16] == b"\x00\x01"  # Ethernet
    assert frame[16:18] == b"\x08\x00"  # IPv4
    assert frame[18:20] == b"\x06\x04"
    assert frame[20:22] == b"\x00\x01"  # request
    assert frame[22:28] == MAC  # sender hardware address
    assert frame[28:32] == b"\0\0\0\0"  # sender IP address: all zero, MUST
    assert frame[32:38] == b"\0" * 6  # target hardware address: ignored, SHOULD be zero
    assert frame[38:42] == V4_BYTES


def test_an_arp_announcement_is_section_2_3() -> None:
    frame = codec.encode(arp_announcement(V4, OURS))
    assert frame[:12] == b"\xff" * 6 + MAC
    assert frame[20:22] == b"\x00\x01"  # a request, not a gratuitous reply (section 3)
    assert frame[22:28] == MAC
    assert frame[28:32] == frame[38:42] == V4_BYTES  # both the new address


def test_a_dad_solicitation_is_rfc_4862_section_5_4_2_with_the_nonce_of_rfc_7527() -> None:
    frame = codec.encode(nd_probe(V6, OURS, NONCE))
    assert frame[0:6] == b"\x33\x33\xff" + V6_BYTES[-3:]  # RFC 2464 section 7
    assert frame[6:12] == MAC
    assert frame[12:14] == b"\x86\xdd"
    assert frame[14] >> 4 == 6
    assert frame[18:20] == (32).to_bytes(2, "big")  # payload length
    assert frame[20] == 58
    assert frame[21] == 255
    assert frame[22:38] == b"\0" * 16  # source: unspecified
    assert frame[38:54] == bytes.fromhex("ff0200000000000000000001ff") + V6_BYTES[-3:]
    assert frame[54:56] == b"\x87\x00"  # 135, code 0
    assert checksum(frame) == 0xFFFF
    assert frame[58:62] == b"\0" * 4
    assert frame[62:78] == V6_BYTES
    assert frame[78:80] == b"\x0e\x01"  # nonce option, 8 bytes; no source link-layer option is allowed here
    assert frame[80:86] == NONCE
    assert len(frame) == 86


def test_an_unsolicited_advertisement_is_rfc_4861_section_7_2_6() -> None:
    frame = codec.encode(unsolicited_advertisement(V6, OURS))
    assert frame[0:6] == bytes.fromhex("333300000001")
    assert frame[21] == 255
    assert frame[22:38] == V6_BYTES  # an address of the interface
    assert frame[38:54] == bytes.fromhex("ff020000000000000000000000000001")
    assert frame[54:56] == b"\x88\x00"
    assert frame[58:62] == b"\x20\0\0\0"  # Override alone
    assert frame[62:78] == V6_BYTES
    assert frame[78:80] == b"\x02\x01"  # target link-layer address
    assert frame[80:86] == MAC
    assert checksum(frame) == 0xFFFF


def test_a_vlan_tag_is_8021q() -> None:
    frame = codec.encode(arp_probe(V4, OURS, vlan=100))
    assert frame[12:18] == bytes.fromhex("8100 0064 0806")
    plain = codec.encode(arp_probe(V4, OURS))
    assert frame[18:] == plain[14:]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_encoded_is_decoded_with_or_without_padding(message: Message) -> None:
    frame = codec.encode(message)
    assert codec.decode(frame) == message
    assert codec.decode(frame + bytes(22)) == message  # short frames are padded on the wire


@given(value=st.integers(1, (1 << 128) - 1), nonce=st.binary(min_size=6, max_size=6), vlan=st.sampled_from([0, 5]))
def test_a_copied_probe_equals_the_one_scapy_builds(value: int, nonce: bytes, vlan: int) -> None:
    six = nd_probe(Address(Family.V6, value), OURS, nonce, vlan)
    assert codec.encode(six) == codec.build(six)
    four = arp_probe(Address(Family.V4, value & 0xFFFFFFFF), OURS, vlan)
    assert codec.encode(four) == codec.build(four)
    told = replace(four, sender=four.target, operation=2)
    assert codec.encode(told) == codec.build(told)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_glimpse_says_the_same_as_the_message(message: Message) -> None:
    seen = codec.glimpse(codec.encode(message))
    (sign,) = signs(message)
    assert seen is not None
    assert (seen.address, seen.probing, seen.vlan) == (sign.address, sign.how.is_probe, message.vlan)
    assert seen.mac == sign.mac


def test_a_tag_that_the_kernel_lifted_is_the_vlan() -> None:
    frame = codec.encode(arp_probe(V4, OURS))
    assert codec.decode(frame, vlan=30) == arp_probe(V4, OURS, vlan=30)


def test_frames_with_two_tags_belong_to_another_network() -> None:
    assert codec.decode(codec.encode(arp_probe(V4, OURS, vlan=7)), vlan=30) is None
    twice = codec.encode(arp_probe(V4, OURS, vlan=7))
    assert codec.decode(twice[:12] + bytes.fromhex("88a8 0005") + twice[12:]) is None


def test_a_priority_tag_is_the_untagged_network() -> None:
    frame = codec.encode(arp_probe(V4, OURS))
    assert codec.decode(frame[:12] + bytes.fromhex("8100 e000") + frame[12:]) == arp_probe(V4, OURS)


def with_checksum(frame: bytes) -> bytes:
    zeroed = frame[:56] + b"\0\0" + frame[58:]
    return zeroed[:56] + (0xFFFF - checksum(zeroed)).to_bytes(2, "big") + zeroed[58:]


def patched(frame: bytes, at: int, value: bytes) -> bytes:
    return with_checksum(frame[:at] + value + frame[at + len(value) :])


NS = codec.encode(Solicitation(V6B, V6, OURS, link_mac=OURS))
NA = codec.encode(advertisement(V6, THEIRS))
DAD = codec.encode(nd_probe(V6, OURS, NONCE))


@pytest.mark.parametrize(
    ("why", "frame"),
    [
        ("hop limit below 255 came from beyond the link", patched(NA, 21, b"\xfe")),
        ("code must be 0", patched(NA, 55, b"\x01")),
        ("wrong checksum", NA[:56] + b"\x12\x34" + NA[58:]),
        ("multicast target", patched(NA, 62, b"\xff")),
        ("option of length 0", patched(NA, 79, b"\x00")),
        ("option longer than the packet", patched(NA, 79, b"\x02")),
        ("payload length beyond the frame", patched(NA, 18, b"\x00\x40")),
        ("solicited advertisement to a group", patched(NA, 58, b"\x60")),
        ("DAD to another group", patched(DAD, 38, bytes.fromhex("ff020000000000000000000000000001"))),
        ("DAD with a source link-layer option", patched(DAD, 78, b"\x01")),
        ("router advertisement", patched(NA, 54, b"\x86")),
        ("ARP for another network protocol", codec.encode(arp_probe(V4, OURS))[:16] + b"\x88\x88" + bytes(24)),
        ("reverse ARP", codec.encode(arp_probe(V4, OURS))[:21] + b"\x03" + bytes(20)),
        ("empty", b""),
    ],
)
def test_invalid_packets_are_discarded(why: str, frame: bytes) -> None:
    assert codec.decode(frame) is None, why


def test_the_helper_that_spoils_packets_keeps_good_ones_good() -> None:
    assert codec.decode(patched(NS, 58, b"\0")) == Solicitation(V6B, V6, OURS, link_mac=OURS)


@given(st.binary(max_size=200))
def test_noise_never_raises(frame: bytes) -> None:
    codec.glimpse(frame)
    codec.decode(frame)


@given(
    st.sampled_from(MESSAGES),
    st.integers(0, 120),
    st.lists(st.tuples(st.integers(0, 89), st.integers(0, 255)), max_size=6),
)
def test_spoilt_frames_never_raise_and_never_lie_about_their_length(
    message: Message, cut: int, changes: list[tuple[int, int]]
) -> None:
    frame = bytearray(codec.encode(message))
    for at, value in changes:
        if at < len(frame):
            frame[at] = value
    decoded = codec.decode(bytes(frame[:cut]))
    assert decoded is None or isinstance(decoded, (Arp, Solicitation, Advertisement))


def test_truncated_frames_say_nothing() -> None:
    for message in MESSAGES:
        frame = codec.encode(message)
        assert all(codec.decode(frame[:cut]) is None for cut in range(len(frame)))


def test_target_of_v4_request_is_not_reported_as_used() -> None:
    (sign,) = signs(request(V4, THEIRS, target=V4B))
    assert sign.address == V4


def test_importing_the_codec_is_lean_and_leaves_no_trace(tmp_path: Path) -> None:
    script = (
        "import sys, os; before = dict(os.environ); import probes.codec;"
        "from scapy.data import MANUFDB;"
        "print(len(MANUFDB.d), 'cryptography' in sys.modules, before == dict(os.environ));"
        "import cryptography; import scapy.libs.manuf as m; print(len(m.DATA) > 1000)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=os.environ | {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["0", "False", "True", "True"]
    assert list(tmp_path.iterdir()) == []
