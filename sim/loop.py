"""An asyncio event loop on virtual time: no sockets, no threads, no real clock, so that one seed is one run, bit for bit.

The ready queue is first in, first out, and timers fire in the order (time, creation). When nothing is ready, time jumps to the next timer.

Tasks belong to a `Process` through their context (`PROCESS`). A frozen process is one that got SIGSTOP, or whose machine was paused: its
callbacks wait, and run when it goes on. What a dead process still unwinds has no effect, because its ports refuse (`sim.ports`).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context, ContextVar, copy_context
from typing import Any, NoReturn, TypeVar

R = TypeVar("R")
MAX_STEPS_AT_ONCE = 100_000
STEP_S = 1e-7  # code takes time: a deadline that rounding leaves a hair ahead of now is reached


class Deadlock(Exception):
    """Every task waits for another one: nothing is ready and no timer is set."""


class Livelock(Exception):
    """Tasks keep each other busy without time passing."""


class ProcessKilled(BaseException):
    """Raised by a port of a process that is killed in the midst of a synchronous call. Not an Exception: nobody may handle it."""


class Process:
    """One simulated process: its tasks carry it in their context."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self.parked: deque[asyncio.Handle] = deque()
        self.context: Context = copy_context()
        self.context.run(PROCESS.set, self)


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


def current_process() -> Process | None:
    return PROCESS.get()


class SimLoop(asyncio.BaseEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._virtual = 0.0
        self._queue: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []  # (time, creation): equal times fire in order
        self._numbers = itertools.count()
        self._halted = False
        self.steps = 0
        self.on_failure: Callable[[str, BaseException], None] = lambda _who, _error: (
            None
        )  # a callback of a live process
        self._step_limit = MAX_STEPS_AT_ONCE
        self.set_exception_handler(
            lambda _loop, _context: None
        )  # what a dead process leaves behind is nobody's concern

    # Time and scheduling

    def time(self) -> float:
        return self._virtual

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        handle = asyncio.Handle(callback, args, self, context)
        self._queue.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._virtual + max(delay, 0.0), callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:  # type: ignore[override]
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers stay in the heap until their time: they are few and soon over."""

    def run_forever(self) -> None:
        """Until `stop()`. Raises Deadlock."""
        asyncio._set_running_loop(self)
        self._halted = False
        try:
            while not self._halted:
                self._turn()
        finally:
            asyncio._set_running_loop(None)

    def stop(self) -> None:
        self._halted = True

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def run_until_complete(self, future: Any) -> Any:
        task = asyncio.ensure_future(future, loop=self)
        task.add_done_callback(lambda _task: self.stop())
        self.run_forever()
        return task.result()

    def drain(self) -> None:
        """The run is over: cancel every task that is left and let it unwind, without time passing."""
        for task in asyncio.all_tasks(self):
            task.cancel()
        self._timers.clear()
        asyncio._set_running_loop(self)
        try:
            with contextlib.suppress(Deadlock, Livelock):
                while True:
                    self._turn()
        finally:
            asyncio._set_running_loop(None)

    def _turn(self) -> None:
        """Everything that is ready now; then time moves on."""
        queue = self._queue
        take = queue.popleft
        while queue:
            if self.steps > self._step_limit:
                raise Livelock(f"{MAX_STEPS_AT_ONCE} steps without time passing; ready: {self._busy()}")
            handle: Any = take()
            if handle._cancelled:
                continue
            context = handle._context
            process: Process | None = context.get(PROCESS)
            if process is not None and process.frozen:
                process.parked.append(handle)
                continue
            if process is None or process.alive:  # the order in which the dead unwind is that of addresses in memory
                self.steps += 1
                self._virtual += STEP_S
            try:
                context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001  # asyncio, too, lets the loop go on
                if process is None or process.alive:
                    self.on_failure(process.name if process else "the world", error)
            if self._halted:
                return
        self._let_time_pass()

    def _let_time_pass(self) -> None:
        """To the next timer, and no further."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            raise Deadlock
        if timers[0][0] > self._virtual:
            self._virtual = timers[0][0]
            self._step_limit = self.steps + MAX_STEPS_AT_ONCE
        while timers and timers[0][0] <= self._virtual:
            timer = heapq.heappop(timers)[2]
            if not timer._cancelled:
                self._queue.append(timer)

    def _busy(self) -> str:
        """Which coroutines are ready, for the reader of a livelock."""
        found = set()
        for handle in itertools.islice(self._queue, 50):
            task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
            if isinstance(task, asyncio.Task):
                found.add(" > ".join(_awaiting(task.get_coro())))
        return "; ".join(sorted(found))

    # What a simulated process must not do

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError(f"{func!r} would run in a thread: the simulation has none")

    def _write_to_self(self) -> None:
        """Nothing waits in a selector."""

    # Processes

    def freeze(self, process: Process) -> None:
        process.frozen = True

    def thaw(self, process: Process) -> None:
        process.frozen = False
        self._queue.extend(process.parked)
        process.parked.clear()


def _awaiting(coroutine: Any) -> Iterator[str]:
    """From the task's coroutine down to what it waits in."""
    while coroutine is not None and getattr(coroutine, "cr_frame", None) is not None:
        yield f"{coroutine.__qualname__}:{coroutine.cr_frame.f_lineno}"
        coroutine = coroutine.cr_await


def run(main: Coroutine[Any, Any, R], loop: SimLoop | None = None) -> R:
    """Run one coroutine on a fresh virtual loop (or the given one) to its end."""
    loop = loop or SimLoop()
    asyncio.set_event_loop(loop)
    try:
        result: R = loop.run_until_complete(main)
        return result
    finally:
        loop.drain()
        asyncio.set_event_loop(None)
        loop.close()
