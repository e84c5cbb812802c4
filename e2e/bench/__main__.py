"""``python -m e2e.bench``: the shim's cost beside an empty binary and host-local; with ``--socket``, the agent's too."""

import contextlib
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cni.build import BuildError
from e2e.bench import contenders, report
from e2e.bench.measure import Mode, Series, measure
from e2e.bench.spawning import BenchError, build_tools

OUTDIR = Path(__file__).resolve().parents[2] / "build" / "bench"


def bench(
    *,
    socket: Annotated[Path | None, typer.Option(help="measure the agent that listens here too")] = None,
    ipam: Annotated[str, typer.Option(help="JSON merged into the agent's ipam block, such as its pools")] = "{}",
    netns: Annotated[str, typer.Option(help="CNI_NETNS, {n} is the pod's number")] = "/var/run/netns/bench-{n}",
    pods: Annotated[str, typer.Option(help="program run as `PROGRAM up|down FIRST COUNT` around each round")] = "",
    rounds: Annotated[int, typer.Option(min=1)] = 10,
    count: Annotated[int, typer.Option(min=1, max=1000, help="processes a round, one after the other")] = 50,
    burst: Annotated[int, typer.Option(min=0, max=1000, help="processes started at once; 0: none")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Measure CNI plugins side by side, from process start to exit."""
    modes = [Mode("one at a time", rounds, count, 1)]
    if burst:
        modes.append(Mode(f"{burst} at once", rounds, burst, burst))
    try:
        series = run(modes, socket, ipam, netns, pods)
    except (BenchError, BuildError) as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(report.as_json(series), indent=2))
    else:
        Console(width=110).print(report.as_table(series))
    for one in series:
        if one.failed:
            typer.echo(f"{one.contender}, {one.mode}, {one.verb}: {one.failed} failed: {one.said}", err=True)
    if any(one.failed for one in series):
        raise typer.Exit(1)


def run(modes: list[Mode], socket: Path | None, ipam: str, netns: str, pods: str) -> list[Series]:
    """Builds what is needed, starts the small servers, measures."""
    tools = build_tools(OUTDIR)
    with contextlib.ExitStack() as stack:
        measured = [
            contenders.empty(tools),
            stack.enter_context(contenders.shim_before_echo(tools)),
            stack.enter_context(contenders.host_local()),
        ]
        if socket is not None:
            create = contenders.command_hook(pods, "up") if pods else contenders.no_pods
            remove = contenders.command_hook(pods, "down") if pods else contenders.no_pods
            measured.append(
                contenders.shim_before_agent(tools, socket, contenders.parse_ipam(ipam), netns, create, remove)
            )
        return measure(tools, measured, modes)


if __name__ == "__main__":
    typer.run(bench)
