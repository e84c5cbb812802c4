"""Composition root of the leader: real adapters, signals, exit codes. `python -m leader --config FILE`."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import structlog

from adapters.clock import SystemClock
from adapters.entropy import SystemEntropy
from adapters.health import HealthServer
from adapters.kube.events import EventRecorder
from adapters.kube.kubestore import KubeStore
from adapters.kube.transport import connect
from adapters.pulse import STALL_S, Pulse
from adapters.telemetry import ApiMetrics, configure_logging, new_registry
from ipam.errors import BadValue, NephilaError
from leader.announce import EventAnnouncer
from leader.config import LeaderConfig, load_config
from leader.leader import Leader, Ports
from leader.metrics import LeaderCollector
from leader.metrics_spiderpool import SpiderpoolLeaderCollector
from leader.page.server import LeaderSource, PageServer

log = structlog.get_logger(__name__)

COMPONENT = "leader"
REPORTER = "nephila.io/leader"


async def run(config: LeaderConfig, *, parent_pipe: int | None = None) -> None:
    """Lead or stand by until SIGTERM or SIGINT, or until the parent's end of `parent_pipe` is closed. Raises OSError, NephilaError."""
    clock, entropy = SystemClock(), SystemEntropy()
    release = version("nephila")
    registry = new_registry(COMPONENT, release)
    transport = await connect(config.api.source(), component=COMPONENT, version=release)
    store = KubeStore(transport, clock, entropy, on_request=ApiMetrics(registry))
    events = EventRecorder(store, clock, entropy, controller=REPORTER, instance=config.node)
    leader = Leader(config, Ports(store, clock, entropy, EventAnnouncer(events)))
    telling = asyncio.create_task(events.run(), name="events")
    # Until the next beat, or else all stacks go to stderr, written by a thread of C that needs neither the loop nor the GIL.
    pulse = Pulse(clock, lambda: faulthandler.dump_traceback_later(STALL_S))
    beating = asyncio.create_task(pulse.run(), name="pulse")
    registry.register(LeaderCollector(leader, clock, lambda: events.dropped, lambda: pulse.worst_lag_s))
    if config.metrics.spiderpool_names:
        registry.register(SpiderpoolLeaderCollector(leader, debug=config.metrics.spiderpool_debug_names))
    health = None
    if config.health_address:
        health = HealthServer(config.health_address, registry, leader.why_not_ready, pulse.why_dead)
    page = None
    if config.page_address:
        page = PageServer(config.page_address, LeaderSource(leader), store, clock)
    try:
        if health is not None:
            await health.start()
        if page is not None:
            await page.start()
        await _until_told(leader, parent_pipe)
    finally:
        telling.cancel()
        beating.cancel()
        if page is not None:
            await page.stop()
        if health is not None:
            await health.stop()
        await transport.close()
        log.info("leader_stopped", node=config.node)


async def _until_told(leader: Leader, parent_pipe: int | None) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if parent_pipe is not None:
        loop.add_reader(parent_pipe, _on_parent, parent_pipe, stopped)
    running = loop.create_task(leader.run())
    told = loop.create_task(stopped.wait())
    await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    running.cancel()
    await asyncio.wait({running})
    if not running.cancelled():
        running.result()  # a crashed leader ends, loudly: the agent starts a clean one


def _on_parent(pipe: int, stopped: asyncio.Event) -> None:
    """The agent never writes; what can be read is the end of the pipe, however the agent ended."""
    if not os.read(pipe, 4096):
        asyncio.get_running_loop().remove_reader(pipe)
        stopped.set()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 stopped by signal or with its parent, 1 failed, 2 bad configuration."""
    parser = argparse.ArgumentParser(prog="nephila-leader", description="Nephila's leader: one of the candidates leads")
    parser.add_argument("--config", type=Path, required=True, help="YAML file with the leader's settings")
    parser.add_argument("--node", default="", help="name of this node; wins over the file's")
    parser.add_argument("--with-parent", action="store_true", help="stop when standard input is closed")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, node=options.node)
    except BadValue as error:
        print(f"nephila-leader: {error}", file=sys.stderr)
        return 2
    configure_logging(config.log_level)
    try:
        asyncio.run(run(config, parent_pipe=sys.stdin.fileno() if options.with_parent else None))
    except (NephilaError, OSError) as error:
        log.error("leader_failed", error=str(error))
        return 1
    return 0
