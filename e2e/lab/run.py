"""Runs one scenario from nothing to nothing and sums it up."""

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from e2e.lab import checks, display, fabric, labs
from e2e.lab.agents import AGENT_COMMAND
from e2e.lab.checks import LivePod
from e2e.lab.labs import HOME, Lab, Plan
from e2e.lab.report import Step, Summary, Tally, count_requests, summarize
from e2e.lab.runtime import shim_times

RUN_TIMEOUT_S = 420.0
PINGING_PODS = 60
FAILED_LOGS = Path(__file__).resolve().parents[2] / "build" / "lab" / "failed"


class ScenarioStopped(Exception):
    """A step failed so that the following ones would mean nothing."""


@dataclass(slots=True)
class Finding:
    """What a step reports: problems fail it, the note is shown beside it."""

    problems: list[str] = field(default_factory=list)
    note: str = ""


@dataclass(slots=True)
class Run:
    """What a scenario is given."""

    lab: Lab
    tally: Tally
    announce: Callable[[Step], None]

    @contextlib.asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[Finding]:
        """Times the step and records it. A TimeoutError inside becomes a problem and ends the scenario."""
        finding, begun = Finding(), time.monotonic()
        stopped = ""
        try:
            yield finding
        except (TimeoutError, RuntimeError) as error:
            stopped = str(error) or repr(error)
            finding.problems.append(stopped)
        step = Step(name, round(time.monotonic() - begun, 3), tuple(finding.problems), finding.note)
        self.tally.steps.append(step)
        self.announce(step)
        if stopped:
            raise ScenarioStopped(name)

    async def verify(self, name: str) -> list[LivePod]:
        """All checks of a quiet cluster. Returns the pods as the kernel has them."""
        lab = self.lab
        async with self.step(name) as finding:
            pods = await checks.look(lab.cluster)
            self.tally.saw(len(pods), sum(len(pod.addresses) for pod in pods))
            finding.problems += checks.addressed(pods) + checks.unique(pods)
            finding.problems += checks.match_status(pods, lab.cluster.pods())
            finding.problems += await checks.in_pools(lab.api, pods)
            finding.problems += await checks.match_endpoints(lab.api, pods)
            finding.problems += await checks.held(lab.journals(), pods)
            pings = await checks.ping(pods, PINGING_PODS)
            self.tally.pings_sent += pings.sent
            self.tally.pings_lost += len(pings.lost)
            finding.problems += pings.lost
            finding.note = f"{len(pods)} pods, {sum(len(pod.addresses) for pod in pods)} addresses, {pings.sent} pings"
        return pods


@dataclass(frozen=True, slots=True)
class Scenario:
    """A module of `e2e.lab.scenarios`: its `run`, how many nodes it wants, and settings of the agents that it needs."""

    name: str
    title: str
    nodes: int
    run: Callable[[Run], Awaitable[None]]
    agent_settings: Mapping[str, object] = field(default_factory=dict)


def load(name: str) -> Scenario:
    """Raises ValueError with the names that exist."""
    known = scenario_names()
    if name not in known:
        raise ValueError(f"no scenario {name!r}; there are: {', '.join(known)}")
    module = importlib.import_module(f"e2e.lab.scenarios.{name.replace('-', '_')}")
    return Scenario(name, module.TITLE, module.NODES, module.run, getattr(module, "AGENT_SETTINGS", {}))


def scenario_names() -> list[str]:
    """`leader-kill` is the module `leader_kill`."""
    folder = Path(__file__).with_name("scenarios")
    return sorted(path.stem.replace("_", "-") for path in folder.glob("*.py") if path.stem != "__init__")


async def run_scenario(
    scenario: Scenario, nodes: int | None, console: Console, agent_command: Sequence[str] = AGENT_COMMAND
) -> Summary:
    """Builds the lab, runs the scenario, takes the lab down, looks for leftovers. Raises what `labs.build` raises."""
    begun = time.monotonic()
    plan = Plan(nodes or scenario.nodes, agent_command, scenario.agent_settings)
    tally = Tally()
    async with asyncio.timeout(RUN_TIMEOUT_S), labs.build(plan) as lab:
        up = Step(f"lab of {plan.nodes} nodes is up", round(time.monotonic() - begun, 3))
        tally.steps.append(up)
        display.step_line(console, up)
        run = Run(lab, tally, lambda step: display.step_line(console, step))
        async with display.live(console, lab.cluster, lab.ledger, tally, scenario.title):
            with contextlib.suppress(ScenarioStopped):
                await scenario.run(run)
        adds = sum(1 for call in lab.ledger.calls if call.verb == "ADD")
        requests = count_requests(await lab.server.requests(), adds)
        shim, ledger = shim_times(lab.times), lab.ledger
        lab.ledger.given_up += lab.cluster.problems
        if ledger.errors() or any(step.problems for step in tally.steps):
            lab.save_logs(FAILED_LOGS)
    leftovers = _leftovers(lab.prefix, lab.run_dir)
    seconds = time.monotonic() - begun
    return summarize(scenario.name, plan.nodes, tally, ledger, shim, requests, leftovers, seconds)


def _leftovers(prefix: str, run_dir: Path) -> tuple[str, ...]:
    files: Iterable[str] = [str(run_dir)] if run_dir.exists() and run_dir.parent == HOME else []
    return tuple([*fabric.leftovers(prefix), *files])
