"""What the agent reaches the world through: `service.py` gives it the real adapters, the simulation its own."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.journal import Journal
from adapters.kube.store import Store
from adapters.sandboxes import Sandboxes
from nodeagent.podmacs import MacOf
from nodeagent.segment import SegmentPort
from nodeagent.verbs import WhyCut, no_wire


@dataclass(frozen=True, slots=True)
class Ports:
    """The impure edges."""

    store: Store
    journal: Journal
    clock: Clock
    entropy: Entropy
    sandboxes: Sandboxes
    boot_id: str
    version: str
    segments: tuple[SegmentPort, ...] = ()  # none: addresses are not verified, and IPNode says so
    mac_of: MacOf | None = None  # None: pods' MACs stay unknown, and nothing is announced
    why_cut: WhyCut = no_wire  # why an interface of this host carries nothing, for STATUS
