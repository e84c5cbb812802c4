"""`make bench-leader`: two candidates over 5,000 nodes, 150,000 pods and as many SpiderEndpoints; what the leader costs, and what its death does.

All are processes of their own: the API server with the cluster in it (`e2e.bench.crowded`), both candidates with their default settings, and
one agent that serves warm ADDs through the real shim. So the memory is that of the leader alone, as the kernel counts it; the pass of recalls
is the whole of it, with its picture, its plan and its writes; and the ADDs are timed from process start to exit, before the leader is killed
and while nobody leads. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from e2e.bench.__main__ import OUTDIR
from e2e.bench.contenders import Contender
from e2e.bench.crowded import POOLS, Shape
from e2e.bench.lab import POOL, ROOT, agent_at, free_port, ours, running, until
from e2e.bench.measure import Mode, Series, one_round
from e2e.bench.spawning import BenchError, Tools, build_tools
from e2e.lab.ledger import still_unaffected_ms

FILLED_S, READY_S, FAILOVER_S = 180.0, 240.0, 60.0
LOOK_S = 0.1
FIRST_S, WATCHED_S = 10.0, 30.0  # for so long the passes of the leader are looked at: when its reign begins, and later
ADDS = Mode("one at a time", 15, 20, 1)
ROUNDS_MAX = 400  # while nobody leads
PLAN_MAX_S, RSS_MAX_MIB, FAILOVER_MAX_S = 1.0, 1024.0, 15.0
AS_STANDBY = 0.8  # a candidate whose memory is so much of the leader's has listed everything as well


@dataclass(frozen=True, slots=True)
class Look:
    """What a leader's metrics say; `None` is what they are of one that does not lead."""

    plan_s: float
    pass_s: float
    passes: int
    recalls: int


@dataclass(frozen=True, slots=True)
class Candidate:
    process: Popen[bytes]
    health: str

    def look(self) -> Look | None:
        """Raises OSError."""
        with urllib.request.urlopen(f"http://{self.health}/metrics", timeout=10) as answer:
            return look_of(answer.read().decode())

    def leads(self) -> bool:
        return self.look() is not None

    def memory_mib(self, line: str) -> float:
        """`line`: VmRSS, what is resident now, or VmHWM, the most that ever was. Raises BenchError."""
        for row in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if row.startswith(f"{line}:"):
                return int(row.split()[1]) / 1024
        raise BenchError("a candidate has ended by itself")


def look_of(text: str) -> Look | None:
    """From the text of a scrape."""
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("controller", "recalls") == "recalls":
                values[sample.name.removeprefix("nephila_leader_")] = sample.value
    if "pass_seconds" not in values:
        return None
    return Look(
        values["plan_seconds"], values["pass_seconds"], int(values["passes_total"]), int(values["recalls_total"])
    )


@dataclass(slots=True)
class Findings:
    """`first`, `looks`: one for each pass that was caught, when the reign began and later."""

    filled_s: float = 0.0
    to_reign_s: float = 0.0
    first: list[Look] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    rss_mib: float = 0.0
    peak_mib: float = 0.0
    standby_peak_mib: float = 0.0
    failover_s: float = 0.0
    before: Series = field(default_factory=lambda: Series("nephila", "under a leader", "ADD"))
    meanwhile: Series = field(default_factory=lambda: Series("nephila", "while nobody leads", "ADD"))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result; `met` is None where there is no target."""

    what: str
    measured: str
    target: str = "–"
    met: bool | None = None


@contextlib.contextmanager
def crowded(shape: Shape, run: Path) -> Iterator[str]:
    """The URL of an API server that holds the cluster."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    size = ["--nodes", str(shape.nodes), "--pods", str(shape.pods), "--crds", str(ROOT / "crds/yaml")]
    with running("e2e.bench.crowded", "--port", str(port), *size, log=run / "apiserver.log"):
        until(lambda: bool(_read(f"{url}/version")), "the API server with the cluster in it", FILLED_S)
        yield url


@contextlib.contextmanager
def candidate(url: str, run: Path, node: str) -> Iterator[Candidate]:
    """A leader's process with its default settings."""
    health = f"127.0.0.1:{free_port()}"
    config = run / f"{node}.yaml"
    config.write_text(json.dumps({"node": node, "api": {"url": url}, "healthAddress": health, "logLevel": "warning"}))
    with running("leader", "--config", str(config), log=run / f"{node}.log") as process:
        yield Candidate(process, health)


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: bytes = answer.read()
        return text


def measure(tools: Tools, shape: Shape, *, watched_s: float = WATCHED_S, mode: Mode = ADDS) -> Findings:
    """The whole run. Raises BenchError."""
    found = Findings()
    with tempfile.TemporaryDirectory(prefix="nephila-bench-", dir="/dev/shm") as place, contextlib.ExitStack() as stack:
        run, begun = Path(place), time.monotonic()
        url = stack.enter_context(crowded(shape, run))
        found.filled_s = time.monotonic() - begun
        begun = time.monotonic()
        first = stack.enter_context(candidate(url, run, "node-1"))
        until(first.leads, "a leader with everything listed", READY_S)
        found.to_reign_s = time.monotonic() - begun
        found.first = watch(first, min(FIRST_S, watched_s))
        resident = first.memory_mib("VmRSS")
        second = stack.enter_context(candidate(url, run, "node-2"))
        until(lambda: second.memory_mib("VmRSS") >= AS_STANDBY * resident, "a standby with everything listed", READY_S)
        found.looks = watch(first, watched_s)
        one = ours(tools, stack.enter_context(agent_at(url, run)), POOL, "nephila")
        number = 1
        for turn in range(mode.rounds + 1):
            number = _adds(tools, one, mode, number, found.before if turn else Series("", "", ""))
        found.rss_mib, found.peak_mib = first.memory_mib("VmRSS"), first.memory_mib("VmHWM")
        found.failover_s = fail_over(first, second, _Rounds(tools, one, mode, number, found.meanwhile))
        found.standby_peak_mib = second.memory_mib("VmHWM")
    return found


def watch(leader: Candidate, for_s: float) -> list[Look]:
    """One look at each pass that could be caught within that time. Raises BenchError if it leads no more."""
    looks: dict[int, Look] = {}
    until_s = time.monotonic() + for_s
    while time.monotonic() < until_s:
        seen = leader.look()
        if seen is None:
            raise BenchError("the leader was deposed while nothing disturbed it")
        looks[seen.passes] = seen
        time.sleep(LOOK_S)
    return list(looks.values())


@dataclass(slots=True)
class _Rounds:
    """ADDs, round after round, in a thread of their own until `over` is set. What went wrong there is in `failure`."""

    tools: Tools
    contender: Contender
    mode: Mode
    number: int
    series: Series
    over: threading.Event = field(default_factory=threading.Event)
    failure: BenchError | None = None

    def run(self) -> None:
        try:
            for _ in range(ROUNDS_MAX):
                if self.over.is_set():
                    return
                self.number = _adds(self.tools, self.contender, self.mode, self.number, self.series)
        except (BenchError, OSError) as error:
            self.failure = BenchError(f"an ADD could not be asked for while nobody led: {error}")


def fail_over(first: Candidate, second: Candidate, rounds: _Rounds) -> float:
    """Kills the leader; the seconds until the other leads and has begun its work. Raises BenchError."""
    asking = threading.Thread(target=rounds.run, name="ADDs")
    first.process.kill()
    killed = time.monotonic()
    asking.start()
    try:
        until(second.leads, "a successor", FAILOVER_S)
        took = time.monotonic() - killed
    finally:
        rounds.over.set()
        asking.join(FAILOVER_S)
    if rounds.failure is not None:
        raise rounds.failure
    return took


def _adds(tools: Tools, one: Contender, mode: Mode, number: int, series: Series) -> int:
    """One round of warm ADDs, and the DELs after them; the number of the next process."""
    for verb, batch in one_round(tools, one, mode, number):
        if verb == series.verb:
            series.take(batch)
        elif batch.failed:
            series.failed += batch.failed
            series.said = batch.said
    return number + mode.count


def rows(found: Findings) -> list[Row]:
    """What was found beside its targets."""
    plan_s = max((look.plan_s for look in found.looks), default=0.0)
    passes = sorted(look.pass_s for look in found.looks)
    before, meanwhile = found.before, found.meanwhile
    asked = bool(before.elapsed_ns and meanwhile.elapsed_ns)
    allowed_ms = still_unaffected_ms(before.percentile_ms(99)) if asked else 0.0
    recalled = found.looks[-1].recalls if found.looks else 0
    return [
        Row("the cluster made, in the API server's own process", f"{found.filled_s:.1f} s"),
        Row("from the leader's start to its reign, everything listed", f"{found.to_reign_s:.1f} s"),
        Row(
            f"the longest pass of recalls in the first {FIRST_S:.0f} s of a reign, beside every controller's first pass",
            f"{max((look.pass_s for look in found.first), default=0.0) * 1000:.0f} ms",
        ),
        Row("one plan alone, the longest later", f"{plan_s * 1000:.0f} ms"),
        Row(
            f"a pass later (picture, plan, offers, writes), p50 and longest of {len(passes)}; {recalled} recalls",
            f"{statistics.median(passes or [0.0]) * 1000:.0f} ms, {max(passes, default=0.0) * 1000:.0f} ms",
            f"< {PLAN_MAX_S:.0f} s",
            bool(passes and recalled) and passes[-1] < PLAN_MAX_S,
        ),
        Row(
            "resident memory of the leader, at its peak (in the end)",
            f"{found.peak_mib:.0f} MiB ({found.rss_mib:.0f})",
            f"< {RSS_MAX_MIB / 1024:.0f} GiB",
            0 < found.peak_mib < RSS_MAX_MIB,
        ),
        Row(
            "the same of its successor",
            f"{found.standby_peak_mib:.0f} MiB",
            f"< {RSS_MAX_MIB / 1024:.0f} GiB",
            0 < found.standby_peak_mib < RSS_MAX_MIB,
        ),
        Row(
            "failover after kill -9, until the successor works",
            f"{found.failover_s:.1f} s",
            f"≤ {FAILOVER_MAX_S:.0f} s",
            0 < found.failover_s <= FAILOVER_MAX_S,
        ),
        Row("warm ADD under a leader, p50, p99", _said(before), "none fails", asked and not before.failed),
        Row(
            "warm ADD while nobody led, p50, p99",
            _said(meanwhile),
            f"p99 ≤ {allowed_ms:.0f} ms, none fails",
            asked and not meanwhile.failed and meanwhile.percentile_ms(99) <= allowed_ms,
        ),
    ]


def _said(series: Series) -> str:
    if not series.elapsed_ns:
        return "none"
    numbers = f"{series.percentile_ms(50):.2f} ms, {series.percentile_ms(99):.1f} ms of {len(series.elapsed_ns)}"
    return f"{numbers}; {series.failed} failed: {series.said}" if series.failed else numbers


def as_table(title: str, result: Sequence[Row]) -> Table:
    table = Table(title=title)
    for column in ("what", "measured", "target", ""):
        table.add_column(column)
    for row in result:
        table.add_row(row.what, row.measured, row.target, "" if row.met is None else "met" if row.met else "MISSED")
    return table


def main(*, nodes: int = 5000, pods: int = 150_000) -> None:
    """Measure the leader at the size of Kubernetes' own scale targets; exit code 1 if a target is missed."""
    result = rows(measure(build_tools(OUTDIR), Shape(nodes, pods)))
    Console(width=130).print(as_table(f"leader: {nodes} nodes, {pods} pods and SpiderEndpoints, {POOLS} pools", result))
    if any(row.met is False for row in result):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
