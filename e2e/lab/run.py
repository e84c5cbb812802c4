"""Runs one scenario from nothing to nothing and sums it up."""

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from e2e.lab import checks, display, fabric, labs, outcomes, traces
from e2e.lab import vitals as vital_signs
from e2e.lab.agents import AGENT_COMMAND, Settings
from e2e.lab.checks import LivePod
from e2e.lab.labs import HOME, Lab, Plan
from e2e.lab.report import Requests, Setting, Step, Summary, Tally, count_requests, summarize
from e2e.lab.runtime import shim_times
from e2e.lab.servers import ServerName

RUN_TIMEOUT_S = 600.0
PINGING_PODS = 60
POLL_S = 0.1
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
    size: int | None = None  # instead of the scenario's own number of pods, where it has one

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

    async def until(self, met: Callable[[], Awaitable[bool]], timeout_s: float, what: str) -> float:
        """Asks ten times a second; returns the seconds it took. Raises TimeoutError saying `what` did not happen."""
        begun = time.monotonic()
        for _ in range(int(timeout_s / POLL_S)):
            if await met():
                return time.monotonic() - begun
            if time.monotonic() - begun > timeout_s:
                break
            await asyncio.sleep(POLL_S)
        raise TimeoutError(f"not within {timeout_s:.0f} s: {what}")

    async def requests(self) -> Requests:
        """What the server has counted so far; nothing if it does not count."""
        return count_requests(await self.lab.server.requests(), 0) or Requests(0, 0.0, {})


@dataclass(frozen=True, slots=True)
class Scenario:
    """A module of `e2e.lab.scenarios`: its `run`, how many nodes it wants, settings of agents and leaders, and the folder of its manifests."""

    name: str
    title: str
    nodes: int
    run: Callable[[Run], Awaitable[None]]
    settings: Settings = field(default_factory=Settings)
    manifests: Path = labs.MANIFESTS


def load(name: str) -> Scenario:
    """Raises ValueError with the names that exist."""
    known = scenario_names()
    if name not in known:
        raise ValueError(f"no scenario {name!r}; there are: {', '.join(known)}")
    module = importlib.import_module(f"e2e.lab.scenarios.{name.replace('-', '_')}")
    names = ("AGENT_SETTINGS", "FIRST_AGENT_SETTINGS", "LEADER_SETTINGS")
    settings = Settings(*(getattr(module, name, {}) for name in names))
    folder = getattr(module, "MANIFESTS", labs.MANIFESTS)
    return Scenario(name, module.TITLE, module.NODES, module.run, settings, folder)


def scenario_names() -> list[str]:
    """`leader-kill` is the module `leader_kill`."""
    folder = Path(__file__).with_name("scenarios")
    return sorted(path.stem.replace("_", "-") for path in folder.glob("*.py") if path.stem != "__init__")


async def run_scenario(
    scenario: Scenario,
    nodes: int | None,
    console: Console,
    agent_command: Sequence[str] = AGENT_COMMAND,
    server: ServerName = "embedded",
    size: int | None = None,
) -> Summary:
    """Builds the lab, runs the scenario, takes the lab down, looks for leftovers. Raises what `labs.build` raises."""
    begun = time.monotonic()
    plan = Plan(nodes or scenario.nodes, agent_command, scenario.settings, server, scenario.manifests)
    tally = Tally()
    async with asyncio.timeout(RUN_TIMEOUT_S), labs.build(plan) as lab:
        up = Step(f"lab of {plan.nodes} nodes is up", round(time.monotonic() - begun, 3))
        tally.steps.append(up)
        display.step_line(console, up)
        console.print(f"  to look at while it runs: {lab.page}", highlight=False)
        run = Run(lab, tally, lambda step: display.step_line(console, step), size)
        async with display.live(console, lab.cluster, lab.ledger, tally, scenario.title):
            with contextlib.suppress(ScenarioStopped):
                await scenario.run(run)
        await _conclude(lab, tally)
        shim = shim_times(lab.times)
        served = outcomes.served(agent.log for agent in lab.agents.values())
    leftovers = _leftovers(lab)
    setting = Setting(scenario.name, server, plan.nodes)
    return summarize(setting, tally, lab.ledger, shim, served, leftovers, time.monotonic() - begun)


async def _conclude(lab: Lab, tally: Tally) -> None:
    """What can only be asked while the lab still stands."""
    adds = sum(1 for call in lab.ledger.calls if call.verb == "ADD")
    tally.requests = count_requests(await lab.server.requests(), adds)
    tally.vitals = await vital_signs.take(lab.api, lab.agents)
    lab.ledger.given_up += lab.cluster.problems
    if lab.ledger.errors() or any(step.problems for step in tally.steps):
        lab.save_logs(FAILED_LOGS)


def _leftovers(lab: Lab) -> tuple[str, ...]:
    files: Iterable[str] = [str(lab.run_dir)] if lab.run_dir.exists() and lab.run_dir.parent == HOME else []
    return tuple([*fabric.leftovers(lab.prefix), *files, *traces.left(lab.traces)])
