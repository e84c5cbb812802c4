"""Who leads, and the leader's process: a child of the agent on a candidate node."""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.lab.agents import Agent
from e2e.lab.api import Api, ApiError

LOCK = "nephila"
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Reign:
    """The LeaderLock as read. `node` is "" while nobody leads."""

    node: str
    holder: str
    term: int


async def reign(api: Api) -> Reign:
    """Who holds the lock now; an absent lock is nobody's."""
    try:
        spec = (await api.get("LeaderLock", LOCK))["spec"]
    except ApiError as error:
        if error.status != 404:
            raise
        return Reign("", "", 0)
    holder = str(spec.get("holder", ""))
    return Reign(holder.rpartition("-")[0], holder, int(spec.get("term", 0)))


async def wait_for_leader(api: Api, timeout_s: float, after_term: int = 0) -> tuple[Reign, float]:
    """The first reign with a term above `after_term`, and the seconds waited. Raises TimeoutError."""
    begun = time.monotonic()
    while time.monotonic() - begun < timeout_s:
        found = await reign(api)
        if found.node and found.term > after_term:
            return found, time.monotonic() - begun
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"nobody leads after {timeout_s:.0f} s")


def pid_of_leader(agent: Agent) -> int | None:
    """The agent's child that is a leader; None if there is none now."""
    for pid, parent in _processes().items():
        if parent == agent.child.pid and b"leader" in _command_line(pid):
            return pid
    return None


def rss_mib(pids: Iterable[int | None]) -> float:
    """The largest resident set among the processes, in MiB; 0.0 if none runs."""
    sizes = []
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            line = next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmRSS"))
            sizes.append(int(line.split()[1]) / 1024)
    return round(max(sizes, default=0.0), 1)


def all_leaders(agents: Mapping[str, Agent]) -> dict[str, int]:
    """Node → pid of every leader process, standbys included."""
    found = {node: pid_of_leader(agent) for node, agent in agents.items()}
    return {node: pid for node, pid in found.items() if pid is not None}


def _processes() -> dict[int, int]:
    """pid → parent's pid, of all processes."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def _command_line(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
