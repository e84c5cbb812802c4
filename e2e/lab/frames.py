"""Two frames that a foreign host sends, written by hand: the lab judges the product, so it shares no codec with it.

ARP announcement: RFC 826, RFC 5227 section 2.3. Unsolicited neighbour advertisement: RFC 4861 sections 4.4 and 7.2.6.
"""

import ipaddress
import socket
import struct
import time

from e2e.lab import netns

ETH_ARP, ETH_IPV6 = 0x0806, 0x86DD
BROADCAST = b"\xff" * 6
ALL_NODES_MAC, ALL_NODES = bytes.fromhex("333300000001"), ipaddress.IPv6Address("ff02::1").packed
ICMPV6, ADVERTISEMENT, OVERRIDE = 58, 136, 0x20


def announcement(mac: bytes, address: str) -> bytes:
    """The frame by which a host says that it uses `address`."""
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + parsed.packed + bytes(6) + parsed.packed
        return BROADCAST + mac + struct.pack("!H", ETH_ARP) + body
    option = struct.pack("!BB", 2, 1) + mac
    unsigned = struct.pack("!BBHB3x", ADVERTISEMENT, 0, 0, OVERRIDE) + parsed.packed + option
    pseudo = parsed.packed + ALL_NODES + struct.pack("!I3xB", len(unsigned), ICMPV6)
    message = unsigned[:2] + struct.pack("!H", checksum(pseudo + unsigned)) + unsigned[4:]
    header = struct.pack("!IHBB", 0x60000000, len(message), ICMPV6, 255) + parsed.packed + ALL_NODES
    return ALL_NODES_MAC + mac + struct.pack("!H", ETH_IPV6) + header + message


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def claim(namespace: str, interface: str, addresses: list[str]) -> dict[str, float]:
    """Announces each address from the host in that namespace; returns when (Unix seconds, taken just before the frame left)."""

    def send() -> dict[str, float]:
        sent = {}
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((interface, 0))
            mac = wire.getsockname()[4]
            for address in addresses:
                frame = announcement(mac, address)
                sent[address] = time.time()
                wire.send(frame)
        return sent

    return netns.run_in(namespace, send)
