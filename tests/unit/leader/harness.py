"""A whole leader over the in-memory API, beside the agents of `tests.unit.nodeagent.harness`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from adapters.clock import Clock, SystemClock
from adapters.entropy import SeededEntropy
from adapters.kube.memory import MemoryStore
from crds.meta import KubeObject
from leader.config import ElectionSettings, LeaderConfig, ReclaimSettings, StatusSettings, SweepSettings
from leader.leader import Leader, Ports
from tests.unit.nodeagent.harness import Lab, eventually

FAST: dict[str, Any] = {
    "election": ElectionSettings(lease_s=1.0, renew_deadline_s=0.6, retry_s=0.1),
    "reclaim": ReclaimSettings(agent_lease_s=60.0, period_s=0.05),
    "sweep": SweepSettings(period_s=0.05, orphan_s=0.2),
    "status": StatusSettings(gap_s=0.05, writes_per_s=1000.0),
}


class Heard:
    """Announcements, kept."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []

    def announce(self, regarding: KubeObject, reason: str, note: str) -> None:
        self.told.append((regarding.name, reason, note))


@asynccontextmanager
async def leader(
    lab: Lab,
    node: str = "n1",
    *,
    store: MemoryStore | None = None,
    clock: Clock | None = None,
    seed: int = 1,
    heard: Heard | None = None,
    wait: bool = True,
    **settings: Any,
) -> AsyncIterator[Leader]:
    """A running candidate; with `wait`, one that leads. It ends by a clean hand-over."""
    config = LeaderConfig(node=node, **{**FAST, **settings})
    ports = Ports(store or lab.store, clock or SystemClock(), SeededEntropy(seed), heard or Heard())
    one = Leader(config, ports)
    task = asyncio.create_task(one.run())
    try:
        if wait:
            await eventually(lambda: one.reign is not None or task.done())
            if task.done():
                task.result()
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 5.0) -> None:
    """Wait until the condition, asked of the API, holds; fails when the time is over."""
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.01)
