"""One agent process per node, started as the DaemonSet would: inside the node's network, with a config file and directories of its own."""

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from e2e.lab import netns
from e2e.lab.fabric import PARENT, Fabric
from e2e.lab.processes import Child
from e2e.lab.runtime import Executor

API_PORT = 8001
HEALTH_PORT = 5710
READY_TIMEOUT_S = 30.0
AGENT_COMMAND = (sys.executable, "-m", "nodeagent")


class AgentError(RuntimeError):
    """An agent did not become ready; the message carries the end of its log."""


@dataclass(slots=True)
class Agent:
    """The agent of one node and where its things are."""

    node: str
    directory: Path
    executor: Executor
    child: Child
    down_since: float | None = None
    outages: list[tuple[float, float]] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        return self.directory / "nephila.sock"

    @property
    def log(self) -> Path:
        return self.child.log

    def start(self) -> None:
        self.child.start()

    def kill(self) -> None:
        """kill -9. What it had in memory is gone; `start` must find everything in its state directory."""
        self.down_since = self.down_since or time.monotonic()
        self.child.kill()

    async def stop(self) -> int | None:
        self.down_since = self.down_since or time.monotonic()
        return await self.child.stop()

    async def ready(self, timeout_s: float = READY_TIMEOUT_S) -> float:
        """Waits until STATUS through the shim succeeds. Returns the seconds waited. Raises AgentError."""
        begun = time.monotonic()
        last = b""
        while time.monotonic() - begun < timeout_s:
            if not self.child.alive:
                raise AgentError(f"the agent of {self.node} ended\n{self.child.tail()}")
            if self.socket.exists():
                status, last, _ = await self.status()
                if status == 0:
                    if self.down_since is not None:
                        self.outages.append((self.down_since, time.monotonic()))
                        self.down_since = None
                    return time.monotonic() - begun
            await asyncio.sleep(0.05)
        words = last.decode(errors="replace")
        raise AgentError(f"the agent of {self.node} was not ready in {timeout_s:.0f} s: {words}\n{self.child.tail()}")

    async def status(self) -> tuple[int, bytes, bytes]:
        """The STATUS verb, as a runtime would ask it."""
        ipam = {"type": "nephila", "ipam_unix_socket_path": str(self.socket)}
        config = {"cniVersion": "1.1.0", "name": "underlay", "type": "nephila", "ipam": ipam}
        return await self.executor.execute("nephila", json.dumps(config).encode(), {"CNI_COMMAND": "STATUS"})

    def was_down(self, begun: float, ended: float) -> bool:
        """Whether the lab had taken the agent down during any part of that span (monotonic seconds)."""
        spans = [*self.outages, *([(self.down_since, float("inf"))] if self.down_since is not None else [])]
        return any(start <= ended and begun <= end for start, end in spans)


def make(
    fabric: Fabric, node: str, run_dir: Path, plugins: Path, command: Sequence[str], settings: Mapping[str, object]
) -> Agent:
    """Directories and config file of one agent; `settings` go over the lab's own. Starts nothing."""
    directory = run_dir / node
    (directory / "state").mkdir(mode=0o700, parents=True)
    config = {
        "node": node,
        "socket": str(directory / "nephila.sock"),
        "stateDir": str(directory / "state"),
        "parent": PARENT,
        "api": {"url": f"http://127.0.0.1:{API_PORT}"},
        "healthAddress": f"127.0.0.1:{HEALTH_PORT}",
        "logLevel": "info",
        **settings,
    }
    file = directory / "agent.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    network = netns.path_of(fabric.node_ns(node))
    child = Child(f"agent {node}", [*command, "--config", str(file)], directory / "agent.log", network)
    return Agent(node, directory, Executor(network, plugins, run_dir / "shim-times"), child)


async def start_all(agents: Sequence[Agent]) -> None:
    """Starts all at once and waits for all. Raises AgentError."""
    for agent in agents:
        agent.start()
    await asyncio.gather(*(agent.ready() for agent in agents))
