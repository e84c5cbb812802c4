"""One cgroup per node under each mounted hierarchy; kubelet makes its pods' below it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
REMOVAL_TIMEOUT_S = 10.0
_COPIED = ("cpuset.cpus", "cpuset.mems")  # empty in a new cpuset of version 1, and then nothing may be put into it


def hierarchies() -> list[Path]:
    """Mount points of version 1 controllers (or of the one version 2 tree)."""
    lines = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return [Path(words[1]) for words in lines if words[2] in ("cgroup", "cgroup2") and words[1].startswith(str(ROOT))]


def create(name: str) -> None:
    for hierarchy in hierarchies():
        folder = hierarchy / name
        folder.mkdir(exist_ok=True)
        for file in _COPIED:
            if (hierarchy / file).exists() and (folder / file).exists() and not (folder / file).read_text().strip():
                (folder / file).write_text((hierarchy / file).read_text())


def processes(name: str) -> set[int]:
    """All pids in the cgroup and below."""
    found: set[int] = set()
    for hierarchy in hierarchies():
        for file in (hierarchy / name).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found.update(map(int, file.read_text().split()))
    return found


def remove(name: str) -> None:
    """Ends what still runs in it, then removes it with everything below. Raises OSError if the kernel still refuses after 10 s."""
    deadline = time.monotonic() + REMOVAL_TIMEOUT_S
    while True:
        for pid in processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            for hierarchy in hierarchies():
                _remove_tree(hierarchy / name)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def names(prefix: str) -> list[str]:
    return sorted({entry.name for hierarchy in hierarchies() for entry in hierarchy.glob(f"{prefix}*")})


def _remove_tree(folder: Path) -> None:
    if not folder.is_dir():
        return
    for child in sorted((path for path in folder.rglob("*") if path.is_dir()), key=lambda p: -len(p.parts)):
        child.rmdir()
    folder.rmdir()
