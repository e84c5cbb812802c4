"""The ground truth of the network: which live sandbox, or which foreign host, answers for which address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ipam.slots import SlotId


@dataclass(eq=False)
class Sandbox:
    """One pod sandbox. It is `live` on its addresses from the moment its interface is up until the interface is gone."""

    node: str
    container_id: str
    namespace: str
    pod: str
    pod_uid: str
    addresses: tuple[SlotId, ...] = ()
    live: bool = False
    delete_sent: bool = False
    deleted: bool = False

    @property
    def mac(self) -> str:
        """Of its interface: its own as long as it lives."""
        machine, _, number = self.container_id.partition("-c")
        return f"02:00:00:{int(machine[1:]) & 255:02x}:{int(number) >> 8 & 255:02x}:{int(number) & 255:02x}"

    def __str__(self) -> str:
        return f"{self.container_id} of {self.pod} on {self.node}"


class Listener(Protocol):
    def hear(self, slot: SlotId, mac: str, node: str) -> None: ...


@dataclass
class Wire:
    """`on_double(slot, first, second)` is called when an address gets a second live sandbox (I4).

    `foreign`: MACs of hosts outside the cluster, by address. `deceived`: (address, node) of tests that found silence only because every frame of
    the holder was lost.
    """

    on_double: Callable[[SlotId, Sandbox, Sandbox], None]
    holders: dict[SlotId, list[Sandbox]] = field(default_factory=dict)
    foreign: dict[SlotId, str] = field(default_factory=dict)
    deceived: set[tuple[SlotId, str]] = field(default_factory=set)
    listeners: dict[Listener, None] = field(default_factory=dict)

    def attach(self, sandbox: Sandbox, addresses: tuple[SlotId, ...]) -> None:
        sandbox.addresses = addresses
        sandbox.live = True
        for slot in addresses:
            present = self.holders.setdefault(slot, [])
            for other in present:
                self.on_double(slot, other, sandbox)
            present.append(sandbox)

    def detach(self, sandbox: Sandbox) -> None:
        if not sandbox.live:
            return
        sandbox.live = False
        for slot in sandbox.addresses:
            self.holders[slot].remove(sandbox)
            if not self.holders[slot]:
                del self.holders[slot]

    def answers(self, slot: SlotId, asking: str) -> str:
        """The MAC that answers a probe from the machine `asking`; "" if nobody does. A machine does not hear its own pods."""
        if slot in self.foreign:
            return self.foreign[slot]
        return next((sandbox.mac for sandbox in self.holders.get(slot, ()) if sandbox.node != asking), "")

    def intrude(self, slot: SlotId, mac: str) -> None:
        """A host outside the cluster uses the address from now on, and says so."""
        self.foreign[slot] = mac
        self.speak(slot, mac, "")

    def speak(self, slot: SlotId, mac: str, node: str) -> None:
        for listener in tuple(self.listeners):
            listener.hear(slot, mac, node)

    def holder(self, slot: SlotId) -> Sandbox | None:
        present = self.holders.get(slot)
        return present[0] if present else None
