"""Does a pod's sandbox still exist on this node? A port, because only its network namespace tells, and not on every host."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Protocol


class Sandbox(Enum):
    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"  # this process cannot see; never a reason to free anything


class Sandboxes(Protocol):
    def state(self, netns: str) -> Sandbox:
        """Of the sandbox whose CNI_NETNS was `netns`."""


class NetnsSandboxes:
    """Judges by the namespace's bind mount, e.g. /var/run/netns/cni-…; the runtime removes it after the last DEL.

    If the directory itself is not visible (not mounted into the agent's container), or the path is one of /proc (a pid may be reused), nothing
    is known.
    """

    def state(self, netns: str) -> Sandbox:
        path = Path(netns)
        if not netns or path.is_relative_to("/proc") or not path.parent.is_dir():
            return Sandbox.UNKNOWN
        return Sandbox.ALIVE if path.exists() else Sandbox.GONE


class ListedSandboxes:
    """The fake: what is listed lives or cannot be seen, all else is gone."""

    def __init__(self) -> None:
        self.alive: set[str] = set()
        self.unseen: set[str] = set()

    def state(self, netns: str) -> Sandbox:
        if netns in self.unseen:
            return Sandbox.UNKNOWN
        return Sandbox.ALIVE if netns in self.alive else Sandbox.GONE
