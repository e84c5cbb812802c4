"""Writes the generated reference pages: `python -m e2e.reference [--check]`."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from e2e.reference.observability import events_page, metrics_page
from e2e.reference.settings import Undocumented, page
from e2e.reference.spiderpool import spiderpool_page
from e2e.reference.values import values_page
from leader.config import LeaderConfig
from nodeagent.config import AgentConfig

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("docs/reference")
DIFF_LINES = 30


def outputs() -> dict[Path, str]:
    """Every page by its path below the repository. Raises Undocumented."""
    return {
        FOLDER / "metrics.md": metrics_page(),
        FOLDER / "events.md": events_page(),
        FOLDER / "agent-config.md": page("The agent's settings", "nephila-agent", AgentConfig),
        FOLDER / "spiderpool-conf.md": spiderpool_page(),
        FOLDER / "values.md": values_page(),
        FOLDER / "leader-config.md": page("The leader's settings", "nephila-leader", LeaderConfig),
    }


def differences(root: Path = ROOT) -> list[str]:
    """For each page that is missing or outdated, the first lines of its diff."""
    found: list[str] = []
    for path, text in outputs().items():
        present = (root / path).read_text() if (root / path).exists() else ""
        if present != text:
            diff = difflib.unified_diff(
                present.splitlines(), text.splitlines(), str(path), "generated", lineterm="", n=0
            )
            found.append("\n".join(list(diff)[:DIFF_LINES]))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 written or up to date, 1 outdated or undocumented."""
    parser = argparse.ArgumentParser(prog="python -m e2e.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is outdated")
    options = parser.parse_args(arguments)
    try:
        if not options.check:
            for path, text in outputs().items():
                (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
                (ROOT / path).write_text(text)
            return 0
        outdated = differences()
    except Undocumented as error:
        print(error, file=sys.stderr)
        return 1
    for diff in outdated:
        print(diff)
    if outdated:
        print("run `make generate` (python -m e2e.reference)", file=sys.stderr)
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())
