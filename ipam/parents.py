"""Which interface of a node is on an address's segment.

A node may have several interfaces on which pods are attached, each on a segment of its own. An address can be proven silent only through the
interface that is on its segment: asked on another one, every address is silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ipam.addresses import Address, Network
from ipam.slots import SlotId


@dataclass(frozen=True, slots=True)
class Parent:
    """An interface and what is behind it: addresses of one L2 domain; with `subnets`, only those inside one of them."""

    interface: str
    domain: str = ""
    subnets: tuple[Network, ...] = ()

    def reaches(self, domain: str, address: Address) -> bool:
        """Whether the address may be behind this interface, as far as this interface alone is concerned."""
        return domain == self.domain and (not self.subnets or any(address in subnet for subnet in self.subnets))

    def shares(self, network: Network) -> bool:
        """Whether some address of `network` may be behind this interface; its domain is for the caller to know."""
        return not self.subnets or any(subnet.overlaps(network) for subnet in self.subnets)


@dataclass(frozen=True, slots=True)
class Parents:
    """All interfaces of a node. One that names subnets goes before one that takes what is left of its L2 domain."""

    listed: tuple[Parent, ...] = ()

    def of(self, domain: str, address: Address) -> Parent | None:
        """The interface on the address's segment; None: no interface of this node is, and nothing here can prove it."""
        found = [parent for parent in self.listed if parent.reaches(domain, address)]
        return max(found, key=lambda parent: bool(parent.subnets), default=None)

    def of_slot(self, slot: SlotId) -> Parent | None:
        """The interface on the slot's segment."""
        return self.of(slot.domain, slot.address) if self.listed else None


def parents_problem(listed: Sequence[Parent]) -> str:
    """Why these cannot be told apart, in words that name the culprit; "" if they can."""
    for index, one in enumerate(listed):
        for other in listed[:index]:
            if one.interface == other.interface:
                return f"{one.interface} is listed twice"
            if one.domain != other.domain:
                continue
            if not one.subnets and not other.subnets:
                return (
                    f"{other.interface} and {one.interface} both take every subnet of L2 domain {one.domain!r}: "
                    "give one of them `subnets`, or name different domains"
                )
            clash = [(a, b) for a in one.subnets for b in other.subnets if a.overlaps(b)]
            if clash:
                mine, theirs = clash[0]
                return f"subnet {mine} of {one.interface} overlaps {theirs} of {other.interface}"
    return ""
