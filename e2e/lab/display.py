"""The screen: a live table while the lab runs, and the summary at its end. Reads values; decides nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from e2e.lab.cluster_model import Cluster
from e2e.lab.ledger import Call, Fate, Ledger, Timing
from e2e.lab.objects import key_of
from e2e.lab.report import Step, Summary, Tally, Vitals

REFRESH_S = 0.25
ROWS_MAX = 60
ERRORS_SHOWN = 12
KINDS_SHOWN = 8


@contextlib.asynccontextmanager
async def live(console: Console, cluster: Cluster, ledger: Ledger, tally: Tally, title: str) -> AsyncIterator[None]:
    """Shows the state four times a second on a terminal; elsewhere prints each finished step as a line."""
    if not console.is_terminal:
        yield
        return
    with Live(console=console, transient=True, auto_refresh=False) as screen:

        async def draw() -> None:
            while True:
                screen.update(_picture(console, cluster, ledger, tally, title), refresh=True)
                await asyncio.sleep(REFRESH_S)

        task = asyncio.create_task(draw(), name="display")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def step_line(console: Console, step: Step) -> None:
    """One finished step, as text."""
    mark = "[red]✗[/]" if step.problems else "[green]✓[/]"
    console.print(f"{mark} {step.name:<58} {step.seconds:6.2f} s  {step.note}", highlight=False)
    for problem in step.problems[:ERRORS_SHOWN]:
        console.print(Text(f"    {problem}", style="red"))
    if len(step.problems) > ERRORS_SHOWN:
        console.print(f"    … and {len(step.problems) - ERRORS_SHOWN} more")


def _picture(console: Console, cluster: Cluster, ledger: Ledger, tally: Tally, title: str) -> Group:
    rows = max(5, min(ROWS_MAX, console.height - 8))
    running = cluster.running()
    took = {(call.namespace, call.pod): call for call in ledger.of("ADD", Fate.OK)}
    table = Table("pod", "node", "addresses", "ADD ms", box=None, pad_edge=False, expand=True)
    for kubelet, worker in running[-rows:]:
        namespace, name = key_of(worker.pod)
        call: Call | None = took.get((namespace, name))
        addresses = " ".join(address for found in worker.addresses.values() for address in found)
        table.add_row(f"{namespace}/{name}", kubelet.node, addresses, f"{call.took_ms:.0f}" if call else "")
    failed = len(ledger.errors())
    head = f"{title}   pods {len(running)}/{cluster.desired()}   ADD {len(ledger.of('ADD', Fate.OK))}   "
    head += f"retries while an agent was down {len(ledger.of('ADD', Fate.AGENT_DOWN))}   errors {failed}"
    return Group(Text(head, style="bold red" if failed else "bold"), Text(f"steps done: {len(tally.steps)}"), table)


def summary_panel(summary: Summary) -> Panel:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("nodes", f"{summary.nodes}, with the {summary.server} API server")
    grid.add_row("pods", f"{summary.pods_peak} at once, {summary.pods_started} started in all")
    grid.add_row("addresses", f"{summary.addresses_peak} in use at once")
    grid.add_row("pings", f"{summary.pings_sent - summary.pings_lost} of {summary.pings_sent} answered")
    grid.add_row("ADD, main plugin and all", _timing(summary.add))
    grid.add_row("ADD, our part: warm, verified ahead", _timing(summary.warm))
    grid.add_row("  of which inside the agent", _timing(summary.warm_inside))
    grid.add_row("ADD, our part: cold, had to wait", _timing(summary.cold))
    grid.add_row("ADD, macvlan itself, IPv4 only", _timing(summary.plain))
    grid.add_row("ADD, macvlan and the kernel's IPv6 DAD", _timing(summary.dad))
    grid.add_row("DEL, main plugin and all", _timing(summary.dele))
    grid.add_row("DEL, our part of it", _timing(summary.shim_del))
    if summary.requests is not None:
        words = f"{summary.requests.total} by the agents, heartbeats and records included; {summary.requests.lease_writes} lease writes"
        grid.add_row("API requests", words)
        grid.add_row("", _kinds(summary.requests.by_kind))
        grid.add_row("", f"{summary.requests.leader} by the leader")
        grid.add_row("", _kinds(summary.requests.leader_by_kind))
    _add_vitals(grid, summary.vitals)
    grid.add_row("retries while an agent was down", str(summary.retries_agent_down))
    grid.add_row("refused, as no address was to be had", str(summary.refused))
    grid.add_row("errors", str(len(summary.errors)))
    for error in summary.errors[:ERRORS_SHOWN]:
        grid.add_row("", Text(error, style="red"))
    grid.add_row("left behind", ", ".join(summary.leftovers) or "nothing")
    verdict = "[green]passed[/]" if summary.passed else "[red]FAILED[/]"
    return Panel(grid, title=f"{summary.scenario}: {verdict} in {summary.seconds:.1f} s", expand=False)


def _kinds(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in list(counts.items())[:KINDS_SHOWN])


def _add_vitals(grid: Table, vitals: Vitals) -> None:
    watchers = ", ".join(f"{mode} on {count} nodes" for mode, count in vitals.watchers.items())
    grid.add_row("watcher on the wire", watchers or "unknown")
    for reason in vitals.reasons:
        grid.add_row("", reason)
    grid.add_row("leader", vitals.leader or "none")
    grid.add_row("memory", f"agent {vitals.agent_rss_mib} MiB at most, leader {vitals.leader_rss_mib} MiB")


def _timing(value: Timing) -> str:
    if not value.count:
        return "–"
    return f"p50 {value.p50_ms:.2f} ms   p99 {value.p99_ms:.2f} ms   max {value.max_ms:.2f} ms   ({value.count})"
