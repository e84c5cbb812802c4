"""Gateways that answer for addresses which are not theirs, on real interfaces."""

from __future__ import annotations

from adapters.frames import FrameSocket, Heard
from probes import codec
from probes.messages import Advertisement, Arp, Message, Solicitation
from tests.netns.probes.lan import Host


class Proxy:
    """Answers ARP and ND probes for every address, as some routers do and Linux does not."""

    def __init__(self, host: Host, port: FrameSocket) -> None:
        self.host = host
        self._port = port
        port.subscribe(self._hear)

    def _hear(self, heard: Heard) -> None:
        asked = codec.decode(heard.frame, heard.vlan)
        if isinstance(asked, Arp) and asked.operation == 1:
            answer: Message = Arp(
                2, self.host.mac, asked.target, asked.sender, self.host.mac, asked.sender_mac, asked.source_mac
            )
        elif isinstance(asked, Solicitation):
            answer = Advertisement(asked.target, asked.target, self.host.mac, link_mac=self.host.mac)
        else:
            return
        self._port.send([codec.encode(answer)])


def linux_proxy(host: Host) -> None:
    """The kernel's own proxy ARP, for addresses beyond any interface and for those of the segment itself."""
    host.set("ipv4/conf/eth0/proxy_arp", 1)
    host.set("ipv4/conf/eth0/proxy_arp_pvlan", 1)
    host.set("ipv4/conf/eth0/forwarding", 1)
