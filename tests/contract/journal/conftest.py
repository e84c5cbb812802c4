"""One suite, both journals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from adapters.journal import Journal
from adapters.journal.memory import MemoryDisk
from adapters.journal.sqlite import SqliteJournal

Open: TypeAlias = Callable[[], Journal]


@pytest.fixture(params=["memory", "sqlite"])
def open_journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the test's one journal; whatever is still open at the end is closed."""
    opened: list[Journal] = []
    disk = MemoryDisk()

    def opener() -> Journal:
        journal: Journal = (
            disk.open() if request.param == "memory" else SqliteJournal.open(tmp_path / "state" / "journal.db")
        )
        opened.append(journal)
        return journal

    yield opener
    for journal in opened:
        journal.close()
