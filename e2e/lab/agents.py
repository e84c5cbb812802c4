"""One agent process per node, started as the DaemonSet would: inside the node's network, with a config file and directories of its own.

Every agent is told that nodes with the label LEADER_LABEL are candidates; there it starts a leader as its child, as the product does.
"""

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
HEALTH_PORT, LEADER_HEALTH_PORT, PAGE_PORT = 5710, 5711, 5712
READY_TIMEOUT_S = 90.0  # ten nodes on two cores each compile their watcher first
AGENT_COMMAND = (sys.executable, "-m", "nodeagent")
LEADER_LABEL: Mapping[str, str] = {"nephila.io/leader": "true"}
AGENT_LEASE_S = 300.0
"""The agent's own default of `lease.leaseS`; the leader must be told what the agents go by."""


class AgentError(RuntimeError):
    """An agent did not become ready; the message carries the end of its log."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What goes over the lab's own settings of agents and leaders, key by key; mappings are merged. `first`: only on the first node."""

    agent: Mapping[str, object] = field(default_factory=dict)
    first: Mapping[str, object] = field(default_factory=dict)
    leader: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Access:
    """How the programs of one node reach the API server: the `api` section of their settings."""

    agent: Mapping[str, object]
    leader: Mapping[str, object]


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
        """kill -9, its leader with it. What it had in memory is gone; `start` must find everything in its state directory."""
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
    fabric: Fabric,
    node: str,
    run_dir: Path,
    plugins: Path,
    command: Sequence[str],
    access: Access,
    settings: Settings,
) -> Agent:
    """Directories and config files of one agent and of its leader. Starts nothing."""
    directory = run_dir / node
    (directory / "state").mkdir(mode=0o700, parents=True)
    leader_file = directory / "leader.yaml"
    agent = merged(agent_config(node, directory, access, leader_file), settings.agent)
    agent = merged(agent, settings.first if node == fabric.nodes[0] else {})
    leader = merged(leader_config(node, access, agent), settings.leader)
    file = directory / "agent.yaml"
    file.write_text(yaml.safe_dump(agent, sort_keys=False))
    leader_file.write_text(yaml.safe_dump(leader, sort_keys=False))
    network = netns.path_of(fabric.node_ns(node))
    child = Child(f"agent {node}", [*command, "--config", str(file)], directory / "agent.log", network)
    return Agent(node, directory, Executor(network, plugins, run_dir / "shim-times"), child)


def agent_config(node: str, directory: Path, access: Access, leader_file: Path) -> dict[str, object]:
    """The lab's own settings of an agent."""
    return {
        "node": node,
        "socket": str(directory / "nephila.sock"),
        "stateDir": str(directory / "state"),
        "parent": PARENT,
        "api": dict(access.agent),
        "healthAddress": f"127.0.0.1:{HEALTH_PORT}",
        "logLevel": "info",
        "leader": {"enabled": True, "config": str(leader_file), "nodeSelector": dict(LEADER_LABEL)},
    }


def leader_config(node: str, access: Access, agent: Mapping[str, object]) -> dict[str, object]:
    """The lab's own settings of a leader: a lab has no minute to wait for an orphan, so its times are short."""
    lease = agent.get("lease")
    lease_s = lease.get("leaseS", AGENT_LEASE_S) if isinstance(lease, Mapping) else AGENT_LEASE_S
    return {
        "node": node,
        "api": dict(access.leader),
        "healthAddress": f"127.0.0.1:{LEADER_HEALTH_PORT}",
        "pageAddress": f"127.0.0.1:{PAGE_PORT}",
        "election": {"leaseS": 4.0, "renewDeadlineS": 3.0, "retryS": 0.5},
        "reclaim": {"agentLeaseS": lease_s, "graceS": 2.0, "periodS": 0.5},
        "sweep": {"periodS": 1.0, "orphanS": 2.0},
    }


def merged(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """`over` wins; where both have a mapping, they are merged in turn."""
    result = dict(base)
    for key, value in over.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return result


async def start_all(agents: Sequence[Agent]) -> None:
    """Starts all at once and waits for all. Raises AgentError."""
    for agent in agents:
        agent.start()
    await asyncio.gather(*(agent.ready() for agent in agents))
