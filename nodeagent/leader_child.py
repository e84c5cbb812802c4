"""Runs the leader as a child process with an interpreter of its own, so that planning never takes the GIL from ADD.

The child ends with the agent however that ends: it stops when its standard input is closed, which the kernel does even after kill -9.
"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.waking import done_within

log = structlog.get_logger(__name__)

BACKOFF_S = (1.0, 60.0)  # first and longest pause between two starts
HEALTHY_S = 300.0  # a child that ran so long starts the back-off over
STOP_S = 8.0  # for stopping the work and giving the lock away; then it is killed
LOOK_S = 1.0  # how often a node that is no candidate asks whether it has become one; at start it does not know its labels yet


class LeaderChild:
    """Run `run()` as a task. `is_candidate` is asked before each start and while the child runs."""

    def __init__(
        self, command: Sequence[str], clock: Clock, entropy: Entropy, is_candidate: Callable[[], bool]
    ) -> None:
        self._command = tuple(command)
        self._clock = clock
        self._entropy = entropy
        self._is_candidate = is_candidate
        self._child: Process | None = None
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Of the running child."""
        return self._child.pid if self._child is not None else None

    async def run(self) -> None:
        """Until cancelled; the child has ended when this returns."""
        failures = 0
        while True:
            while not self._is_candidate():
                await self._clock.sleep(LOOK_S)
            began = self._clock.now()
            await self._run_once()
            failures = 0 if self._clock.now() - began >= HEALTHY_S else failures + 1
            pause = min(BACKOFF_S[0] * 2.0 ** min(max(failures - 1, 0), 16), BACKOFF_S[1])
            await self._clock.sleep(pause * self._entropy.uniform(1.0, 1.5))

    async def _run_once(self) -> None:
        try:
            child = await asyncio.create_subprocess_exec(*self._command, stdin=asyncio.subprocess.PIPE)
        except OSError as error:
            log.error("leader_not_started", error=str(error))
            return
        self._child = child
        self.starts += 1
        log.info("leader_started", pid=child.pid)
        ended = asyncio.ensure_future(child.wait())
        try:
            while not ended.done() and self._is_candidate():
                await done_within(self._clock, LOOK_S, ended)
        finally:
            stopping = asyncio.ensure_future(self._stop(child, ended))
            try:
                await asyncio.shield(stopping)
            except asyncio.CancelledError:
                await stopping  # the agent ends while its leader does: it must not leave it behind
                raise
            self._child = None
        log.warning("leader_ended", pid=child.pid, code=child.returncode)

    async def _stop(self, child: Process, ended: asyncio.Future[int]) -> None:
        if not ended.done():
            with suppress(ProcessLookupError):
                child.terminate()
            await done_within(self._clock, STOP_S, ended)
        if not ended.done():
            with suppress(ProcessLookupError):
                child.kill()
            await ended
        if child.stdin is not None:
            child.stdin.close()
