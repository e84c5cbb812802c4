"""`nephila`, also installed as `kubectl-nephila`. Every command imports what it needs when it runs, so that `--help` is quick.

This module only wires: options to arguments, arguments to one function of `cli.commands`. Exit codes: `cli/failures.py`.
"""

import os
import re
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

EPILOG = (
    "--kubeconfig, --context, --namespace and --server may stand anywhere on the line. Exit codes: 0 good, 1 bad answer, 2 wrong command line, "
    "3 cluster cannot be asked, 4 refused."
)

app = typer.Typer(
    name="nephila",
    help="IP addresses for Kubernetes pods on an underlay network.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Tracing(TyperGroup):
    """`trace 10.0.0.5`, `trace ns/pod`: what is asked after says by itself which command is meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and (kind := kind_of(args[0])):
            args = [kind, *args]
        return super().resolve_command(ctx, args)


def kind_of(word: str) -> str:
    """ip, pod or mac; "" if the word could be none of them."""
    if "/" in word:
        return "pod"
    if re.fullmatch(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}", word):
        return "mac"
    return "ip" if re.fullmatch(r"[0-9.]+|[0-9a-fA-F.:]*:[0-9a-fA-F.:]*", word) else ""


class Explaining(TyperGroup):
    """`explain ns/pod` is `explain pod ns/pod`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and kind_of(args[0]) == "pod":
            args = ["pod", *args]
        return super().resolve_command(ctx, args)


trace = typer.Typer(help="Who has an address: by IP, pod or MAC.", no_args_is_help=True, cls=Tracing)
explain = typer.Typer(help="Why a pod gets its address, or none.", invoke_without_command=True, cls=Explaining)
node = typer.Typer(help="Statements about nodes.", no_args_is_help=True)
migrate = typer.Typer(help="Take over the addresses of another IPAM.", no_args_is_help=True)
lab = typer.Typer(help="A cluster of network namespaces on this machine (root, Linux).", no_args_is_help=True)
app.add_typer(trace, name="trace")
app.add_typer(explain, name="explain")
app.add_typer(node, name="node")
app.add_typer(migrate, name="migrate")
app.add_typer(lab, name="lab")

Output = Annotated[str, typer.Option("--output", "-o", help="wide, json, yaml or name.", show_default=False)]
Interface = Annotated[str, typer.Option("--interface", help="Only this interface.", show_default=False)]
OnNode = Annotated[str, typer.Option("--node", help="For a pod without a node: only this one.", show_default=False)]
Config = Annotated[
    str, typer.Option("--config", help="An agent's settings file, instead of the cluster's.", show_default=False)
]
Netconf = Annotated[
    str, typer.Option("--netconf", help="The CNI configuration file of the interface.", show_default=False)
]
Confirm = Annotated[bool, typer.Option("--confirm", help="Yes, do it.")]
Nodes = Annotated[int | None, typer.Option("--nodes", min=1, max=100, help="Number of nodes.")]


DryRun = Annotated[bool, typer.Option("--dry-run", help="Explain a manifest (-f) that was not applied.")]
ManifestFile = Annotated[
    str, typer.Option("--filename", "-f", help="Manifest of a pod or workload; - is stdin.", show_default=False)
]


@app.callback()
def connection(
    context: typer.Context,
    kubeconfig: Annotated[str, typer.Option(help="Path of a kubeconfig.", show_default=False)] = "",
    kube_context: Annotated[str, typer.Option("--context", help="Context in it.", show_default=False)] = "",
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Where names without one are.", show_default=False)
    ] = "",
    server: Annotated[
        str, typer.Option("--server", help="A plain API server URL, as labs have.", show_default=False)
    ] = "",
) -> None:
    context.obj = {"kubeconfig": kubeconfig, "context": kube_context, "namespace": namespace, "server": server}


@app.command()
def status(context: typer.Context, output: Output = "") -> None:
    """The cluster on one screen: leader, pools, nodes, problems."""
    _run(context, "show_status", fmt=output)


@app.command()
def pools(context: typer.Context, output: Output = "") -> None:
    """Pools: used, free, and why one does not serve."""
    _run(context, "show_pools", fmt=output)


@app.command()
def nodes(context: typer.Context, output: Output = "") -> None:
    """Nodes: what they hold, and whether their agents may hand it out."""
    _run(context, "show_nodes", fmt=output)


@app.command()
def blocks(
    context: typer.Context,
    pool: Annotated[str, typer.Option(help="Only with addresses of this pool.", show_default=False)] = "",
    node_name: Annotated[str, typer.Option("--node", help="Only leased by this node.", show_default=False)] = "",
    output: Output = "",
) -> None:
    """Blocks: which node may allocate which addresses."""
    _run(context, "show_blocks", fmt=output, pool=pool, node=node_name)


@app.command()
def conflicts(context: typer.Context, output: Output = "") -> None:
    """Addresses of pools that other machines were seen to use."""
    _run(context, "show_conflicts", fmt=output)


@app.command()
def free(
    context: typer.Context,
    pool: Annotated[str, typer.Argument(help="The pool.")],
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many ranges to list.")] = 20,
    output: Output = "",
) -> None:
    """The free addresses of a pool, as ranges. Exit code 1 if there is none."""
    _run(context, "show_free", fmt=output, pool=pool, limit=limit)


@trace.command("ip")
def trace_ip(context: typer.Context, address: str, output: Output = "") -> None:
    """Who has an address; of a free one, whether it is usable and why."""
    _run(context, "trace_ip", fmt=output, ip=address)


@trace.command("pod")
def trace_pod(context: typer.Context, pod: str, output: Output = "") -> None:
    """The addresses of a pod (NAMESPACE/NAME), and those pinned to it."""
    _run(context, "trace_pod", fmt=output, pod=pod)


@trace.command("mac")
def trace_mac(context: typer.Context, mac: str, output: Output = "") -> None:
    """Whose a MAC address is, as far as the API knows."""
    _run(context, "trace_mac", fmt=output, mac=mac)


@explain.callback()
def explain_file(
    context: typer.Context,
    dry_run: DryRun = False,
    file: ManifestFile = "",
    interface: Interface = "",
    on_node: OnNode = "",
    config: Config = "",
    netconf: Netconf = "",
    output: Output = "",
) -> None:
    if context.invoked_subcommand is not None:
        return
    if not (dry_run and file):
        raise typer.BadParameter("give `pod NAMESPACE/NAME`, or --dry-run -f FILE")
    arguments = {"interface": interface, "node": on_node, "config": config, "netconf": netconf}
    _run(context, "explain_manifest", fmt=output, file=file, **arguments)


@explain.command("pod")
def explain_pod(
    context: typer.Context,
    pod: Annotated[str, typer.Argument(help="NAMESPACE/NAME", show_default=False)] = "",
    dry_run: DryRun = False,
    file: ManifestFile = "",
    interface: Interface = "",
    on_node: OnNode = "",
    config: Config = "",
    netconf: Netconf = "",
    output: Output = "",
) -> None:
    """Every step of the selection: source, pools in order, refusals with their cure. Exit code 1 if no address could be had."""
    arguments = {"interface": interface, "node": on_node, "config": config, "netconf": netconf}
    if pod and not (dry_run or file):
        _run(context, "explain_existing", fmt=output, pod=pod, **arguments)
    elif dry_run and file and not pod:
        _run(context, "explain_manifest", fmt=output, file=file, **arguments)
    else:
        raise typer.BadParameter("give NAMESPACE/NAME, or --dry-run -f FILE")


@app.command()
def fsck(
    context: typer.Context,
    settle: Annotated[float, typer.Option(min=0.0, max=60.0, help="Seconds between the two looks; 0: one look.")] = 3.0,
    quiet: Annotated[bool, typer.Option("--quiet-cluster", help="Nothing is under way: look for leaks too.")] = False,
    output: Output = "",
) -> None:
    """Check the invariants on the live cluster. Exit code 1 if one is violated."""
    _run(context, "check", fmt=output, settle_s=settle, quiet=quiet)


@node.command("fence")
def node_fence(
    context: typer.Context,
    name: str,
    wait: Annotated[float, typer.Option(min=0.0, max=3600.0, help="Seconds to wait for the leader's mark.")] = 0.0,
    confirm: Confirm = False,
) -> None:
    """State that a silent node is powered off: confirms the leader's fence mark, which `reclaim.unreachable: Confirm` asks for before any of its
    addresses is used elsewhere."""
    if not confirm:
        _unconfirmed(f"this states that {name} is powered off; if it is not, addresses may be given out twice")
    _run(context, "fence", node=name, wait_s=wait)


@app.command()
def release(
    context: typer.Context,
    address: str,
    domain: Annotated[str, typer.Option(help="L2 domain of the address.", show_default=False)] = "",
    confirm: Confirm = False,
) -> None:
    """Free an address from what a gone pod, pin, cooldown or dead node left behind: one that was taken by force (suspect) is used without a probe
    afterwards, where none can be made. Refused while a living pod has it."""
    if not confirm:
        _unconfirmed(
            f"this removes the records that hold {address} back; if it was taken by force from a node, it states that nobody uses it there"
        )
    _run(context, "release", ip=address, domain=domain)


@app.command()
def doctor(
    context: typer.Context,
    host_root: Annotated[str, typer.Option(help="Where the node's file system is.")] = "/",
    output: Output = "",
) -> None:
    """Check what Nephila needs of the cluster and, run on a node, of that node. Exit code 1 if something must be fixed."""
    _run(context, "examine", module="cli.doctor.command", fmt=output, host_root=host_root)


@migrate.command("from-spiderpool")
def migrate_from_spiderpool(
    context: typer.Context,
    apply: Annotated[bool, typer.Option("--apply", help="Write the plan.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only (the default).")] = False,
    output: Output = "",
) -> None:
    """Adopt the addresses of a running Spiderpool cluster without changing any pod's address."""
    if apply and dry_run:
        raise typer.BadParameter("--apply and --dry-run exclude each other")
    _run(context, "from_spiderpool", module="cli.migrate.command", fmt=output, apply=apply)


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


def _run(context: typer.Context, command: str, *, module: str = "cli.commands", **arguments: Any) -> NoReturn:
    from importlib import import_module

    from cli.connection import Options
    from cli.running import run

    raise typer.Exit(run(Options(**context.obj), getattr(import_module(module), command), arguments))


def _unconfirmed(what: str) -> NoReturn:
    typer.echo(f"error: {what} (repeat with --confirm)", err=True)
    raise typer.Exit(2)


_VALUED = ("--kubeconfig", "--context", "--namespace", "-n", "--server")


def hoisted(arguments: list[str]) -> list[str]:
    """The connection's options moved to the front, where the parser wants them; those after `lab` or `--` are not ours."""
    front: list[str] = []
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        name, equals, _ = word.partition("=")
        if word == "--" or (word == "lab" and not rest):
            return [*front, *rest, word, *queue]
        if name in _VALUED and equals and name.startswith("--"):
            front.append(word)
        elif word in _VALUED and queue:
            front += [word, queue.pop(0)]
        else:
            rest.append(word)
    return [*front, *rest]


def main() -> None:
    """Console script."""
    app(hoisted(sys.argv[1:]), prog_name="nephila")


def kubectl_complete() -> None:
    """Console script `kubectl_complete-nephila`: kubectl asks it what may follow `kubectl nephila …` (kubectl 1.26 and later).

    The last argument is the word under the cursor. Prints one candidate a line and the directive `:4` (no file names).
    """
    words = sys.argv[1:] or [""]
    os.environ["COMP_WORDS"] = "\n".join(["nephila", *words])
    os.environ["COMP_CWORD"] = str(len(words))
    os.environ["_NEPHILA_COMPLETE"] = "complete_bash"
    try:
        app(prog_name="nephila")
    finally:
        print(":4")
