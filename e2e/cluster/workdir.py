"""The cluster's folder in memory, ports and credential files; and the removal of folders that a crash left behind."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import random
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

PARENT = Path("/dev/shm")
PREFIX = "nephila-cluster-"
# Below /proc/sys/net/ipv4/ip_local_port_range's usual start (32768).
PORT_RANGE = range(20000, 32000)
YOUNG_S = 60.0


class WorkDir:
    """A folder in memory (mode 0700) that belongs to this process for as long as it holds the lock file inside.

    Made anew by each instance, which first removes those whose holder is gone.
    """

    def __init__(self) -> None:
        _sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PARENT))
        self._lock = _lock(self.path)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that nothing on 127.0.0.1 listens on now. Raises OSError if too few are free."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORT_RANGE, 50 * count):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"fewer than {count} free ports found in {PORT_RANGE.start}-{PORT_RANGE.stop}")


def write_kubeconfig(path: Path, *, server: str, ca_file: Path, user: dict[str, str]) -> Path:
    """A self-contained kubeconfig (mode 0600). `user` is either a token or client-certificate-data and -key-data."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "nephila",
        "clusters": [
            {"name": "nephila", "cluster": {"server": server, "certificate-authority-data": encode_file(ca_file)}}
        ],
        "users": [{"name": path.stem, "user": user}],
        "contexts": [{"name": "nephila", "context": {"cluster": "nephila", "user": path.stem}}],
    }
    return write_private(path, json.dumps(config, indent=1))


def write_private(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def encode_file(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _lock(folder: Path) -> IO[str] | None:
    """The open, locked file; None if another process holds it."""
    handle = (folder / "lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


def _sweep() -> None:
    for folder in PARENT.glob(f"{PREFIX}*"):
        with suppress(OSError):  # removed meanwhile, or another user's
            mine = folder.stat().st_uid == os.geteuid()
            if not mine or time.time() - folder.stat().st_mtime < YOUNG_S:
                continue
            handle = _lock(folder)
            if handle is not None:
                shutil.rmtree(folder, ignore_errors=True)
                handle.close()
