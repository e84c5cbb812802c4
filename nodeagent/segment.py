"""The segment behind a parent interface: prober and watcher, opened together. The one place that chooses their real forms."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.frames import FramePort, FrameSocket
from adapters.netlink import SystemNetlink
from ipam.parents import Parent
from probes.macs import MacTable, canonical_mac
from probes.prober import OnVerified, Prober
from probes.watcher import Mode, OnIntrusion, Watcher
from probes.watching import open_watcher


@dataclass(frozen=True, slots=True)
class Segment:
    """`port`: what the prober sends through, closed with it."""

    prober: Prober
    watcher: Watcher
    port: FramePort | None = None

    async def close(self) -> None:
        await self.watcher.close()
        await self.prober.close()
        if self.port is not None:
            self.port.close()


class SegmentPort(Protocol):
    @property
    def parent(self) -> Parent:
        """The interface, and which addresses are behind it."""

    async def open(self, on_intrusion: OnIntrusion) -> Segment:
        """Start probing and watching. Raises OSError if the interface cannot be used at all."""


class ParentSegment:
    """The real one. `watch`: the best watcher to try; lower ones are fallen back to, and the reason is kept. `proxies`: MACs known to answer for
    every address.
    """

    def __init__(
        self,
        parent: Parent,
        clock: Clock,
        entropy: Entropy,
        watch: Mode,
        on_verified: OnVerified | None = None,
        proxies: Iterable[str] = (),
    ) -> None:
        self._parent = parent
        self._clock = clock
        self._entropy = entropy
        self._watch = watch
        self._on_verified = on_verified
        self._proxies = frozenset(map(canonical_mac, proxies))

    @property
    def parent(self) -> Parent:
        return self._parent

    async def open(self, on_intrusion: OnIntrusion) -> Segment:
        interface = self._parent.interface
        port = FrameSocket(interface)
        macs = MacTable.of(own=[port.mac])
        prober = Prober(
            port, self._clock, self._entropy, macs=macs, on_verified=self._on_verified, known_proxies=self._proxies
        )
        try:
            watcher = await open_watcher(interface, self._clock, on_intrusion, self._watch)
        except asyncio.CancelledError:  # it may take seconds to compile, and the agent may end meanwhile
            port.close()
            raise
        watcher.set_macs(replace(macs))
        return Segment(prober, watcher, port)


class NetlinkFacts:
    """What netlink knows of interfaces, without entering their namespaces."""

    def __init__(self) -> None:
        self._netlink = SystemNetlink()

    async def why_cut(self, interface: str) -> str:
        """`verbs.WhyCut`: of an interface of this host."""
        try:
            link = await self._netlink.link(interface)
        except OSError:
            return ""  # the kernel did not tell, which says nothing about the wire
        if link is None:
            return "it does not exist"
        if not link.up:
            return "it is not up"
        return "" if link.carrier else "it has no carrier"

    async def mac_of(self, netns: Path, interface: str) -> str | None:
        """`podmacs.MacOf`: of a pod's interface."""
        try:
            link = await self._netlink.link_in(netns, interface)
        except OSError:
            return None
        return link.mac if link is not None else None

    async def close(self) -> None:
        await self._netlink.close()
