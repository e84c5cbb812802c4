"""Builds the CNI binary: ``python -m cni.build OUTDIR [--sanitize]``.

The release build is one static file of musl libc that needs nothing on the host. Two builds of the same sources with
the same compiler are the same bytes. The sanitized build is for tests: slower, linked with glibc, aborts at the first
memory error.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAME = "nephila"
SANITIZED_NAME = "nephila-sanitized"

WARNINGS = ("-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wstrict-prototypes", "-Wvla")
RELEASE = (
    "-Os",
    "-static",
    "-fstack-protector-strong",
    "-fno-asynchronous-unwind-tables",
    "-ffunction-sections",
    "-fdata-sections",
    "-Wl,--gc-sections,-z,relro,-z,now,-z,noexecstack,--build-id=none",
    "-s",
)
SANITIZED = (
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-static-libasan",
    "-Werror",
)


class BuildError(Exception):
    """The compiler is missing or refused the sources; the text says what to do."""


def compile_c(compiler: str, source: Path, output: Path, flags: Sequence[str]) -> Path:
    """Compiles ``source`` to ``output`` (its directory is made) and returns ``output``; raises BuildError."""
    if shutil.which(compiler) is None:
        package = "musl-tools" if compiler == "musl-gcc" else "gcc"
        raise BuildError(f"{compiler} is not installed; fix: apt-get install {package}")
    output.parent.mkdir(parents=True, exist_ok=True)
    # Run beside the source with its bare name: no path of this checkout can get into the file.
    fresh = output.resolve().with_name(f".{output.name}.{os.getpid()}")
    command = [compiler, *flags, source.name, "-o", str(fresh)]
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        fresh.unlink(missing_ok=True)
        raise BuildError(f"{compiler} refused {source.name}:\n{done.stderr}")
    fresh.replace(output)  # a measurement that runs the former file goes on with it
    return output


def build(outdir: Path, *, defines: Sequence[str] = ()) -> Path:
    """Builds the release binary as ``outdir/nephila``; ``defines`` (``NAME=value``) shorten deadlines in tests."""
    flags = (*WARNINGS, *RELEASE, *(f"-D{define}" for define in defines))
    return compile_c("musl-gcc", HERE / "shim.c", outdir / NAME, flags)


def build_sanitized(outdir: Path, *, defines: Sequence[str] = ()) -> Path:
    """Builds ``outdir/nephila-sanitized`` with AddressSanitizer and UndefinedBehaviorSanitizer."""
    flags = (*WARNINGS, *SANITIZED, *(f"-D{define}" for define in defines))
    return compile_c("gcc", HERE / "shim.c", outdir / SANITIZED_NAME, flags)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cni.build", description="Build the CNI binary.")
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--sanitize", action="store_true", help="build the sanitized binary for tests instead")
    chosen = parser.parse_args(arguments)
    try:
        built = build_sanitized(chosen.outdir) if chosen.sanitize else build(chosen.outdir)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{built} ({built.stat().st_size:,} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
