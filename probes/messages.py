"""What goes over the wire, as values: the machines speak these, `probes.codec` turns them into frames and back.

`vlan` is the 802.1Q identifier in the frame, 0 for untagged and for priority tags. `source_mac` is the Ethernet source.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ipam.addresses import Address, Family
from probes.macs import NO_MAC

ANY_V4 = Address(Family.V4, 0)
ANY_V6 = Address(Family.V6, 0)


@dataclass(frozen=True, slots=True)
class Arp:
    """An ARP packet for Ethernet and IPv4 (RFC 826); `operation` is 1 (request) or 2 (reply)."""

    operation: int
    sender_mac: str
    sender: Address
    target: Address
    source_mac: str
    target_mac: str = NO_MAC
    destination_mac: str = "ff:ff:ff:ff:ff:ff"
    vlan: int = 0


@dataclass(frozen=True, slots=True)
class Solicitation:
    """A neighbour solicitation (RFC 4861 section 4.3); `nonce` as in RFC 3971 and 7527, None if absent."""

    source: Address
    target: Address
    source_mac: str
    nonce: bytes | None = None
    link_mac: str | None = None  # source link-layer address option
    vlan: int = 0


@dataclass(frozen=True, slots=True)
class Advertisement:
    """A neighbour advertisement (RFC 4861 section 4.4)."""

    source: Address
    target: Address
    source_mac: str
    router: bool = False
    solicited: bool = False
    override: bool = False
    link_mac: str | None = None  # target link-layer address option
    vlan: int = 0

    @property
    def holder(self) -> str:
        """The MAC that is said to hold the target."""
        return self.link_mac or self.source_mac


Message = Arp | Solicitation | Advertisement


class How(Enum):
    """How a MAC showed that it uses, or wants, an address."""

    ARP_CLAIM = "arp-claim"  # ARP request or announcement with the address as sender
    ARP_REPLY = "arp-reply"
    ARP_PROBE = "arp-probe"  # another host tests the address
    ND_ADVERTISEMENT = "nd-advertisement"
    ND_CLAIM = "nd-claim"  # a solicitation sent from the address
    ND_PROBE = "nd-probe"  # another host's duplicate address detection
    LOCAL = "local"  # the address is configured on this node's own interface

    @property
    def is_probe(self) -> bool:
        """Whether the other side merely tests the address."""
        return self in (How.ARP_PROBE, How.ND_PROBE)


@dataclass(frozen=True, slots=True)
class Sign:
    """One frame's statement about one address."""

    address: Address
    mac: str
    how: How
    proxyable: (
        bool  # a proxy could have said it: an ARP reply, or an advertisement without Override (RFC 4861 section 7.2.8)
    )


def signs(message: Message) -> tuple[Sign, ...]:
    """What `message` says about addresses.

    ARP: the sender uses its sender address; with sender 0.0.0.0 it tests the target (RFC 5227 section 1.1). ND: an
    advertisement claims its target; a solicitation from :: tests its target (RFC 4862 section 5.4.3), any other uses
    its source address.
    """
    if isinstance(message, Arp):
        if message.sender.value:
            reply = message.operation == 2
            how = How.ARP_REPLY if reply else How.ARP_CLAIM
            return (Sign(message.sender, message.sender_mac, how, reply),)
        if message.operation == 1:
            return (Sign(message.target, message.sender_mac, How.ARP_PROBE, False),)
        return ()
    if isinstance(message, Advertisement):
        return (Sign(message.target, message.holder, How.ND_ADVERTISEMENT, not message.override),)
    if message.source.value:
        return (Sign(message.source, message.link_mac or message.source_mac, How.ND_CLAIM, False),)
    return (Sign(message.target, message.source_mac, How.ND_PROBE, False),)
