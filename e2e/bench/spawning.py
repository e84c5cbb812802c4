"""The measuring end: small C programs, built here, and what they print."""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cni import build

HERE = Path(__file__).resolve().parent
MOST_IN_ONE_RUN = 1000
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")


class BenchError(Exception):
    """The bench cannot measure; the text says why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One process: its number, when it was started, and how long it took to its exit, in nanoseconds."""

    number: int
    start_ns: int
    elapsed_ns: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The processes of one run, of which ``failed`` did not exit with 0; ``said`` is the end of what they printed."""

    samples: tuple[Sample, ...]
    failed: int
    said: str

    @property
    def total_ns(self) -> int:
        """From the first start to the last exit."""
        return max(sample.start_ns + sample.elapsed_ns for sample in self.samples) - min(
            sample.start_ns for sample in self.samples
        )


@dataclass(frozen=True, slots=True)
class Tools:
    """The built helper programs."""

    spawn: Path
    echo: Path
    empty: Path
    shim: Path


def build_tools(outdir: Path) -> Tools:
    """Builds the runner, the echo server, the empty binary and the shim; raises ``cni.build.BuildError``."""
    return Tools(
        spawn=build.compile_c("gcc", HERE / "spawn.c", outdir / "spawn", FLAGS),
        echo=build.compile_c("gcc", HERE / "echo.c", outdir / "echo", FLAGS),
        # The same flags as the shim: the floor is what such a file costs, not a smaller one.
        empty=build.compile_c("musl-gcc", HERE / "empty.c", outdir / "empty", build.RELEASE),
        shim=build.build(outdir),
    )


def spawn(
    tools: Tools, program: Path, env: Mapping[str, str], stdin: bytes, *, first: int, count: int, in_flight: int
) -> Batch:
    """Runs ``program`` ``count`` times; ``{n}`` in a variable is the process's number, from ``first`` on."""
    if not 1 <= count <= MOST_IN_ONE_RUN:
        raise BenchError(f"count is {count}; one run takes 1 to {MOST_IN_ONE_RUN} processes")
    with tempfile.TemporaryDirectory(prefix="nephila-bench-", dir="/dev/shm") as place:
        given, said = Path(place, "stdin"), Path(place, "stdout")
        given.write_bytes(stdin)
        arguments = [str(count), str(in_flight), str(first), str(given), str(said)]
        done = subprocess.run(
            [tools.spawn, program, *arguments], env=dict(env), capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode != 0:
            raise BenchError(f"the runner could not start {program} (code {done.returncode}) {done.stderr}")
        rows = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
        text = said.read_text(errors="replace") if said.exists() else ""
    samples = tuple(Sample(number, start, elapsed) for number, start, elapsed, _ in rows)
    failed = sum(1 for *_, status in rows if os.waitstatus_to_exitcode(status) != 0)
    return Batch(samples, failed, text[-400:])
