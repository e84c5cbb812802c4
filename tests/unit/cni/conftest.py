"""The builds under test: the release flags and the sanitizers, both with short deadlines.

`tools/shim-arm64` runs the same tests on its cross-built binary, under qemu: it names the compiler's specs in NEPHILA_ARM64_SPECS.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni import build
from tests.unit.cni.harness import Shim

DEADLINE_S = 0.7
PATIENCE_S = 0.5
SPECS = os.environ.get("NEPHILA_ARM64_SPECS", "")


@pytest.fixture(scope="session")
def short_root() -> Iterator[Path]:
    """A directory whose path is short enough for unix sockets, however deep pytest's own are."""
    root = Path(tempfile.mkdtemp(prefix="nph-"))
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def builds(short_root: Path) -> dict[str, Path]:
    milliseconds = int(DEADLINE_S * 1000)
    defines = [f"NEPHILA_{name}_MS={milliseconds}" for name in ("DEADLINE", "DEL_DEADLINE", "STDIN")]
    defines.append(f"NEPHILA_PATIENCE_MS={int(PATIENCE_S * 1000)}")
    defines.append(f'NEPHILA_SOCKET="{short_root}/default/nephila.sock"')
    found = {
        "release": build.build(short_root / "bin", defines=defines),
        "sanitized": build.build_sanitized(short_root / "bin", defines=defines),
    }
    return found | ({"arm64": _arm64(short_root / "bin", defines)} if SPECS else {})


def _arm64(folder: Path, defines: list[str]) -> Path:
    """A script that runs the foreign binary: qemu gives it our environment, standard input and exit status."""
    flags = (f"-specs={SPECS}", *build.WARNINGS, *build.RELEASE, *(f"-D{define}" for define in defines))
    binary = build.compile_c("aarch64-linux-gnu-gcc", build.HERE / "shim.c", folder / "nephila-arm64.bin", flags)
    script = folder / "nephila-arm64"
    script.write_text(f"#!/bin/sh\nexec qemu-aarch64-static {binary}\n")
    script.chmod(0o755)
    return script


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="nph-"))
    yield root
    shutil.rmtree(root)


@pytest.fixture(params=["release", "sanitized", *(["arm64"] if SPECS else [])])
def shim(request: pytest.FixtureRequest, builds: dict[str, Path], socket_dir: Path) -> Shim:
    return Shim(builds[request.param], socket_dir / "nephila.sock")


@pytest.fixture
def default_dir(short_root: Path) -> Iterator[Path]:
    """The directory of the default socket of these builds; absent at first, as /run/nephila is after a boot."""
    directory = short_root / "default"
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
