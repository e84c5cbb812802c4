"""Shorthand for tests: addresses, MACs and messages."""

from __future__ import annotations

from ipam.addresses import Address
from probes.messages import ANY_V4, ANY_V6, Advertisement, Arp, Solicitation
from probes.profiles import FAST, RFC

OURS, THEIRS, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:99", "02:00:00:00:00:77"
V4, V4B = Address.parse("10.0.0.5"), Address.parse("10.0.0.6")
V6, V6B = Address.parse("fd00::5"), Address.parse("fd00::6")
NONCE, NONCE2 = b"nonce1", b"nonce2"
DRAWS = (0.5, 0.5, 0.5)
FAST_ARP, RFC_ARP, FAST_ND, RFC_ND = FAST.arp, RFC.arp, FAST.nd, RFC.nd


def reply(address: Address, mac: str, to: str = OURS) -> Arp:
    """A holder's answer to a probe."""
    return Arp(2, mac, address, ANY_V4, source_mac=mac, target_mac=to, destination_mac=to)


def request(address: Address, mac: str, target: Address = V4B) -> Arp:
    """A holder looking for somebody else."""
    return Arp(1, mac, address, target, source_mac=mac)


def probe(address: Address, mac: str) -> Arp:
    return Arp(1, mac, ANY_V4, address, source_mac=mac)


def advertisement(address: Address, mac: str, *, override: bool = True) -> Advertisement:
    """A holder's answer to duplicate address detection."""
    return Advertisement(address, address, mac, override=override, link_mac=mac)


def dad(address: Address, mac: str, nonce: bytes | None) -> Solicitation:
    return Solicitation(ANY_V6, address, mac, nonce=nonce)
