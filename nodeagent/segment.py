"""The segment behind the parent interface: prober, watcher and netlink, opened together. The one place that chooses their real forms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.frames import FrameSocket
from adapters.netlink import SystemNetlink
from probes.macs import MacTable
from probes.prober import OnVerified, Prober
from probes.watcher import Mode, OnIntrusion, Watcher
from probes.watching import open_watcher


@dataclass(frozen=True, slots=True)
class Segment:
    prober: Prober
    watcher: Watcher

    async def close(self) -> None:
        await self.watcher.close()
        await self.prober.close()


class SegmentPort(Protocol):
    async def open(self, on_intrusion: OnIntrusion) -> Segment:
        """Start probing and watching. Raises OSError if the interface cannot be used at all."""

    async def mac_of(self, netns: Path, interface: str) -> str | None:
        """The MAC of a pod's interface, read without entering its namespace; None if it is not there."""


class ParentSegment:
    """The real one. `watch`: the best watcher to try; lower ones are fallen back to, and the reason is kept."""

    def __init__(
        self, interface: str, clock: Clock, entropy: Entropy, watch: Mode, on_verified: OnVerified | None = None
    ) -> None:
        self._interface = interface
        self._clock = clock
        self._entropy = entropy
        self._watch = watch
        self._on_verified = on_verified
        self._netlink = SystemNetlink()

    async def open(self, on_intrusion: OnIntrusion) -> Segment:
        port = FrameSocket(self._interface)
        macs = MacTable.of(own=[port.mac])
        prober = Prober(port, self._clock, self._entropy, macs=macs, on_verified=self._on_verified)
        watcher = await open_watcher(self._interface, self._clock, on_intrusion, self._watch)
        watcher.set_macs(replace(macs))
        return Segment(prober, watcher)

    async def mac_of(self, netns: Path, interface: str) -> str | None:
        try:
            link = await self._netlink.link_in(netns, interface)
        except OSError:
            return None
        return link.mac if link is not None else None
