"""`python -m tests.compat.report`: run every test that names a case, and write docs/compatibility.md from the outcomes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TESTS = ("tests/compat", "tests/unit/leader/test_nodes.py", "tests/unit/observability/test_metrics.py")


def main() -> int:
    """pytest's exit code: the table is written whatever it is, and says what failed."""
    path = ROOT / "docs" / "compatibility.md"
    return int(pytest.main(["-n", "2", f"--compat-report={path}", *(str(ROOT / folder) for folder in TESTS)]))


if __name__ == "__main__":
    sys.exit(main())
