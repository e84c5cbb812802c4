"""The SQLite journal against kill -9, damage, newer versions and failing disks."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.journal import JournalLocked, LeaseRecord, PutLease, PutMeta
from adapters.journal.sqlite import SqliteJournal
from ipam.errors import JournalFailed

COMMITS_FOREVER = """
import sys
from pathlib import Path
from adapters.journal import LeaseRecord, PutLease, PutMeta
from adapters.journal.sqlite import SqliteJournal
journal = SqliteJournal.open(Path(sys.argv[1]))
number = int(journal.load().meta.get("number", "0"))
while True:
    number += 1
    journal.commit([PutMeta("number", str(number)), PutLease(LeaseRecord(f"b{number % 500}", "p", "", number, number))])
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_every_acknowledged_commit_survives_kill_and_none_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    before = 0
    for lines in (1, 7, 150, 2_000, 4_000):
        child = subprocess.Popen([sys.executable, "-c", COMMITS_FOREVER, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(lines):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().splitlines()
        child.wait()
        child.stdout.close()
        acknowledged = before + lines + sum(line.endswith(str(before + lines + at)) for at, line in enumerate(rest, 1))
        journal = SqliteJournal.open(path)
        state = journal.load()
        number = int(state.meta["number"])
        journal.close()
        assert journal.moved_aside is None
        assert acknowledged <= number <= acknowledged + 1
        assert max(lease.epoch for lease in state.leases) == number
        assert len(state.leases) == min(number, 500)
        before = number


def test_a_second_process_is_told_that_the_journal_is_open(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    child = subprocess.Popen([sys.executable, "-c", COMMITS_FOREVER, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    with pytest.raises(JournalLocked, match="another process"):
        SqliteJournal.open(path)
    child.kill()
    child.stdout.read()
    child.wait()
    child.stdout.close()
    SqliteJournal.open(path).close()


def _filled(path: Path) -> None:
    journal = SqliteJournal.open(path)
    journal.commit([PutLease(LeaseRecord(f"b{i}", "p" * 200, "", i, i)) for i in range(500)])
    journal.close()


@pytest.mark.parametrize("damage", ["header", "middle", "text"])
def test_a_damaged_journal_is_moved_aside_and_said_so(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "journal.db"
    _filled(path)
    raw = bytearray(path.read_bytes())
    if damage == "header":
        raw[:16] = b"x" * 16
    elif damage == "middle":
        raw[4096 * 6 : 4096 * 9] = os.urandom(4096 * 3)
    else:
        raw = bytearray(b"not a journal")
    path.write_bytes(raw)
    journal = SqliteJournal.open(path)
    assert journal.moved_aside is not None
    assert journal.moved_aside.name.startswith("journal.db.corrupt-")
    assert journal.moved_aside.read_bytes() == bytes(raw)
    assert journal.load().leases == ()
    journal.commit([PutMeta("k", "v")])
    journal.close()
    again = SqliteJournal.open(path)
    assert again.moved_aside is None
    assert again.load().meta == {"k": "v"}
    again.close()


def test_a_torn_tail_of_the_log_costs_only_the_torn_commit(tmp_path: Path) -> None:
    path, copy = tmp_path / "journal.db", tmp_path / "copy" / "journal.db"
    journal = SqliteJournal.open(path)
    for number in range(20):
        journal.commit([PutMeta("number", str(number))])
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    wal = Path(f"{path}-wal").read_bytes()
    journal.close()
    Path(f"{copy}-wal").write_bytes(wal[:-100])
    torn = SqliteJournal.open(copy)
    assert torn.load().meta == {"number": "18"}
    assert torn.moved_aside is None
    torn.close()


def test_a_journal_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    _filled(path)
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    for _ in range(2):
        with pytest.raises(JournalFailed, match="version 99"):
            SqliteJournal.open(path)
    assert not list(tmp_path.glob("*corrupt*"))


def test_a_commit_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    journal = SqliteJournal.open(tmp_path / "journal.db")
    journal._database.execute(
        "CREATE TRIGGER full BEFORE INSERT ON leases BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
    )
    with pytest.raises(JournalFailed, match="disk is full"):
        journal.commit([PutMeta("k", "v"), PutLease(LeaseRecord("b", "p", "", 1, 1))])
    assert journal.load().meta == {}
    journal.commit([PutMeta("k", "w")])
    assert journal.load().meta == {"k": "w"}
    journal.close()


def test_a_state_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalFailed, match="file"):
        SqliteJournal.open(tmp_path / "file" / "journal.db")


async def test_after_a_failed_sync_no_later_one_claims_success(tmp_path: Path) -> None:
    journal = SqliteJournal.open(tmp_path / "journal.db")
    journal.commit([PutMeta("k", "v")])
    await journal.sync()
    good = journal._wal
    reading, writing = os.pipe()  # fdatasync on a pipe fails
    journal._wal = writing
    await journal.sync()  # nothing new to sync
    journal.commit([PutMeta("k", "w")])
    with pytest.raises(JournalFailed, match="sync failed"):
        await journal.sync()
    journal._wal = good
    with pytest.raises(JournalFailed, match="sync failed"):
        await journal.sync()
    os.close(reading)
    os.close(writing)
    journal.close()


def test_files_are_readable_by_root_alone(tmp_path: Path) -> None:
    journal = SqliteJournal.open(tmp_path / "journal.db")
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()}
    journal.close()
    assert modes == {"journal.db": "0o600", "journal.db-wal": "0o600", "journal.db.lock": "0o600"}
