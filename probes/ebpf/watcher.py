"""The watcher in mode `ebpf`: `probes.watcher.Watcher` over the kernel program."""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress

from adapters.clock import Clock
from ipam.addresses import Address
from probes.ebpf import layout
from probes.ebpf.loader import KernelWatch, Unavailable, prepare
from probes.macs import MacTable, mac_bytes, mac_text
from probes.watcher import MAX_WATCHED, Expected, Intrusion, Mode, OnIntrusion, Seen, counts, expectation

CHECK_ATTACHED_S = (
    2.0  # an interface re-created under the same name, or a filter somebody removed, is blind this long at most
)


class EbpfWatcher:
    """Watches `interface`; made by `open_kernel_watcher`. The kernel filters, so an idle segment wakes nobody."""

    def __init__(self, kernel: KernelWatch, clock: Clock) -> None:
        self._kernel = kernel
        self._clock = clock
        self._macs = MacTable()
        self._expected: dict[tuple[Address, int], Expected] = {}
        self._reason = ""
        self._bad_records = 0
        self._keeper: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_intrusion: OnIntrusion | None = None

    def start(self, on_intrusion: OnIntrusion) -> None:
        """Attach and report from now on. Raises OSError if it cannot attach."""
        self._kernel.attach()
        self._on_intrusion = on_intrusion
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._kernel.fileno(), self._kernel.consume)
        self._keeper = self._loop.create_task(self._keep_attached(), name=f"watch {self._kernel.interface}")

    @property
    def mode(self) -> Mode:
        return Mode.EBPF

    @property
    def reason(self) -> str:
        return self._reason

    def watch(
        self, address: Address, expected_mac: str | None = None, *, vlan: int = 0, settling: bool = False
    ) -> None:
        if (address, vlan) not in self._expected and len(self._expected) >= MAX_WATCHED:
            raise ValueError(f"at most {MAX_WATCHED} addresses can be watched")
        expected = expectation(expected_mac, settling=settling)
        kind = layout.EXPECT_SETTLING if settling else layout.EXPECT_NOBODY
        mac = bytes(6)
        if expected.mac is not None:
            kind, mac = layout.EXPECT_MAC, mac_bytes(expected.mac)
        value = layout.EXPECTATION.pack(0, mac, kind, bytes(6), 0)
        self._kernel.put("watched", layout.pack_where(address, vlan), value)
        self._expected[address, vlan] = expected

    def unwatch(self, address: Address, *, vlan: int = 0) -> None:
        if self._expected.pop((address, vlan), None) is not None:
            self._kernel.drop("watched", layout.pack_where(address, vlan))

    def set_macs(self, macs: MacTable) -> None:
        old, new = _kinds(self._macs), _kinds(macs)
        for mac in old.keys() - new.keys():
            self._kernel.drop("macs", layout.MAC_KEY.pack(mac_bytes(mac)))
        for mac, kind in new.items() - old.items():
            self._kernel.put("macs", layout.MAC_KEY.pack(mac_bytes(mac)), struct.pack("=I", kind))
        self._macs = macs

    def last_seen(self, address: Address, *, vlan: int = 0) -> Seen | None:
        raw = self._kernel.sighting(layout.pack_where(address, vlan))
        if raw is None:
            return None
        at_ns, mac, direction, _ = layout.SIGHTING.unpack(raw)
        return Seen(mac_text(mac), at_ns / 1e9, direction == 1)

    def counters(self) -> dict[str, int]:
        return self._kernel.counters()

    async def close(self) -> None:
        if self._keeper is None:
            return
        self._keeper.cancel()
        with suppress(asyncio.CancelledError):
            await self._keeper
        self._keeper = None
        if self._loop is not None:
            self._loop.remove_reader(self._kernel.fileno())
        self._kernel.close()

    def receive(self, record: bytes) -> None:
        """One record of the ring buffer. Never raises: it runs below a C callback."""
        try:
            raw = layout.RawEvent.unpack(record)
        except (struct.error, ValueError):
            self._bad_records += 1
            return
        mac, probing = mac_text(raw.mac), raw.how == layout.HOW_PROBE
        expected, party = self._expected.get((raw.address, raw.vlan)), self._macs.party(mac)
        # The kernel may have judged by what was true a moment ago, and does not know the MACs of local pods.
        if expected is None or not counts(expected, party, mac, probing=probing, outgoing=raw.egress):
            return
        event = Intrusion(
            raw.address,
            raw.vlan,
            mac,
            probing,
            raw.egress,
            party,
            raw.at_ns / 1e9,
            raw.suppressed,
            raw.how == layout.HOW_ANSWER,
        )
        if self._loop is not None and self._on_intrusion is not None:
            self._loop.call_soon(self._on_intrusion, event)

    async def _keep_attached(self) -> None:
        while True:
            await self._clock.sleep(CHECK_ATTACHED_S)
            if self._kernel.attached():
                self._reason = ""
                continue
            try:
                self._kernel.attach()
            except OSError as error:
                self._reason = f"not attached to {self._kernel.interface}: {error.strerror or error}"
            else:
                self._reason = ""


def _kinds(macs: MacTable) -> dict[str, int]:
    return dict.fromkeys(macs.cluster, layout.MAC_CLUSTER) | dict.fromkeys(macs.own, layout.MAC_SELF)


async def open_kernel_watcher(interface: str, clock: Clock, on_intrusion: OnIntrusion) -> EbpfWatcher:
    """A running watcher on `interface` of this thread's network namespace. Raises Unavailable with the reason."""
    folder = await prepare(interface)
    sink: list[EbpfWatcher] = []

    def receive(record: bytes) -> None:
        for watcher in sink:
            watcher.receive(record)

    try:
        kernel = KernelWatch(folder, interface, receive)
    except OSError as error:
        raise Unavailable(f"the pinned objects in {folder} cannot be used: {error}") from error
    watcher = EbpfWatcher(kernel, clock)
    sink.append(watcher)
    try:
        watcher.start(on_intrusion)
    except OSError as error:
        kernel.close()
        raise Unavailable(f"the watcher cannot be attached to {interface}: {error}") from error
    return watcher
