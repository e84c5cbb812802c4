"""`SqliteJournal`: the journal in one SQLite file, write-ahead logged.

**Who may open it.** One process at a time: `flock` on `<path>.lock`, held until `close` or death of the process (the kernel releases it, so a
killed agent leaves nothing to clean up). SQLite's own lock is exclusive too, which also spares its shared-memory file.

**What survives what.** In WAL mode with `synchronous=NORMAL` a commit is one `write` to `<path>-wal`: it is in the kernel's page cache when
`commit` returns and so survives the death of the process, but not yet a power loss. `sync` closes that gap with `fdatasync` of the WAL file:

- The WAL is append-only between checkpoints; each frame's checksum covers all frames before it, and recovery replays the longest valid
  prefix that ends with a commit. All frames of earlier commits were written before `sync` began, through the same inode, so once
  `fdatasync` has returned that prefix contains them. It flushes data and the file size, whichever descriptor asks for it.
- A checkpoint may run inside a `commit` at the same time. With NORMAL, SQLite syncs the WAL before it copies pages into the database and
  syncs the database before a later commit may overwrite the WAL from its start. So a commit is at any moment in a durable database, or in
  the WAL file that `fdatasync` flushes; a WAL that restarts has its new header synced by SQLite before frames follow.
- The WAL file keeps its inode until `close`, and its directory entry is made durable by `open`.
- The descriptor that `sync` uses is on the WAL, never on the database: closing any descriptor of the database file would drop the POSIX locks
  that SQLite holds on it.

After a failed `fdatasync` the kernel may have dropped the pages it could not write, and the next call would succeed without them. Therefore
one failure makes every later `sync` of this journal fail: only a restart, which re-reads what is really there, may trust it again.

**Damage.** A file that is no database, or fails `quick_check`, is moved to `<path>.corrupt-<unix time>` and an empty journal takes its place;
`moved_aside` says where it is. The caller must then treat all that the old one might have known as unknown, not as free.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

from adapters.journal import port
from adapters.journal.port import JournalLocked, JournalState, Write
from ipam.errors import JournalFailed

__all__ = ["JournalLocked", "SqliteJournal"]

_MIGRATIONS = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE attachments (
        network TEXT, container_id TEXT, ifname TEXT, family INTEGER, domain TEXT NOT NULL, value TEXT NOT NULL, pool TEXT NOT NULL,
        namespace TEXT NOT NULL, pod TEXT NOT NULL, pod_uid TEXT NOT NULL, netns TEXT NOT NULL, made_at REAL NOT NULL,
        PRIMARY KEY (network, container_id, ifname, family)) WITHOUT ROWID;
    CREATE TABLE slots (
        domain TEXT, family INTEGER, value TEXT, state TEXT NOT NULL CHECK (state IN ('cooling', 'leaving', 'quarantined')),
        released_now REAL NOT NULL, until_wall REAL NOT NULL, evidence TEXT NOT NULL, PRIMARY KEY (domain, family, value)) WITHOUT ROWID;
    CREATE TABLE leases (
        block TEXT PRIMARY KEY, page TEXT NOT NULL, domain TEXT NOT NULL, epoch INTEGER NOT NULL, slots TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE tombstones (
        network TEXT, container_id TEXT, ifname TEXT, at_wall REAL NOT NULL, PRIMARY KEY (network, container_id, ifname)) WITHOUT ROWID;
    CREATE TABLE outbox (key TEXT PRIMARY KEY, pod_uid TEXT NOT NULL) WITHOUT ROWID;
    """,
)
"""Element n brings a journal of version n to version n + 1. Addresses and masks exceed 63 bits, hence text."""

_Values: TypeAlias = tuple[object, ...]


def _attachment(write: port.PutAttachment) -> _Values:
    r = write.record
    key = (r.network, r.container_id, r.ifname, r.family)
    return (*key, r.domain, str(r.value), r.pool, r.namespace, r.pod, r.pod_uid, r.netns, r.made_at)


def _slot(write: port.PutSlot) -> _Values:
    r = write.record
    return (r.domain, r.family, str(r.value), r.state, r.released_now, r.until_wall, r.evidence)


def _lease(write: port.PutLease) -> _Values:
    r = write.record
    return (r.block, r.page, r.domain, r.epoch, str(r.slots))


_STATEMENTS: dict[type, tuple[str, Callable[[Any], _Values]]] = {
    port.PutAttachment: ("INSERT OR REPLACE INTO attachments VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", _attachment),
    port.DropAttachment: (
        "DELETE FROM attachments WHERE network=? AND container_id=? AND ifname=? AND family=?",
        lambda w: (w.network, w.container_id, w.ifname, w.family),
    ),
    port.PutSlot: ("INSERT OR REPLACE INTO slots VALUES (?,?,?,?,?,?,?)", _slot),
    port.DropSlot: (
        "DELETE FROM slots WHERE domain=? AND family=? AND value=?",
        lambda w: (w.domain, w.family, str(w.value)),
    ),
    port.PutLease: ("INSERT OR REPLACE INTO leases VALUES (?,?,?,?,?)", _lease),
    port.DropLease: ("DELETE FROM leases WHERE block=?", lambda w: (w.block,)),
    port.PutTombstone: (
        "INSERT OR REPLACE INTO tombstones VALUES (?,?,?,?)",
        lambda w: (w.network, w.container_id, w.ifname, w.at_wall),
    ),
    port.DropTombstone: (
        "DELETE FROM tombstones WHERE network=? AND container_id=? AND ifname=?",
        lambda w: (w.network, w.container_id, w.ifname),
    ),
    port.PutOutbox: ("INSERT OR REPLACE INTO outbox VALUES (?,?)", lambda w: (w.key, w.pod_uid)),
    port.DropOutbox: ("DELETE FROM outbox WHERE key=? AND pod_uid=?", lambda w: (w.key, w.pod_uid)),
    port.PutMeta: ("INSERT OR REPLACE INTO meta VALUES (?,?)", lambda w: (w.key, w.value)),
}


class SqliteJournal:
    """`Journal` in a file. Build it with `open`. One event loop's thread calls `load`, `commit` and `close`."""

    def __init__(self, path: Path, lock: int, database: sqlite3.Connection, moved_aside: Path | None) -> None:
        self.path = path
        self.moved_aside = moved_aside
        self._lock = lock
        self._database = database
        self._execute = database.cursor().execute
        self._wal = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        self._thread = ThreadPoolExecutor(1, "journal-sync")
        self._committed = 0
        self._synced = 0
        self._syncing: asyncio.Future[None] | None = None
        self._sync_failure = ""

    @classmethod
    def open(cls, path: Path) -> SqliteJournal:
        """Create or open, migrate and check. Raises JournalLocked, JournalFailed."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = _locked(path)
        except OSError as error:
            raise JournalFailed(f"journal {path}: {error}", "check that the state directory is writable") from error
        try:
            moved_aside = None
            try:
                database = _opened(path)
            except _Damaged:
                moved_aside = _move_aside(path)
                database = _opened(path)
            _make_entries_durable(path.parent)
            return cls(path, lock, database, moved_aside)
        except (OSError, sqlite3.Error, _Damaged) as error:
            os.close(lock)
            raise JournalFailed(f"journal {path}: {error}", "check the disk and the free space") from error
        except BaseException:
            os.close(lock)
            raise

    def load(self) -> JournalState:
        """Everything that was committed. Raises JournalFailed."""
        try:
            return _load(self._execute)
        except sqlite3.Error as error:
            raise JournalFailed(f"journal {self.path}: {error}") from error

    def commit(self, writes: Sequence[Write]) -> None:
        """See the port. Raises JournalFailed."""
        if not writes:
            return
        execute = self._execute
        try:
            execute("BEGIN")
            for write in writes:
                statement, values = _STATEMENTS[type(write)]
                execute(statement, values(write))
            execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):  # SQLite rolls back by itself after the worst errors
                if self._database.in_transaction:
                    execute("ROLLBACK")
            raise JournalFailed(f"journal {self.path}: {error}", "check the disk and the free space") from error
        self._committed += 1

    async def sync(self) -> None:
        """See the port. Callers at the same time share one `fdatasync`. Raises JournalFailed."""
        wanted = self._committed
        while self._synced < wanted:
            if self._sync_failure:
                raise JournalFailed(
                    f"journal {self.path}: an earlier sync failed ({self._sync_failure})",
                    "restart the agent once the disk works; what the kernel dropped cannot be told from here",
                )
            if self._syncing is None:
                self._syncing = asyncio.ensure_future(self._sync_once())
            await asyncio.shield(self._syncing)

    async def _sync_once(self) -> None:
        covered = self._committed
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, os.fdatasync, self._wal)
            self._synced = covered
        except OSError as error:
            self._sync_failure = str(error)
        finally:
            self._syncing = None

    def close(self) -> None:
        """Release everything. A second call does nothing."""
        if self._lock < 0:
            return
        self._thread.shutdown(wait=True)
        os.close(self._wal)
        self._database.close()
        os.close(self._lock)
        self._lock = -1


class _Damaged(Exception):
    """The file is no usable journal."""


def _locked(path: Path) -> int:
    """A descriptor that holds the lock. The lock file stays when the journal is moved aside or deleted by hand."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise JournalLocked(
            f"journal {path} is open in another process",
            "only one agent may run on a node; wait for the old one to end",
        ) from error
    return lock


def _opened(path: Path) -> sqlite3.Connection:
    """Raises _Damaged for a bad file, JournalFailed for one of a newer version, sqlite3.Error and OSError for the rest."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # the mode SQLite would not choose
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.0)
    try:
        database.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
        mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise JournalFailed(
                f"journal {path}: no write-ahead log on this file system (mode {mode!r})", "use a local file system"
            )
        database.execute("PRAGMA synchronous=NORMAL")
        found = [row[0] for row in database.execute("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            raise _Damaged(f"quick_check: {found}")
        _migrate(path, database)
        # A first write makes SQLite take its exclusive lock and create the WAL file that `sync` opens.
        database.execute("INSERT OR REPLACE INTO meta VALUES ('openedAt', ?)", (f"{time.time():.3f}",))
    except sqlite3.DatabaseError as error:
        database.close()
        # NOTADB and CORRUPT are damage; full disks and I/O errors must never make us leave a good journal behind.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise _Damaged(str(error)) from error
        raise
    except BaseException:
        database.close()
        raise
    return database


def _migrate(path: Path, database: sqlite3.Connection) -> None:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    if version > len(_MIGRATIONS):
        raise JournalFailed(
            f"journal {path} has version {version}, this program knows {len(_MIGRATIONS)}",
            "run the newer agent again; an older one cannot tell which addresses are in use",
        )
    for number in range(version, len(_MIGRATIONS)):
        database.executescript(f"BEGIN; {_MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;")


def _move_aside(path: Path) -> Path:
    """Rename the database with its WAL, so that SQLite can still open the pair; the journal's name is free afterwards."""
    aside = path.with_name(f"{path.name}.corrupt-{int(time.time())}")
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    return aside


def _make_entries_durable(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load(execute: Callable[..., sqlite3.Cursor]) -> JournalState:
    attachments = execute(
        "SELECT network, container_id, ifname, domain, family, value, pool, namespace, pod, pod_uid, netns, made_at FROM attachments"
    ).fetchall()
    slots = execute("SELECT domain, family, value, state, released_now, until_wall, evidence FROM slots").fetchall()
    leases = execute("SELECT block, page, domain, epoch, slots FROM leases").fetchall()
    tombstones = execute("SELECT network, container_id, ifname, at_wall FROM tombstones").fetchall()
    outbox = execute("SELECT key, pod_uid FROM outbox").fetchall()
    return JournalState(
        meta={key: value for key, value in execute("SELECT key, value FROM meta").fetchall() if key != "openedAt"},
        attachments=tuple(port.AttachmentRecord(*_with_int(row, 5)) for row in attachments),
        slots=tuple(port.SlotRecord(*_with_int(row, 2)) for row in slots),
        leases=tuple(port.LeaseRecord(*_with_int(row, 4)) for row in leases),
        tombstones=tuple(port.TombstoneRecord(*row) for row in tombstones),
        outbox=tuple(port.OutboxRecord(*row) for row in outbox),
    )


def _with_int(row: Sequence[Any], at: int) -> list[Any]:
    values = list(row)
    values[at] = int(values[at])
    return values
