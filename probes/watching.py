"""Opens the best watcher that this machine allows."""

from __future__ import annotations

from adapters.clock import Clock
from adapters.frames import FrameSocket
from probes.ebpf.loader import Unavailable
from probes.ebpf.watcher import open_kernel_watcher
from probes.watcher import Mode, NoWatcher, OnIntrusion, PacketWatcher, Watcher


async def open_watcher(interface: str, clock: Clock, on_intrusion: OnIntrusion, best: Mode = Mode.EBPF) -> Watcher:
    """A running watcher on `interface` in mode `best` or, where that cannot be had, the next lower one; `reason` says
    why. Never raises OSError.
    """
    reason = "switched off by configuration" if best is not Mode.EBPF else ""
    if best is Mode.EBPF:
        try:
            return await open_kernel_watcher(interface, clock, on_intrusion)
        except Unavailable as error:
            reason = str(error)
    if best is not Mode.OFF:
        try:
            port = FrameSocket(interface, hear_outgoing=True)
        except OSError as error:
            reason = f"{reason}; no packet socket either: {error}"
        else:
            return PacketWatcher(port, clock, on_intrusion, reason)
    return NoWatcher(reason)
