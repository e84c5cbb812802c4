"""Several reflectors that are one picture of the cluster: run together, and complete when each of them has listed its kind."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any

from adapters.kube.reflector import Reflector


class Picture(ABC):
    @property
    @abstractmethod
    def reflectors(self) -> tuple[Reflector[Any], ...]:
        """All of them; always the same."""

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self.reflectors:
                tasks.create_task(reflector.run(), name=f"reflect {reflector.kind.plural}")

    async def synced(self) -> None:
        """Return once everything was listed."""
        for reflector in self.reflectors:
            await reflector.synced()

    @property
    def has_synced(self) -> bool:
        return all(reflector.has_synced for reflector in self.reflectors)
