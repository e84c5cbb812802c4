"""`python -m tests.compat.report`: run every test that names a case, and write docs/compatibility.md from the outcomes.

Root is needed for the tests in network namespaces; without it they are skipped, and the table says so. A run on a real cluster leaves its outcomes in
build/compat/ (`make e2e`), and the table takes them in if they are there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.compat.results import Results

ROOT = Path(__file__).parent.parent.parent
OUTCOMES = ROOT / "build" / "compat"
TESTS = ("tests/compat", "tests/unit/leader/test_nodes.py", "tests/unit/observability/test_metrics.py")
RUNS = {"agents": ("-n", "2", *TESTS), "namespaces": ("tests/netns/compat",)}
TIMEOUT_S = 900.0


def main() -> int:
    """The worst exit code of pytest: the table is written whatever it is, and says what failed."""
    worst = 0
    for name, arguments in RUNS.items():
        (OUTCOMES / f"{name}.json").unlink(missing_ok=True)
        options = ["-p", "tests.compat.plugin", f"--compat-outcomes={OUTCOMES / name}.json"]
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *arguments], cwd=ROOT, timeout=TIMEOUT_S, check=False
        )
        worst = max(worst, run.returncode)
    results = Results()
    for path in sorted(OUTCOMES.glob("*.json")):
        results.merge(json.loads(path.read_text()))
    (ROOT / "docs" / "compatibility.md").write_text(results.text())
    return worst


if __name__ == "__main__":
    sys.exit(main())
