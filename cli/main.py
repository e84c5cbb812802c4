"""`nephila`, also installed as `kubectl-nephila`. Every command imports what it needs when it runs, so that `--help` is quick."""

import os
import sys
from typing import Annotated, NoReturn

import typer

app = typer.Typer(
    name="nephila",
    help="IP addresses for Kubernetes pods on an underlay network.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
lab = typer.Typer(help="A cluster of network namespaces on this machine (root, Linux).", no_args_is_help=True)
app.add_typer(lab, name="lab")

Nodes = Annotated[int | None, typer.Option("--nodes", min=1, max=100, help="Number of nodes.")]


@lab.command("run")
def lab_run(
    scenario: Annotated[str, typer.Argument(help="See `nephila lab scenarios`.")] = "story",
    nodes: Nodes = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run a scenario from nothing to nothing and check it."""
    _lab("run", scenario, *_count(nodes), *(["--json"] if json else []))


@lab.command("up")
def lab_up(
    nodes: Nodes = None,
    empty: Annotated[bool, typer.Option("--empty", help="Do not apply the example manifests.")] = False,
) -> None:
    """Start a lab that stays until `nephila lab down`."""
    _lab("up", *_count(nodes), *(["--empty"] if empty else []))


@lab.command("down")
def lab_down() -> None:
    """Take the standing lab down."""
    _lab("down")


@lab.command("shell", context_settings={"allow_interspersed_args": False})
def lab_shell(
    where: Annotated[
        str, typer.Argument(help="node-1, NAMESPACE/POD, gateway or foreign; none: here, with KUBECONFIG.")
    ] = "",
    command: Annotated[list[str] | None, typer.Argument(help="Run this instead of a shell.")] = None,
) -> None:
    """Open a shell inside a node, a pod, the gateway or the foreign host."""
    _lab("shell", *([where] if where or command else []), *(command or []))


@lab.command("scenarios")
def lab_scenarios() -> None:
    """List the scenarios."""
    _lab("scenarios")


def _count(nodes: int | None) -> list[str]:
    return [] if nodes is None else ["--nodes", str(nodes)]


def _lab(*arguments: str) -> NoReturn:
    """The lab is a layer above this one and a large program: it replaces this process."""
    os.execv(sys.executable, [sys.executable, "-m", "e2e.lab", *arguments])


def main() -> None:
    """Console script."""
    app()
