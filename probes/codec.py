"""Frames to messages and back, with scapy; the only module that imports it.

`decode` never raises, whatever the bytes: what is not a valid ARP (RFC 826, Ethernet and IPv4) or neighbour discovery
packet (RFC 4861 section 7.1) is None. scapy needs about 0.1 ms a frame, so callers ask `glimpse` first, which reads
the addresses at their fixed offsets in about a microsecond. IPv6 extension headers before ICMPv6 are not followed: no
stack sends neighbour discovery with them, and RFC 6980 forbids fragments.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ipam.addresses import Address, Family
from probes.macs import canonical_mac
from probes.messages import ANY_V4, ANY_V6, Advertisement, Arp, Message, Solicitation
from probes.scapyimport import lean_scapy

with lean_scapy():
    from scapy.layers.inet6 import (
        ICMPv6ND_NA,
        ICMPv6ND_NS,
        ICMPv6NDOptDstLLAddr,
        ICMPv6NDOptSrcLLAddr,
        ICMPv6NDOptUnknown,
        IPv6,
        in6_chksum,
    )
    from scapy.layers.l2 import ARP, Dot1Q, Ether
    from scapy.packet import NoPayload, Padding

_ARP = 0x0806
_IPV6 = 0x86DD
_TAGS = (0x8100, 0x88A8)
_SOLICITATION, _ADVERTISEMENT = 135, 136
_ICMPV6 = 58
_OVERRIDE = 0x20  # RFC 4861 section 4.4
_NONCE_OPTION = 14  # RFC 3971 section 5.3
_ALL_NODES = Address(Family.V6, 0xFF02 << 112 | 1)
_MAX_OPTIONS = 16
_SHORTEST = 14 + 28
_ARP_HEAD = bytes.fromhex("00010800060400")  # Ethernet, IPv4, their lengths, and the operation's high byte
_SHORTEST_TAIL = {_ARP: 28, _IPV6: 40 + 24}


def solicited_node(target: Address) -> Address:
    """The solicited-node group of `target`: ff02::1:ff00:0/104 and its last 24 bits (RFC 4291 section 2.7.1)."""
    return Address(Family.V6, 0xFF02 << 112 | 0x1FF << 24 | target.value & 0xFFFFFF)


def group_mac(group: Address) -> str:
    """The Ethernet address of an IPv6 group: 33:33 and its last 32 bits (RFC 2464 section 7)."""
    return f"33:33:{(group.value & 0xFFFFFFFF).to_bytes(4, 'big').hex(':')}"


def encode(message: Message) -> bytes:
    """The Ethernet frame of `message`, without padding.

    Probes differ only in their addresses, and a batch has hundreds: scapy builds one frame of each shape, later ones
    are copies with other addresses (3 µs instead of 300), so a batch never holds the event loop.
    """
    if isinstance(message, Arp):
        frame = bytearray(_shape(replace(message, sender=ANY_V4, target=ANY_V4)))
        frame[-14:-10] = message.sender.value.to_bytes(4, "big")
        frame[-4:] = message.target.value.to_bytes(4, "big")
        return bytes(frame)
    if isinstance(message, Solicitation) and not message.source.value and message.nonce is not None:
        frame = bytearray(_shape(replace(message, target=ANY_V6, nonce=bytes(len(message.nonce)))))
        start = 18 if message.vlan else 14
        target = message.target.value.to_bytes(16, "big")
        frame[3:6] = frame[start + 37 : start + 40] = target[-3:]  # both the group and its Ethernet address end like it
        frame[start + 48 : start + 64] = target
        if message.link_mac is None:
            frame[start + 66 : start + 66 + len(message.nonce)] = message.nonce
            return _with_checksum(frame, start)
    return build(message)


@lru_cache(maxsize=256)
def _shape(message: Message) -> bytes:
    return build(message)


def _with_checksum(frame: bytearray, start: int) -> bytes:
    """Fill in the ICMPv6 checksum (RFC 4443 section 2.3) of the packet at `start`."""
    frame[start + 42 : start + 44] = b"\0\0"
    body = frame[start + 40 :]
    total = sum(struct.unpack(f"!{16 + len(body) // 2}H", bytes(frame[start + 8 : start + 40]) + body))
    total += len(body) + _ICMPV6
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    frame[start + 42 : start + 44] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(frame)


def build(message: Message) -> bytes:
    """The same frame as `encode`, all of it made by scapy."""
    if isinstance(message, Arp):
        return bytes(_ether(message, message.destination_mac, _ARP) / _arp(message))
    group = solicited_node(message.target) if isinstance(message, Solicitation) else _ALL_NODES
    network = IPv6(src=str(message.source), dst=str(group), hlim=255, nh=_ICMPV6)
    body = _solicitation(message) if isinstance(message, Solicitation) else _advertisement(message)
    return bytes(_ether(message, group_mac(group), _IPV6) / network / body)


def _ether(message: Message, destination: str, ethertype: int) -> Any:
    if not message.vlan:
        return Ether(src=message.source_mac, dst=destination, type=ethertype)
    return Ether(src=message.source_mac, dst=destination, type=0x8100) / Dot1Q(vlan=message.vlan, type=ethertype)


def _arp(message: Arp) -> Any:
    return ARP(
        hwtype=1,
        ptype=0x0800,
        hwlen=6,
        plen=4,
        op=message.operation,
        hwsrc=message.sender_mac,
        psrc=str(message.sender),
        hwdst=message.target_mac,
        pdst=str(message.target),
    )


def _solicitation(message: Solicitation) -> Any:
    body = ICMPv6ND_NS(tgt=str(message.target))
    if message.link_mac is not None:
        body /= ICMPv6NDOptSrcLLAddr(lladdr=message.link_mac)
    if message.nonce is not None:
        length = (len(message.nonce) + 2 + 7) // 8
        padded = message.nonce.ljust(length * 8 - 2, b"\0")
        body /= ICMPv6NDOptUnknown(type=_NONCE_OPTION, len=length, data=padded)
    return body


def _advertisement(message: Advertisement) -> Any:
    body = ICMPv6ND_NA(
        tgt=str(message.target), R=int(message.router), S=int(message.solicited), O=int(message.override)
    )
    if message.link_mac is not None:
        body /= ICMPv6NDOptDstLLAddr(lladdr=message.link_mac)
    return body


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What a frame says by its fixed fields alone, not validated: `mac` uses `address`, or probes for it.

    `answer`: a proxy could have said it for somebody else, as in `messages.Sign.proxyable`.
    """

    address: Address
    mac: str
    probing: bool
    vlan: int
    answer: bool = False


def glimpse(frame: bytes, vlan: int = 0) -> Glimpse | None:
    """The statement of `frame` without dissecting it, None if it makes none; about a microsecond. Never raises.

    `vlan` is the tag that the kernel lifted out of the frame, 0 if none. The rules are those of `messages.signs`.
    """
    if len(frame) < _SHORTEST:
        return None
    ethertype, start = frame[12] << 8 | frame[13], 14
    if ethertype in _TAGS:
        if vlan:
            return None  # two tags: a frame of another network
        ethertype, start, vlan = frame[16] << 8 | frame[17], 18, (frame[14] << 8 | frame[15]) & 0xFFF
    if len(frame) - start < _SHORTEST_TAIL.get(ethertype, len(frame)):
        return None
    if ethertype == _ARP:
        if frame[start : start + 7] != _ARP_HEAD or frame[start + 7] not in (1, 2):
            return None
        mac = frame[start + 8 : start + 14].hex(":")
        sender = int.from_bytes(frame[start + 14 : start + 18], "big")
        if sender:
            return Glimpse(Address(Family.V4, sender), mac, False, vlan, frame[start + 7] == 2)
        target = int.from_bytes(frame[start + 24 : start + 28], "big")
        return Glimpse(Address(Family.V4, target), mac, True, vlan) if frame[start + 7] == 1 else None
    kind = frame[start + 40]
    if frame[start + 6 : start + 8] != b"\x3a\xff" or kind not in (_SOLICITATION, _ADVERTISEMENT):
        return None
    mac = frame[6:12].hex(":")
    target = int.from_bytes(frame[start + 48 : start + 64], "big")
    source = int.from_bytes(frame[start + 8 : start + 24], "big")
    if kind == _ADVERTISEMENT:
        return Glimpse(Address(Family.V6, target), mac, False, vlan, not frame[start + 44] & _OVERRIDE)
    return Glimpse(Address(Family.V6, source or target), mac, not source, vlan)


def decode(frame: bytes, vlan: int = 0) -> Message | None:
    """The message in `frame`, or None. `vlan` is the tag that the kernel lifted out of the frame, 0 if none."""
    if glimpse(frame, vlan) is None:
        return None
    try:
        return _dissect(Ether(frame), vlan)
    except Exception:  # noqa: BLE001  # hostile bytes in a foreign dissector: no error of it may reach the caller
        return None


def _dissect(ether: Any, vlan: int) -> Message | None:
    packet = ether.payload
    if isinstance(packet, Dot1Q):
        if vlan:
            return None  # two tags: a frame of another network
        vlan, packet = int(packet.vlan), packet.payload
    if isinstance(packet, ARP):
        return _read_arp(ether, packet, vlan)
    if isinstance(packet, IPv6):
        return _read_nd(ether, packet, vlan)
    return None


def _read_arp(ether: Any, arp: Any, vlan: int) -> Arp | None:
    if (arp.hwtype, arp.ptype, arp.hwlen, arp.plen) != (1, 0x0800, 6, 4) or arp.op not in (1, 2):
        return None
    return Arp(
        operation=int(arp.op),
        sender_mac=canonical_mac(arp.hwsrc),
        sender=Address.parse(arp.psrc),
        target=Address.parse(arp.pdst),
        source_mac=canonical_mac(ether.src),
        target_mac=canonical_mac(arp.hwdst),
        destination_mac=canonical_mac(ether.dst),
        vlan=vlan,
    )


def _read_nd(ether: Any, network: Any, vlan: int) -> Message | None:
    body = network.payload
    if network.version != 6 or network.hlim != 255 or not isinstance(body, (ICMPv6ND_NS, ICMPv6ND_NA)) or body.code:
        return None
    raw = bytes(network.original)[40 : 40 + network.plen]
    if len(raw) != network.plen or in6_chksum(_ICMPV6, network, raw):
        return None
    options = _options(body)
    source, group, target = (Address.parse(text) for text in (network.src, network.dst, body.tgt))
    if options is None or target.value >> 120 == 0xFF:
        return None
    if isinstance(body, ICMPv6ND_NA):
        if body.S and group.value >> 120 == 0xFF:
            return None
        return Advertisement(
            source=source,
            target=target,
            source_mac=canonical_mac(ether.src),
            router=bool(body.R),
            solicited=bool(body.S),
            override=bool(body.O),
            link_mac=_link(options.get(2)),
            vlan=vlan,
        )
    if not source.value and (group != solicited_node(target) or 1 in options):
        return None
    return Solicitation(
        source=source,
        target=target,
        source_mac=canonical_mac(ether.src),
        nonce=options.get(_NONCE_OPTION),
        link_mac=_link(options.get(1)),
        vlan=vlan,
    )


def _options(body: Any) -> dict[int, bytes] | None:
    """The first option of each type, without its header; None if one is empty or cut off, which voids the packet."""
    found: dict[int, bytes] = {}
    layer = body.payload
    for _ in range(_MAX_OPTIONS):
        if isinstance(layer, (NoPayload, Padding)):
            return found
        raw = bytes(layer.original)
        kind, length = raw[0], raw[1] * 8
        if not length or len(raw) < length:
            return None
        found.setdefault(kind, raw[2:length])
        layer = layer.payload
    return None


def _link(option: bytes | None) -> str | None:
    return option[:6].hex(":") if option is not None and len(option) >= 6 else None
