"""The ground truth of the network: which live sandbox, or which foreign host, answers for which address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

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

    def __str__(self) -> str:
        return f"{self.container_id} of {self.pod} on {self.node}"


@dataclass
class Wire:
    """`on_double(slot, first, second)` is called when an address gets a second live sandbox (I4)."""

    on_double: Callable[[SlotId, Sandbox, Sandbox], None]
    holders: dict[SlotId, list[Sandbox]] = field(default_factory=dict)
    foreign: dict[SlotId, str] = field(default_factory=dict)

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

    def holder(self, slot: SlotId) -> Sandbox | None:
        present = self.holders.get(slot)
        return present[0] if present else None
