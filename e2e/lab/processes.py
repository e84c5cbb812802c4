"""Child processes of the lab: each in a session of its own, killed with the lab, its output in a file.

The own session keeps the terminal's Ctrl-C away from the children, so that the lab ends them in its own order. `setpriv --pdeathsig`
covers the one case in which the lab cannot: its own SIGKILL.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TERM_GRACE_S = 5.0
KILL_WAIT_S = 5.0


@dataclass(slots=True)
class Child:
    """One restartable process. Start it from the main thread only: its death signal is tied to the thread that starts it."""

    name: str
    command: Sequence[str]
    log: Path
    network: Path | None = None
    environment: Mapping[str, str] | None = None
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Raises RuntimeError if it already runs, OSError if it cannot be executed."""
        if self.alive:
            raise RuntimeError(f"{self.name} already runs as pid {self.pid}")
        enter = ["nsenter", f"--net={self.network}"] if self.network is not None else []
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *enter, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **(self.environment or {})},
            )
        self.starts += 1

    def kill(self) -> None:
        """SIGKILL to the process and all its descendants in its session's group, as when a container is killed. Waits until it is gone."""
        self._signal(signal.SIGKILL)
        self._wait(KILL_WAIT_S)

    async def stop(self) -> int | None:
        """SIGTERM, then SIGKILL after a grace of 5 s. Returns the exit status (negative: the signal), None if it never ran."""
        self._signal(signal.SIGTERM)
        await asyncio.to_thread(self._wait, TERM_GRACE_S)
        if self.alive:
            await asyncio.to_thread(self.kill)
        self._signal(signal.SIGKILL)  # what the leader of the group left behind
        return self._process.returncode if self._process is not None else None

    def tail(self, lines: int = 20) -> str:
        """The end of its log, for error messages."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _wait(self, timeout_s: float) -> None:
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
