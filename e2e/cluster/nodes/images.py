"""Two images without a registry: busybox's static binary as the only layer, written as a docker-archive."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

from e2e.cluster.nodes.settings import PAUSE_IMAGE
from e2e.cluster.program import ClusterFailed

BUSYBOX = Path("/bin/busybox")
BUSYBOX_IMAGE = "k8s.local/busybox:1"
# As the first process of its container a plain `sleep` would ignore SIGTERM and cost each pod its whole grace period.
IDLE = ("/bin/sh", "-c", "trap 'exit 0' TERM; sleep 2147483647 & wait")


def write_archive(target: Path) -> Path:
    """Both images in one file, for `ctr images import`. Raises ClusterFailed if busybox-static is not installed."""
    layer = _layer()
    config = json.dumps(
        {
            "architecture": _architecture(),
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": list(IDLE)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [PAUSE_IMAGE, BUSYBOX_IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as archive:
        for member, content in ((name, config), ("layer.tar", layer), ("manifest.json", json.dumps(manifest).encode())):
            _add(archive, member, content, 0o644)
    return target


def _layer() -> bytes:
    if not BUSYBOX.exists():
        raise ClusterFailed(f"{BUSYBOX} is missing; run tools/bootstrap nodes")
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, timeout=20, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for folder in ("bin", "dev", "etc", "proc", "sys", "tmp", "var", "run"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(entry)
        _add(layer, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        for applet in applets:
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                layer.addfile(entry)
    return buffer.getvalue()


def _architecture() -> str:
    command = ["dpkg", "--print-architecture"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
