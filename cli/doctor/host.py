"""Reads what the checks ask of this machine; every part may be missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from cli.doctor.checks import HostFacts
from cli.explain.networks import ipam_defaults
from ipam.errors import NephilaError

CONF_DIR, BIN_DIR, SOCKET = "etc/cni/net.d", "opt/cni/bin", "run/nephila/nephila.sock"
STATE_DIR = "var/lib/nephila"
MAX_CONF_BYTES = 1 << 20


def is_node(root: Path) -> bool:
    """Whether this looks like a Kubernetes node at all."""
    folder = root / CONF_DIR
    return (root / SOCKET).exists() or (folder.is_dir() and any(folder.iterdir()))


def read_host(root: Path, neighbours: dict[int, int]) -> HostFacts:
    """`root` is where the node's file system is; the kernel's settings are those of this machine unless `root` has its own /proc."""
    proc = root / "proc" if (root / "proc/sys").is_dir() else Path("/proc")
    conflists, using = _conflists(root / CONF_DIR)
    return HostFacts(
        kernel=_text(proc / "sys/kernel/osrelease") or os.uname().release,
        thresholds=_thresholds(proc),
        plugins=sorted(path.name for path in (root / BIN_DIR).iterdir()) if (root / BIN_DIR).is_dir() else None,
        conflists=conflists,
        uses_nephila=using,
        socket=(root / SOCKET).exists(),
        neighbours=neighbours,
        bpffs=_is_bpffs(proc / "mounts"),
        state_free_bytes=shutil.disk_usage(root / STATE_DIR).free if (root / STATE_DIR).is_dir() else None,
    )


def _is_bpffs(mounts: Path) -> bool:
    return any(line.split()[1:3] == ["/sys/fs/bpf", "bpf"] for line in _text(mounts).splitlines())


def _thresholds(proc: Path) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}
    for family in (4, 6):
        folder = proc / f"sys/net/ipv{family}/neigh/default"
        texts = [_text(folder / f"gc_thresh{number}") for number in (1, 2, 3)]
        if all(text.isdecimal() for text in texts):
            found[family] = tuple(map(int, texts))
    return found


def _conflists(folder: Path) -> tuple[dict[str, str] | None, tuple[str, ...]]:
    if not folder.is_dir():
        return None, ()
    found: dict[str, str] = {}
    using: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".conf", ".conflist", ".json") or not path.is_file():
            continue
        found[path.name] = ""
        text = _text(path)
        try:
            msgspec.json.decode(text)
            if ipam_defaults(text, path.name) is not None:
                using.append(path.name)
        except msgspec.DecodeError as error:
            found[path.name] = f"not JSON: {error}"
        except NephilaError as error:
            found[path.name] = error.message
    return found, tuple(using)


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_CONF_BYTES).strip()
    except OSError:
        return ""
