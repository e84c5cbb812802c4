"""The MAC of every pod interface that holds addresses: learnt over netlink after the CNI reply, without entering the pod's namespace.

Whoever wants to know is told once per attachment; an attachment that moved to another sandbox is another one. What is known is forgotten with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from adapters.clock import Clock
from nodeagent.allocator import Allocator, Attachment, Key

SETTLE_S = 0.3  # from the CNI reply until the pod's interface can be asked for its MAC
TRIES = 10

MacOf = Callable[[Path, str], Awaitable[str | None]]  # namespace, interface → its MAC; None if it is not there


async def no_mac(_netns: Path, _interface: str) -> str | None:
    """Where MACs cannot be learnt."""
    return None


@dataclass(slots=True)
class _Pending:
    due: float
    tries: int = 0


class PodMacs:
    """Run `run()` as a task. `listeners` are called on the event loop with the attachment and its MAC."""

    def __init__(self, allocator: Allocator, clock: Clock, mac_of: MacOf) -> None:
        self._allocator = allocator
        self._clock = clock
        self._mac_of = mac_of
        self._known: dict[Key, str] = {}
        self._pending: dict[Key, _Pending] = {}
        self._work = asyncio.Event()
        self.listeners: list[Callable[[Attachment, str], None]] = []

    def follow(self, attachment: Attachment) -> None:
        """The interface exists, or will in a moment. Cheap: an ADD may call it. A pod that never comes up is given up."""
        if attachment.key not in self._known and attachment.key not in self._pending:
            self._pending[attachment.key] = _Pending(self._clock.now() + SETTLE_S)
            self._work.set()

    def of(self, key: Key) -> str:
        """The MAC; "" while it is not known."""
        return self._known.get(key, "")

    def is_learning(self, pod_uid: str) -> bool:
        """Whether more will soon be known of a pod."""
        return any(item.key in self._pending for item in self._allocator.of_pod(pod_uid))

    async def run(self) -> None:
        for attachment in self._allocator.all():
            self.follow(attachment)
        while True:
            if not self._pending:
                self._work.clear()
                await self._work.wait()
            due = min(pending.due for pending in self._pending.values())
            await self._clock.sleep(max(due - self._clock.now(), 0.0))
            await self._ask()
            self._known = {key: mac for key, mac in self._known.items() if self._allocator.get(key) is not None}

    async def _ask(self) -> None:
        for key, pending in tuple(self._pending.items()):
            if pending.due > self._clock.now():
                continue
            attachment = self._allocator.get(key)
            mac = await self._mac_of(Path(attachment.netns), key.ifname) if attachment is not None else None
            pending.tries, pending.due = pending.tries + 1, self._clock.now() + SETTLE_S
            if attachment is not None and not mac and pending.tries < TRIES:
                continue
            del self._pending[key]
            if mac and self._allocator.get(key) is attachment and attachment is not None:
                self._known[key] = mac
                for tell in self.listeners:
                    tell(attachment, mac)
