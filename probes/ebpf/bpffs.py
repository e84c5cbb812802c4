"""Finds or mounts a BPF file system, where programs and maps outlive the process that made them."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

SYSTEM = Path("/sys/fs/bpf")
PRIVATE = Path("/run/nephila/bpf")
_FOLDER = "nephila"


def mounted(path: Path) -> bool:
    """Whether a bpffs is mounted exactly at `path`."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4] == str(path) and after.split()[0] == "bpf":
            return True
    return False


def ensure() -> Path:
    """A folder on a bpffs for us alone: below /sys/fs/bpf if that is one, else on a private mount. Raises OSError if
    neither works.
    """
    if not mounted(SYSTEM):
        PRIVATE.mkdir(parents=True, exist_ok=True)
        if not mounted(PRIVATE):
            _mount(PRIVATE)
    base = SYSTEM if mounted(SYSTEM) else PRIVATE
    folder = base / _FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def existing() -> list[Path]:
    """Our folders that are there now, without mounting anything."""
    return [base / _FOLDER for base in (SYSTEM, PRIVATE) if mounted(base) and (base / _FOLDER).is_dir()]


def _mount(path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", str(path).encode(), b"bpf", 0, b"mode=0700"):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
