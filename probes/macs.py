"""Hardware addresses, and whose they are.

A MAC is lower-case text with colons (`02:00:00:00:00:0a`): comparable, hashable, printable as evidence. Multicast
MACs are never a party.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

BROADCAST = "ff:ff:ff:ff:ff:ff"
NO_MAC = "00:00:00:00:00:00"


def mac_text(packed: bytes) -> str:
    """The text of six bytes."""
    return packed.hex(":")


def mac_bytes(text: str) -> bytes:
    """Six bytes of `aa:bb:cc:dd:ee:ff` (any case, `-` allowed); raises ValueError."""
    packed = bytes.fromhex(text.replace(":", "").replace("-", ""))
    if len(packed) != 6:
        raise ValueError(f"{text!r} is not a MAC of six bytes")
    return packed


def canonical_mac(text: str) -> str:
    """`text` in the one form that is compared; raises ValueError."""
    return mac_text(mac_bytes(text))


class Party(Enum):
    """Who is behind a frame."""

    SELF = "self"  # an interface that sends our probes: what comes back is a copy of our own frame
    LOCAL_POD = "local-pod"  # a pod of this node
    CLUSTER = "cluster"  # the probing interface of another node
    FOREIGN = "foreign"  # anybody else


@dataclass(frozen=True, slots=True)
class MacTable:
    """The MACs we know. An immutable value: replace it when something is learnt.

        | party     | its probe (sender 0.0.0.0 / ::) | its claim (sender address, NA)         |
        |-----------|--------------------------------|----------------------------------------|
        | SELF      | ignored                        | ignored: a looped copy                 |
        | LOCAL_POD | counts                         | counts: the journal is wrong           |
        | CLUSTER   | ignored: that node is testing  | counts, but is not a foreign conflict  |
        | FOREIGN   | counts                         | counts                                 |

    A claim by another node counts because nothing else would keep us from handing out that node's own address, or one
    that its ipvlan pods (which share the parent's MAC) still use. `party` in the verdict tells the caller that no
    stranger is to blame.
    """

    own: frozenset[str] = frozenset()
    pods: frozenset[str] = frozenset()
    cluster: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # MAC → node name

    @classmethod
    def of(
        cls, own: Iterable[str] = (), pods: Iterable[str] = (), cluster: Mapping[str, str] | None = None
    ) -> MacTable:
        """A table of MACs in any notation; raises ValueError."""
        nodes = {canonical_mac(mac): node for mac, node in (cluster or {}).items()}
        return cls(frozenset(map(canonical_mac, own)), frozenset(map(canonical_mac, pods)), MappingProxyType(nodes))

    def party(self, mac: str) -> Party:
        """Whose `mac` (in canonical form) is."""
        if mac in self.own:
            return Party.SELF
        if mac in self.pods:
            return Party.LOCAL_POD
        if mac in self.cluster:
            return Party.CLUSTER
        return Party.FOREIGN

    def ignores_claim(self, mac: str) -> bool:
        """Whether a claim by `mac` proves nothing."""
        return mac in self.own

    def ignores_probe(self, mac: str) -> bool:
        """Whether a probe by `mac` proves nothing."""
        return mac in self.own or mac in self.cluster
