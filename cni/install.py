"""Installs the CNI binary on a host: ``python -m cni.install --bin-dir /opt/cni/bin [--uninstall]``.

The runtime may start the plugin at any moment, so every change is one rename of a complete, executable, synced file in
the same directory. The binary is installed twice, as ``nephila`` and as ``spiderpool`` (``--name`` says otherwise), so
that existing network definitions keep working. What a name held before stays beside it as ``.<name>.previous``; ``--uninstall`` puts a
foreign predecessor back.
"""

import argparse
import os
import stat
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

NAMES = ("nephila", "spiderpool")
# Every build of the shim carries this text; a file without it is somebody else's.
MARK = b"Nephila-Shim: "
BUILT = Path(__file__).resolve().parent.parent / "build" / "cni" / "nephila"


class InstallError(Exception):
    """The host's directory or the binary does not allow it; the text names the path, the reason and the fix."""


class Outcome(Enum):
    UNCHANGED = "unchanged"
    INSTALLED = "installed"
    UPDATED = "updated; the version before is kept for rollback"
    TOOK_OVER = "installed over another program's file, which is kept and comes back at uninstall"
    REMOVED = "removed"
    RESTORED = "removed; the other program's file is back"
    ABSENT = "was not installed"
    FOREIGN = "left alone: another program's file"


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one file name."""

    path: Path
    outcome: Outcome

    def __str__(self) -> str:
        return f"{self.path}: {self.outcome.value}"


def previous_of(path: Path) -> Path:
    """Where the file that ``path`` held before is kept."""
    return path.with_name(f".{path.name}.previous")


def install(source: Path, bin_dir: Path, names: Sequence[str] = NAMES) -> list[Change]:
    """Installs ``source`` under each of ``names``; writes nothing where the content is already there. Raises InstallError."""
    content = _read_binary(source)
    _require_directory(bin_dir)
    try:
        return [_install_one(content, bin_dir / name) for name in names]
    except OSError as error:
        raise _explained(error, bin_dir) from error


def uninstall(bin_dir: Path) -> list[Change]:
    """Removes our files and restores what another program had there. Raises InstallError."""
    _require_directory(bin_dir)
    try:
        return [_uninstall_one(bin_dir / name) for name in NAMES]
    except OSError as error:
        raise _explained(error, bin_dir) from error


def _install_one(content: bytes, path: Path) -> Change:
    before = _content(path)
    if before == content and stat.S_IMODE(path.stat().st_mode) == 0o755:
        return Change(path, Outcome.UNCHANGED)
    if before is None:
        outcome = Outcome.INSTALLED
    else:
        ours = MARK in before
        outcome = Outcome.UPDATED if ours else Outcome.TOOK_OVER
        # An update never pushes out a foreign predecessor: that file exists nowhere else.
        if before != content and not (ours and _is_foreign(previous_of(path))):
            _replace(previous_of(path), before, stat.S_IMODE(path.stat().st_mode))
    _replace(path, content, 0o755)
    return Change(path, outcome)


def _uninstall_one(path: Path) -> Change:
    present, kept = _content(path), previous_of(path)
    if present is not None and MARK not in present:
        return Change(path, Outcome.FOREIGN)
    if _is_foreign(kept):
        kept.rename(path)
        outcome = Outcome.RESTORED
    else:
        kept.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        outcome = Outcome.ABSENT if present is None else Outcome.REMOVED
    _sync_directory(path.parent)
    return Change(path, outcome)


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Makes ``path`` hold ``content`` in one step: who opens or executes it sees the old file or the new, whole."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _content(path: Path) -> bytes | None:
    """The bytes of the regular file (or of the file that a link points to), None if there is nothing."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _is_foreign(path: Path) -> bool:
    content = _content(path)
    return content is not None and MARK not in content


def _read_binary(source: Path) -> bytes:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise InstallError(
            f"{source}: {error.strerror}; fix: build it with `python -m cni.build {source.parent}`"
        ) from error
    if not content.startswith(b"\x7fELF") or MARK not in content:
        raise InstallError(f"{source} is not the Nephila CNI binary; fix: build it with `python -m cni.build DIR`")
    return content


def _require_directory(bin_dir: Path) -> None:
    if not bin_dir.is_dir():
        raise InstallError(
            f"{bin_dir} is not a directory; fix: mount the host's CNI directory there, or name the one that its "
            "runtime uses (containerd: `bin_dir`, CRI-O: `plugin_dirs`)"
        )


def _explained(error: OSError, bin_dir: Path) -> InstallError:
    return InstallError(
        f"{error.filename or bin_dir}: {error.strerror}; fix: {bin_dir} must be writable (a hostPath that is not "
        "read-only) and hold only files under the names " + ", ".join(NAMES)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cni.install", description="Install the CNI binary on this host.")
    parser.add_argument("--bin-dir", type=Path, default=Path("/opt/cni/bin"))
    parser.add_argument("--source", type=Path, default=BUILT, help="the built binary")
    parser.add_argument("--name", action="append", choices=NAMES, help="only this name; may be repeated")
    parser.add_argument("--uninstall", action="store_true", help="all names, whatever --name says")
    chosen = parser.parse_args(arguments)
    try:
        names = chosen.name or NAMES
        changes = uninstall(chosen.bin_dir) if chosen.uninstall else install(chosen.source, chosen.bin_dir, names)
    except InstallError as error:
        print(error, file=sys.stderr)
        return 1
    for change in changes:
        print(change)
    return 0


if __name__ == "__main__":
    sys.exit(main())
