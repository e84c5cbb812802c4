"""One scenario on the embedded and on the real API server, and what an ADD took on each, side by side."""

from collections.abc import Sequence

from rich.table import Table

from e2e.lab.ledger import Timing
from e2e.lab.report import Summary


def table(summaries: Sequence[Summary]) -> Table:
    """One column for each run."""
    grid = Table("", *(f"{summary.server} API server" for summary in summaries), title=summaries[0].scenario)
    rows: list[tuple[str, list[str]]] = [
        ("ADD, our part, warm: p50", [_ms(summary.warm, "p50") for summary in summaries]),
        ("ADD, our part, warm: p99", [_ms(summary.warm, "p99") for summary in summaries]),
        ("ADD, our part, cold: p50", [_ms(summary.cold, "p50") for summary in summaries]),
        ("ADD, main plugin and all: p50", [_ms(summary.add, "p50") for summary in summaries]),
        ("ADD, main plugin and all: p99", [_ms(summary.add, "p99") for summary in summaries]),
        ("DEL, our part: p50", [_ms(summary.shim_del, "p50") for summary in summaries]),
        ("ADDs", [str(summary.add.count) for summary in summaries]),
        ("result", ["passed" if summary.passed else "FAILED" for summary in summaries]),
    ]
    for name, values in rows:
        grid.add_row(name, *values)
    return grid


def _ms(value: Timing, which: str) -> str:
    return f"{value.p50_ms if which == 'p50' else value.p99_ms:.2f} ms"
