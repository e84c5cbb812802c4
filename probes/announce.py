"""Announcements of an address that just moved to a MAC, so that peers and routers forget the old one. No clock and no
I/O.

IPv4: RFC 5227 section 2.3, two ARP announcements 2 s apart, and a third at 10 s. Linux ignores an update within 1 s
of the previous one (`locktime`), so a single announcement can be lost on a peer that just resolved the old holder.
IPv6: unsolicited advertisements with Override to ff02::1, up to three (RFC 4861 section 7.2.6). Router entries may
otherwise live for hours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipam.addresses import Address, Family
from probes.acd import arp_announcement
from probes.course import Send
from probes.messages import Advertisement
from probes.profiles import ANNOUNCE_INTERVAL_S, ANNOUNCE_NUM, MAX_NEIGHBOR_ADVERTISEMENT, RETRANS_TIMER_S

ARP_AT_S = (*(index * ANNOUNCE_INTERVAL_S for index in range(ANNOUNCE_NUM)), 10.0)
ND_AT_S = tuple(index * RETRANS_TIMER_S for index in range(MAX_NEIGHBOR_ADVERTISEMENT))


def unsolicited_advertisement(address: Address, mac: str, vlan: int = 0) -> Advertisement:
    """The advertisement of RFC 4861 section 7.2.6: from the address itself, Solicited clear, Override set, with the
    target's MAC.
    """
    return Advertisement(address, address, mac, override=True, link_mac=mac, vlan=vlan)


@dataclass(frozen=True, slots=True)
class Announcement:
    """The series for one address held by `mac`. `due` is None once it is over."""

    address: Address
    mac: str
    vlan: int
    start: float
    sent: int = 0

    @classmethod
    def begin(cls, address: Address, mac: str, now: float, vlan: int = 0) -> Announcement:
        """A series whose first frame is due at `now`. Only for an address whose holder is decided: it makes peers
        change their tables.
        """
        return cls(address, mac, vlan, now)

    @property
    def due(self) -> float | None:
        at = ARP_AT_S if self.address.family is Family.V4 else ND_AT_S
        return self.start + at[self.sent] if self.sent < len(at) else None

    def on_time(self, now: float) -> tuple[Announcement, tuple[Send, ...]]:
        """Send the next announcement if it is due; never two at once, so a late caller keeps the spacing."""
        due = self.due
        if due is None or now < due:
            return self, ()
        message = (
            arp_announcement(self.address, self.mac, self.vlan)
            if self.address.family is Family.V4
            else unsolicited_advertisement(self.address, self.mac, self.vlan)
        )
        return replace(self, sent=self.sent + 1, start=self.start + (now - due)), (Send(message),)
