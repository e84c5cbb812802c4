"""One child process with a log file, stopped by its own pid and never left behind.

Each child is started through `setpriv --pdeathsig KILL`: when the thread that started it dies, even by SIGKILL, the
kernel ends the child. So `start` must be called from a thread that lives as long as the cluster (the main one).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

POLL_S = 0.05
TIMED_OUT = 124  # the exit status that `timeout` gives


class ClusterFailed(RuntimeError):
    """A part of the control plane did not do what it was asked in time; the message ends with the tail of its log."""


class Program:
    """Methods may be called from any event loop, one at a time. The log is appended to over restarts."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The pid of the running process, or None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Raises `ClusterFailed` if it runs already or cannot be executed."""
        if self.pid is not None:
            raise ClusterFailed(f"{self.name} runs already as pid {self.pid}")
        command = ["setpriv", "--pdeathsig", "KILL", "--", *self._command]
        with self.log.open("ab") as output:
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            except OSError as error:
                raise ClusterFailed(f"{self.name} could not be started: {error}") from error

    async def stop(self, *, grace_s: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after `grace_s`; returns when it is gone. Does nothing if it does not run."""
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # a paused process gets no other signal
        if not await self._gone(grace_s):
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL, as in a crash."""
        self._signal(signal.SIGKILL)
        if not await self._gone(10.0):
            raise ClusterFailed(f"{self.name} (pid {self.pid}) did not end within 10 s of SIGKILL")

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def rss_bytes(self) -> int:
        """Resident memory now; 0 if it does not run."""
        if self.pid is None:
            return 0
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def tail(self, lines: int = 30) -> str:
        """The last lines of the log, with a heading."""
        text = self.log.read_text(errors="replace").splitlines()[-lines:] if self.log.exists() else []
        return "\n".join((f"--- last {len(text)} lines of {self.log} ---", *text))

    async def wait_until(self, ready: Callable[[], Awaitable[str]], *, timeout_s: float) -> float:
        """Polls until `ready` returns "" (else it says what is missing) and gives the seconds waited.

        Raises `ClusterFailed` at once if the process ends, or after `timeout_s`.
        """
        started = time.monotonic()
        while True:
            missing = await ready()
            waited = time.monotonic() - started
            if not missing:
                return waited
            if self.pid is None:
                code = self._process.returncode if self._process else None
                raise ClusterFailed(f"{self.name} ended with code {code} while starting\n{self.tail()}")
            if waited > timeout_s:
                raise ClusterFailed(f"{self.name} not ready after {waited:.0f} s: {missing}\n{self.tail()}")
            await asyncio.sleep(POLL_S)

    async def _gone(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.pid is not None:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S / 5)
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


async def run_to_end(*command: str, what: str, timeout_s: float) -> tuple[int, str]:
    """Exit status, and all that it said on both outputs. One that takes too long is killed: 124, and words with `what` in them."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(timeout_s):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return TIMED_OUT, f"{what} took more than {timeout_s:.0f} s"
    return process.returncode or 0, said.decode(errors="replace")
