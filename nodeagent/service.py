"""Composition root of the agent: real adapters, signals, exit codes. `python -m nodeagent --config FILE`."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import signal
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import structlog

from adapters.clock import Clock, SystemClock
from adapters.entropy import Entropy, SystemEntropy
from adapters.health import HealthServer
from adapters.journal.sqlite import JournalLocked, SqliteJournal
from adapters.journal.timed import TimedJournal
from adapters.kube.kubestore import KubeStore
from adapters.kube.transport import connect
from adapters.pulse import STALL_S, Pulse
from adapters.sandboxes import NetnsSandboxes
from adapters.telemetry import ApiMetrics, configure_logging, new_registry
from ipam.addresses import Family
from ipam.errors import BadValue, NephilaError
from nodeagent.agent import Agent
from nodeagent.config import AgentConfig, load_config
from nodeagent.front import log_address_given
from nodeagent.happenings import Happenings
from nodeagent.leader_child import LeaderChild
from nodeagent.metrics import AgentCollector
from nodeagent.metrics_spiderpool import SpiderpoolAgentCollector
from nodeagent.ports import Ports
from nodeagent.request import failure
from nodeagent.segment import NetlinkFacts, ParentSegment
from nodeagent.spool import Spool
from nodeagent.webhook.review import Reviewer
from nodeagent.webhook.server import WebhookServer
from nodeagent.wire import CniSocket
from probes.watcher import Mode

log = structlog.get_logger(__name__)

COMPONENT = "agent"
YOUNG_OBJECTS = 5_000  # between two collections; an ADD makes about a hundred that the collector counts
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


async def run(config: AgentConfig) -> None:
    """Serve until SIGTERM or SIGINT. Raises JournalLocked, OSError, NephilaError."""
    clock, entropy, release = SystemClock(), SystemEntropy(), version("nephila")
    journal = SqliteJournal.open(Path(config.state_dir) / "journal.db")
    transport = await connect(config.api.source(), component=COMPONENT, version=release)
    happened, registry = Happenings(), new_registry(COMPONENT, release)
    store = KubeStore(transport, clock, entropy, on_request=ApiMetrics(registry))
    segments = tuple(
        ParentSegment(
            parent, clock, entropy, Mode(config.probe.watch), happened.on_probe, proxies=config.probe.proxy_macs
        )
        for parent in config.attached().listed
    )
    timed, boot_id = TimedJournal(journal, happened.on_journal), BOOT_ID.read_text().strip()
    netlink, sandboxes = NetlinkFacts(), NetnsSandboxes()
    ports = Ports(
        store, timed, clock, entropy, sandboxes, boot_id, release, segments, netlink.mac_of, why_cut=netlink.why_cut
    )
    agent = Agent(config, ports)
    agent.adding.observers.append(log_address_given)
    socket_path = Path(config.socket)
    cni = CniSocket(socket_path, agent.front.answer, lambda error: failure(error, ""), agent.afterwards.run)
    spool = Spool(socket_path.parent / "spool", agent.verbs.delete, clock)
    pulse = Pulse(clock, _dump_stacks_if_stuck)
    registry.register(AgentCollector(agent, spool, happened, clock, lambda: pulse.worst_lag_s))
    if config.metrics.spiderpool_names:
        registry.register(SpiderpoolAgentCollector(agent, debug=config.metrics.spiderpool_debug_names))
    health = None
    if config.health_address:
        health = HealthServer(config.health_address, registry, agent.why_not_ready, pulse.why_dead)
    _spare_the_collector()
    try:
        await spool.replay()  # before the first ADD can ask for what a spooled DEL frees
        await cni.start()
        if health is not None:
            await health.start()
        extra: list[Runnable] = [_leader_child(config, agent, clock, entropy)] if config.leader.enabled else []
        if config.webhook.address:
            extra.append(_webhook(config, store, clock, happened))
        await _until_signalled(agent, spool, pulse, extra)
    finally:
        await cni.stop()
        if health is not None:
            await health.stop()
        await transport.close()
        await netlink.close()
        journal.close()
        log.info("agent_stopped", node=config.node)


class Runnable(Protocol):
    """An optional part of the agent; `run` ends only when it is cancelled."""

    async def run(self) -> None: ...


def _webhook(config: AgentConfig, store: KubeStore, clock: Clock, happened: Happenings) -> WebhookServer:
    features = config.features
    chosen = {Family.V4: features.enable_ipv4, Family.V6: features.enable_ipv6}
    reviewer = Reviewer(
        store,
        frozenset(family for family, on in chosen.items() if on),
        protect_in_use=features.enable_validating_resources_deleted_webhook,
    )
    return WebhookServer(config.webhook.address, Path(config.webhook.certificates), reviewer, clock, happened.on_review)


def _leader_child(config: AgentConfig, agent: Agent, clock: Clock, entropy: Entropy) -> LeaderChild:
    command = (sys.executable, "-m", "leader", "--config", config.leader.config, "--node", config.node, "--with-parent")
    selector = config.leader.node_selector.items()
    return LeaderChild(
        command, clock, entropy, lambda: agent.world.node is not None and selector <= agent.world.node.labels.items()
    )


async def _until_signalled(agent: Agent, spool: Spool, pulse: Pulse, extra: Iterable[Runnable]) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    work = (agent.run(), spool.run(), pulse.run(), stopped.wait())
    tasks: list[asyncio.Task[Any]] = [loop.create_task(one) for one in work]
    tasks += [loop.create_task(part.run()) for part in extra]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()  # a crashed part ends the agent, loudly: the DaemonSet starts a clean one from the journal


def _spare_the_collector() -> None:
    """What the program's modules made stays for good: looking through all of it took tens of milliseconds, in the middle of some ADD."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def _dump_stacks_if_stuck() -> None:
    """Until the next beat, or else all stacks go to stderr, written by a thread of C that needs neither the loop nor the GIL."""
    faulthandler.dump_traceback_later(STALL_S)


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
