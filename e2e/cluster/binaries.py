"""Builds the control plane from its Go modules once per version, and finds it again afterwards.

`build/go.mod` pins everything and `build/go.sum` is checked by Go. Results and Go's own build cache lie outside the
tree in `$NEPHILA_CACHE` (default `~/.cache/nephila`), so that a fresh clone on the same machine costs nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "build"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")
BUILD_TIMEOUT_S = 3600.0
KEPT_RESULTS = 3
OLDEST_GO = (1, 26)
SYSTEM_GO = "/usr/local/go/bin/go"


class BuildFailed(RuntimeError):
    """A program could not be built; the message names the reason and what to do."""


@dataclass(frozen=True, slots=True)
class Pins:
    """Versions as `build/go.mod` pins them, with their leading `v`."""

    kubernetes: str
    etcd: str


@dataclass(frozen=True, slots=True)
class Binaries:
    """One folder with an executable name per entry of `PROGRAMS`, all of them links to one multi-call binary."""

    folder: Path
    pins: Pins
    go: str
    seconds: float  # what the build took now; 0.0 if it was found ready

    def path(self, program: str) -> Path:
        return self.folder / program

    @property
    def size_bytes(self) -> int:
        return self.path(PROGRAMS[0]).stat().st_size


def pins() -> Pins:
    """Raises `BuildFailed` if go.mod does not pin both."""
    text = (SOURCE / "go.mod").read_text()
    found = {
        module: re.search(rf"^\t{re.escape(module)} (v[0-9][^ \n]*)", text, re.MULTILINE)
        for module in ("k8s.io/kubernetes", "go.etcd.io/etcd/server/v3")
    }
    versions = [match.group(1) for match in found.values() if match]
    if len(versions) != len(found):
        raise BuildFailed(f"{SOURCE / 'go.mod'} must require each of {', '.join(found)} at a fixed version")
    return Pins(*versions)


def cache_folder() -> Path:
    return Path(os.environ.get("NEPHILA_CACHE") or Path.home() / ".cache" / "nephila")


def find_go() -> tuple[Path, str]:
    """Go's path and version; `$NEPHILA_GO` first, then PATH, then /usr/local/go. Raises `BuildFailed`."""
    candidates = (os.environ.get("NEPHILA_GO"), shutil.which("go"), SYSTEM_GO)
    seen: list[str] = []
    for candidate in dict.fromkeys(filter(None, candidates)):
        if not os.access(candidate, os.X_OK):
            continue
        answer = subprocess.run([candidate, "version"], capture_output=True, text=True, timeout=60, check=False).stdout
        match = re.search(r"\bgo(\d+)\.(\d+)(\S*)", answer)
        if match and (int(match[1]), int(match[2])) >= OLDEST_GO:
            return Path(candidate), match[0]
        seen.append(f"{candidate} ({match[0] if match else 'unknown version'})")
    wanted = ".".join(map(str, OLDEST_GO))
    raise BuildFailed(f"Go {wanted} or newer is needed; found {', '.join(seen) or 'none'}. Set NEPHILA_GO to its path")


def ensure() -> Binaries:
    """The binaries of the pinned versions, built if they are not in the cache. Raises `BuildFailed`."""
    pinned = pins()
    go, go_version = find_go()
    folder = cache_folder() / "kube" / f"{pinned.kubernetes}-{go_version}-{_source_hash()}"
    if _complete(folder):
        return Binaries(folder, pinned, go_version, 0.0)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / ".lock"):
        if _complete(folder):
            return Binaries(folder, pinned, go_version, 0.0)
        return Binaries(folder, pinned, go_version, _build(folder, go, pinned))


def _source_hash() -> str:
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((SOURCE / name).read_bytes())
    digest.update(_linker_flags(pins().kubernetes).encode())
    return digest.hexdigest()[:12]


def _complete(folder: Path) -> bool:
    return all(os.access(folder / program, os.X_OK) for program in PROGRAMS)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One build at a time on a machine; the lock dies with its holder."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(folder: Path, go: Path, pinned: Pins) -> float:
    """Builds into a temporary folder and renames, so that a half-made result is never found. Seconds taken."""
    started = time.monotonic()
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir()
    output = temporary / "nephila-kube"
    flags = _linker_flags(pinned.kubernetes)
    try:
        go_build(go, SOURCE, ".", output, what=f"Kubernetes {pinned.kubernetes}", linker_flags=flags)
        for program in PROGRAMS:
            (temporary / program).symlink_to(output.name)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        _forget_old(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return time.monotonic() - started


def go_build(go: Path, module: Path, package: str, output: Path, *, what: str, linker_flags: str = "-s -w") -> None:
    """One static program, of the versions that the module in folder `module` pins, at low priority. Raises `BuildFailed`."""
    command = ["nice", "-n", "15", str(go), "build", "-p", str(min(4, os.cpu_count() or 2)), "-trimpath"]
    command += ["-buildvcs=false", "-ldflags", linker_flags, "-o", str(output), package]
    environment = dict(
        os.environ,
        CGO_ENABLED="0",
        GOFLAGS="-mod=readonly",
        GOWORK="off",
        GOCACHE=str(cache_folder() / "go-build"),
    )
    try:
        done = subprocess.run(
            command, cwd=module, env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"go build of {what} took more than {BUILD_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise BuildFailed(f"go build of {what} failed:\n{done.stderr[-4000:]}")


def _forget_old(parent: Path) -> None:
    """Keeps the newest few results: other clones may be at other versions, yet each is about 150 MB."""
    results = [entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    for old in sorted(results, key=lambda entry: entry.stat().st_mtime, reverse=True)[KEPT_RESULTS:]:
        shutil.rmtree(old, ignore_errors=True)


def _linker_flags(version: str) -> str:
    """Without these, /version says v0.0.0-master and clients warn of a version skew."""
    major, minor = version.removeprefix("v").split(".")[:2]
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return "-s -w " + " ".join(f"-X {p}.{name}={value}" for p in packages for name, value in values.items())
