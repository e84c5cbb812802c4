"""What was measured, for people and for programs."""

import os
import platform
from collections.abc import Sequence

from rich.table import Table

from e2e.bench.measure import Series

BASELINE = "empty binary"


def baseline_of(series: Sequence[Series], one: Series) -> Series | None:
    return next((s for s in series if (s.contender, s.mode, s.verb) == (BASELINE, one.mode, one.verb)), None)


def as_table(series: Sequence[Series]) -> Table:
    table = Table(title=f"CNI plugins, process start to exit ({os.cpu_count()} CPUs, {platform.release()})")
    table.add_column("mode")
    table.add_column("verb")
    table.add_column("contender")
    for name in ("p50 ms", "p99 ms", "× empty", "all ms", "n", "failed"):
        table.add_column(name, justify="right")
    previous = ("", "")
    for one in series_in_order(series):
        if previous not in (("", ""), (one.mode, one.verb)):
            table.add_section()
        previous = (one.mode, one.verb)
        base = baseline_of(series, one)
        ratio = f"{one.percentile_ms(50) / base.percentile_ms(50):.2f}" if base else "–"
        numbers = [f"{one.percentile_ms(50):.3f}", f"{one.percentile_ms(99):.3f}", ratio, f"{one.total_ms:.1f}"]
        table.add_row(one.mode, one.verb, one.contender, *numbers, str(len(one.elapsed_ns)), str(one.failed))
    return table


def series_in_order(series: Sequence[Series]) -> list[Series]:
    """Modes as measured, ADD before DEL, contenders as measured."""
    modes = list(dict.fromkeys(one.mode for one in series))
    return sorted(series, key=lambda one: (modes.index(one.mode), one.verb))


def as_json(series: Sequence[Series]) -> dict[str, object]:
    return {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "series": [
            {
                "contender": one.contender,
                "mode": one.mode,
                "verb": one.verb,
                "count": len(one.elapsed_ns),
                "failed": one.failed,
                "p50_ms": one.percentile_ms(50),
                "p99_ms": one.percentile_ms(99),
                "all_ms": one.total_ms,
            }
            for one in series_in_order(series)
        ],
    }
