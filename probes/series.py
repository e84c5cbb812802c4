"""Sends announcement series, each for one address; bounded, and stoppable when the address is released."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from adapters.clock import Clock
from adapters.frames import FramePort
from ipam.addresses import Address
from probes import codec
from probes.announce import Announcement

MAX_SERIES = 4096


class Announcer:
    """The series of one segment, driven by one task that exists only while there is something to send."""

    def __init__(self, port: FramePort, clock: Clock, vlan: int = 0) -> None:
        self._port = port
        self._clock = clock
        self._vlan = vlan
        self._series: dict[Address, Announcement] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, address: Address, mac: str) -> None:
        """Send the first announcement now and the others when due; a series under way for the address is replaced.

        With MAX_SERIES under way only the first announcement is sent.
        """
        first, effects = Announcement.begin(address, mac, self._clock.now(), self._vlan).on_time(self._clock.now())
        self._port.send([codec.encode(effect.message) for effect in effects])
        if address not in self._series and len(self._series) >= MAX_SERIES:
            return
        self._series[address] = first
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._send_due(), name="announcements")

    def stop(self, address: Address) -> None:
        """Send no more for `address`."""
        self._series.pop(address, None)

    async def close(self) -> None:
        """Send no more at all."""
        self._series.clear()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _send_due(self) -> None:
        while self._series:
            now = self._clock.now()
            frames: list[bytes] = []
            for address, series in tuple(self._series.items()):
                after, effects = series.on_time(now)
                frames += [codec.encode(effect.message) for effect in effects]
                if after.due is None:
                    del self._series[address]
                else:
                    self._series[address] = after
            self._port.send(frames)
            due = min((series.due for series in self._series.values() if series.due is not None), default=None)
            if due is not None:
                # A series started meanwhile has its second announcement due after ours at the earliest: half its
                # interval is soon enough.
                await self._clock.sleep(min(max(due - now, 0.01), 0.5))
