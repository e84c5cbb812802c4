"""Who answers for addresses that nobody has? A survey of canaries, without I/O.

A gateway with proxy ARP (or an ND proxy) answers for every address; taken at its word, the whole pool would look
used. So a few canaries are probed first:

- *certain* canaries, which no host may hold: the network address of an IPv4 subnet, a random address of an IPv6 /64.
  One answer makes a proxy.
- *likely* canaries, which the caller believes unused. A MAC that answers for two of them is a proxy; for one it may
  simply be its holder.

Nothing is inferred from the candidates themselves: a load balancer or an ipvlan parent with many true addresses must
not be taken for a proxy.

What then: answers of a proxy's MAC no longer count as `taken`, except those that only a holder gives (see
`Surroundings.weigh`). The price, which the verdict states in `reason`: behind a proxy on a private VLAN a silent
holder cannot be told from nobody. Linux itself is harmless here, its proxy ARP never answers a probe from 0.0.0.0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ipam.addresses import Address
from probes.macs import MacTable
from probes.messages import Message, signs

LIKELY_NEEDED = 2
MAX_CANARIES = 8


@dataclass(slots=True)
class Survey:
    """Collects who answers for the canaries; feed it every message heard while they are probed."""

    certain: frozenset[Address]
    likely: frozenset[Address]
    macs: MacTable
    vlan: int = 0
    _answers: dict[str, set[Address]] = field(default_factory=dict)

    @classmethod
    def of(cls, certain: Iterable[Address], likely: Iterable[Address], macs: MacTable, vlan: int = 0) -> Survey:
        """A survey of at most MAX_CANARIES canaries, certain ones first."""
        chosen = list(dict.fromkeys((*certain, *likely)))[:MAX_CANARIES]
        sure = frozenset(certain) & frozenset(chosen)
        return cls(sure, frozenset(chosen) - sure, macs, vlan)

    @property
    def canaries(self) -> frozenset[Address]:
        return self.certain | self.likely

    def on_message(self, message: Message) -> None:
        """Note an answer for a canary; our own and other nodes' frames are not answers."""
        if message.vlan != self.vlan:
            return
        for sign in signs(message):
            if sign.address in self.canaries and sign.proxyable and not self.macs.ignores_probe(sign.mac):
                self._answers.setdefault(sign.mac, set()).add(sign.address)

    @property
    def proxies(self) -> frozenset[str]:
        """The MACs that answer for everything, by the rule above."""
        return frozenset(
            mac
            for mac, addresses in self._answers.items()
            if addresses & self.certain or len(addresses & self.likely) >= LIKELY_NEEDED
        )
