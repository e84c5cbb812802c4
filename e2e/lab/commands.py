"""The verbs of `nephila lab`, synchronous, each returning its exit status. Progress goes to stderr when stdout is to carry JSON."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

from rich.console import Console

from e2e.cluster.binaries import BuildFailed
from e2e.cluster.program import ClusterFailed
from e2e.lab import compare as comparison
from e2e.lab import display, standing
from e2e.lab import run as runs
from e2e.lab.agents import AgentError
from e2e.lab.apiserver import ApiServerError
from e2e.lab.fabric import FabricError
from e2e.lab.plugins import PluginsError
from e2e.lab.servers import ServerName

T = TypeVar("T")
REFUSALS = (
    AgentError,
    ApiServerError,
    BuildFailed,
    ClusterFailed,
    FabricError,
    PluginsError,
    TimeoutError,
    PermissionError,
    ValueError,
)


class Interrupted(Exception):
    """The user asked to stop; everything has been taken down."""


def run(
    name: str,
    nodes: int | None,
    output: Literal["text", "json"],
    server: ServerName = "embedded",
    size: int | None = None,
) -> int:
    """0 if the scenario passed, 1 if not, 2 if the lab could not be built, 130 after Ctrl-C."""
    console = Console(stderr=output == "json")
    try:
        summary = run_to_end(runs.run_scenario(runs.load(name), nodes, console, server=server, size=size))
    except Interrupted:
        console.print("interrupted; everything has been taken down")
        return 130
    except REFUSALS as error:
        return refuse(error)
    if output == "json":
        sys.stdout.write(summary.as_json() + "\n")
    else:
        console.print(display.summary_panel(summary))
        if not summary.passed:
            console.print(f"logs: {runs.FAILED_LOGS}")
    return 0 if summary.passed else 1


def compare(name: str) -> int:
    """The scenario on both API servers, one after the other; 0 if both passed."""
    console = Console()
    servers: tuple[ServerName, ...] = ("embedded", "real")
    try:
        summaries = [run_to_end(runs.run_scenario(runs.load(name), None, console, server=server)) for server in servers]
    except Interrupted:
        return 130
    except REFUSALS as error:
        return refuse(error)
    console.print(comparison.table(summaries))
    return 0 if all(summary.passed for summary in summaries) else 1


def scenarios() -> int:
    for name in runs.scenario_names():
        sys.stdout.write(f"{name:<18} {runs.load(name).title}\n")
    return 0


def up(nodes: int, apply: Literal["examples", "nothing"]) -> int:
    try:
        state = standing.start(nodes, apply)
    except (standing.StandingError, *REFUSALS) as error:
        return refuse(error)
    sys.stdout.write(
        f"A lab of {nodes} nodes stands.\n"
        f"  nephila lab shell              here, with KUBECONFIG set ({state.kubeconfig})\n"
        f"  nephila lab shell node-1       inside a node; also gateway, foreign, NAMESPACE/POD\n"
        f"  nephila lab down               take it down\n"
        f"  {state.page:<30} the leader's page: pools, addresses, who has what\n"
        f"  logs and state: {state.run_dir}\n"
    )
    return 0


def down() -> int:
    """0 also if there was none."""
    sys.stdout.write("The lab is gone.\n" if standing.stop() else "There was no lab.\n")
    return 0


def shell(where: str, command: list[str]) -> int:
    try:
        return standing.enter(where, command)
    except (standing.StandingError, ValueError) as error:
        return refuse(error)


def serve(nodes: int, apply: Literal["examples", "nothing"]) -> int:
    """The process behind `up`: keeps the lab until SIGTERM."""
    try:
        run_to_end(standing.serve(nodes, apply))
    except Interrupted:
        return 0
    except REFUSALS as error:
        return refuse(error)
    return 0


def refuse(error: BaseException) -> int:
    sys.stderr.write(f"nephila lab: {error or repr(error)}\n")
    return 2


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Runs it; the first SIGINT, SIGTERM or SIGHUP cancels it, further ones cannot disturb the taking down. Raises Interrupted then."""

    async def body() -> T:
        task = asyncio.current_task()
        assert task is not None
        asked: list[int] = []

        def ask(number: int) -> None:
            if not asked:
                task.cancel()
            asked.append(number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, ask, number)
        try:
            return await work
        except asyncio.CancelledError:
            if asked:
                raise Interrupted from None
            raise

    return asyncio.run(body())
