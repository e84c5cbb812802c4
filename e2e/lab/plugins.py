"""The lab's CNI_PATH: the distribution's main plugins, and our shim under both of its names behind a stopwatch."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAIN_PLUGINS = Path("/usr/lib/cni")
BUILD = ROOT / "build"
IPAM_NAMES = ("nephila", "spiderpool")
BUILD_TIMEOUT_S = 120.0


class PluginsError(RuntimeError):
    """A plugin is missing or did not compile."""


def install(directory: Path) -> None:
    """Fills `directory` (made here, mode 0700). Builds what is not built. Raises PluginsError with the fix."""
    directory.mkdir(mode=0o700, parents=True)
    for name in ("macvlan", "loopback"):
        if not (MAIN_PLUGINS / name).exists():
            raise PluginsError(f"{MAIN_PLUGINS / name} is missing: apt-get install containernetworking-plugins")
        (directory / name).symlink_to(MAIN_PLUGINS / name)
    shim, stopwatch = build_shim(), build_stopwatch()
    for name in IPAM_NAMES:  # copies: the stopwatch finds its shim by the resolved path of its own file
        shutil.copy2(stopwatch, directory / name)
        shutil.copy2(shim, directory / f"{name}.shim")


def build_shim() -> Path:
    """The native binary, made anew if a source is younger; renamed into place, for other labs may be copying it."""
    target = BUILD / "cni" / "nephila"
    sources = list((ROOT / "cni").glob("*.c"))
    if not _is_current(target, sources):
        with tempfile.TemporaryDirectory(dir=_made(target.parent), prefix=".lab-") as folder:
            _run([sys.executable, "-m", "cni.build", folder], "the shim")
            (Path(folder) / "nephila").rename(target)
    return target


def build_stopwatch() -> Path:
    source, target = Path(__file__).with_name("stopwatch.c"), BUILD / "lab" / "stopwatch"
    if not _is_current(target, [source]):
        compiler = shutil.which("musl-gcc") or "gcc"
        with tempfile.TemporaryDirectory(dir=_made(target.parent), prefix=".lab-") as folder:
            fresh = Path(folder) / "stopwatch"
            _run([compiler, "-O2", "-Wall", "-Wextra", "-static", "-s", "-o", str(fresh), str(source)], "the stopwatch")
            fresh.rename(target)
    return target


def _is_current(target: Path, sources: Iterable[Path]) -> bool:
    return target.exists() and all(target.stat().st_mtime > source.stat().st_mtime for source in sources)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise PluginsError(f"{what} did not build: {done.stderr.strip() or done.stdout.strip()}")
