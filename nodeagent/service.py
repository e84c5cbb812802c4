"""Composition root of the agent: real adapters, signals, exit codes. `python -m nodeagent --config FILE`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from adapters.clock import Clock, SystemClock
from adapters.entropy import Entropy, SystemEntropy
from adapters.journal.sqlite import JournalLocked, SqliteJournal
from adapters.kube.kubestore import KubeStore
from adapters.kube.transport import connect
from adapters.sandboxes import NetnsSandboxes
from adapters.telemetry import configure_logging
from ipam.errors import BadValue, NephilaError
from nodeagent.agent import Agent, Ports
from nodeagent.config import AgentConfig, load_config
from nodeagent.health import HealthServer
from nodeagent.leader_child import LeaderChild
from nodeagent.metrics import AgentCollector
from nodeagent.request import failure
from nodeagent.segment import ParentSegment
from nodeagent.spool import Spool
from nodeagent.wire import CniSocket
from probes.watcher import Mode

log = structlog.get_logger(__name__)

COMPONENT = "agent"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


async def run(config: AgentConfig) -> None:
    """Serve until SIGTERM or SIGINT. Raises JournalLocked, OSError, NephilaError."""
    clock, entropy, release = SystemClock(), SystemEntropy(), version("nephila")
    journal = SqliteJournal.open(Path(config.state_dir) / "journal.db")
    transport = await connect(config.api.source(), component=COMPONENT, version=release)
    store = KubeStore(transport, clock, entropy)
    segment = ParentSegment(config.parent, clock, entropy, Mode(config.probe.watch)) if config.parent else None
    ports = Ports(store, journal, clock, entropy, NetnsSandboxes(), BOOT_ID.read_text().strip(), release, segment)
    agent = Agent(config, ports)
    socket_path = Path(config.socket)
    cni = CniSocket(socket_path, agent.serve, lambda error: failure(error, ""))
    spool = Spool(socket_path.parent / "spool", agent.verbs, clock)
    registry = CollectorRegistry()
    registry.register(AgentCollector(agent, spool))
    health = HealthServer(config.health_address, registry, agent.why_closed) if config.health_address else None
    try:
        await spool.replay()  # before the first ADD can ask for what a spooled DEL frees
        await cni.start()
        if health is not None:
            await health.start()
        await _until_signalled(agent, spool, _leader_child(config, agent, clock, entropy))
    finally:
        await cni.stop()
        if health is not None:
            await health.stop()
        await transport.close()
        journal.close()
        log.info("agent_stopped", node=config.node)


def _leader_child(config: AgentConfig, agent: Agent, clock: Clock, entropy: Entropy) -> LeaderChild | None:
    if not config.leader.enabled:
        return None
    command = (sys.executable, "-m", "leader", "--config", config.leader.config, "--node", config.node, "--with-parent")
    selector = config.leader.node_selector.items()
    return LeaderChild(
        command, clock, entropy, lambda: agent.world.node is not None and selector <= agent.world.node.labels.items()
    )


async def _until_signalled(agent: Agent, spool: Spool, leader: LeaderChild | None) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    tasks = [loop.create_task(agent.run()), loop.create_task(spool.run()), loop.create_task(stopped.wait())]
    if leader is not None:
        tasks.append(loop.create_task(leader.run()))
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()  # a crashed part ends the agent, loudly: the DaemonSet starts a clean one from the journal


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 stopped by signal, 1 failed, 2 bad configuration, 75 another agent holds the journal (try again later)."""
    parser = argparse.ArgumentParser(prog="nephila-agent", description="Nephila's agent: one per node")
    parser.add_argument("--config", type=Path, required=True, help="YAML file with the agent's settings")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config)
    except BadValue as error:
        print(f"nephila-agent: {error}", file=sys.stderr)
        return 2
    configure_logging(config.log_level)
    try:
        asyncio.run(run(config))
    except JournalLocked as error:
        log.error("journal_locked", error=str(error))
        return 75
    except (NephilaError, OSError) as error:
        log.error("agent_failed", error=str(error))
        return 1
    return 0
