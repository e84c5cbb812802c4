"""What a watcher costs on a busy segment: ARP frames at a steady rate from a far host, and a watcher of each mode in a process of its own.

`python -m e2e.bench.flood send …` and `… watch MODE` are the two processes; `measure` runs them. Only inside the benchmark's own namespaces.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Annotated

import typer

from adapters.clock import SystemClock
from adapters.frames import FrameSocket
from e2e.bench.segment import INTERFACE, Segment, inside
from e2e.bench.spawning import BenchError
from ipam.addresses import Address, Family
from probes import codec
from probes.acd import arp_announcement
from probes.ebpf.loader import unpin
from probes.messages import Arp
from probes.watcher import Intrusion, Mode
from probes.watching import open_watcher

WATCHED = 256
FIRST_WATCHED, FIRST_OTHER = 0x0A640100, 0x0A64C800  # 10.100.1.0, 10.100.200.0
POD_MAC, OTHER_MAC = "02:00:00:00:00:10", "02:00:00:00:00:20"
STEP_S = 0.005
LIMIT_S = 60.0

app = typer.Typer()


@dataclass(frozen=True, slots=True)
class Cost:
    """`watcher` and `sender`: percent of one core; the kernel's part of carrying a frame, and eBPF's, is the sender's."""

    mode: str
    frames: int
    rate: float
    watcher_cpu: float
    sender_cpu: float
    seen: int


def measure(place: Segment, modes: list[str], rate: int, seconds: float) -> list[Cost]:
    """One after the other, each for `seconds` at `rate` frames a second. Raises BenchError."""
    return [_one(place, mode, rate, seconds) for mode in modes]


def _one(place: Segment, mode: str, rate: int, seconds: float) -> Cost:
    here = [sys.executable, "-m", "e2e.bench.flood"]
    with inside(place.node):
        watcher = subprocess.Popen([*here, "watch", mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert watcher.stdout is not None and watcher.stdin is not None
        if (ready := watcher.stdout.readline().strip()) != mode:
            raise BenchError(f"the watcher runs in mode {ready or 'none'}, not {mode}")
        with inside(place.far):
            options = ["--rate", str(rate), "--seconds", str(seconds)]
            sent = subprocess.run(
                [*here, "send", *options], capture_output=True, text=True, timeout=LIMIT_S, check=False
            )
        if sent.returncode:
            raise BenchError(f"the flood ended: {sent.stderr.strip()[-300:]}")
        out, _ = watcher.communicate("stop\n", timeout=LIMIT_S)
    finally:
        watcher.kill()
        watcher.wait()
    told, did = json.loads(out), json.loads(sent.stdout)
    return Cost(
        mode,
        did["frames"],
        did["frames"] / did["seconds"],
        100 * told["cpu_s"] / did["seconds"],
        100 * did["cpu_s"] / did["seconds"],
        told["frames"],
    )


@app.command()
def watch(mode: str) -> None:
    """Watch 256 addresses until a line comes on stdin; then print what it cost."""
    with asyncio.Runner() as runner:
        runner.run(_watch(Mode(mode)))
    unpin()


async def _watch(mode: Mode) -> None:
    intrusions: list[Intrusion] = []
    watcher = await open_watcher(INTERFACE, SystemClock(), intrusions.append, mode)
    for number in range(WATCHED):
        watcher.watch(Address(Family.V4, FIRST_WATCHED + number), POD_MAC)
    print(watcher.mode.value, flush=True)
    before = _cpu_s()
    await asyncio.to_thread(sys.stdin.readline)
    cost = _cpu_s() - before
    counters = watcher.counters()
    await watcher.close()
    print(json.dumps({"cpu_s": cost, "frames": counters.get("frames", 0), "intrusions": len(intrusions)}))


@app.command()
def send(
    *,
    rate: Annotated[int, typer.Option(min=1, max=50_000)],
    seconds: Annotated[float, typer.Option(min=0.1, max=30.0)],
) -> None:
    """Of ten frames nine are questions among other hosts, and one is a pod's own announcement of a watched address."""
    frames = list(map(codec.encode, _mix()))
    port = FrameSocket(INTERFACE)
    before, began, count = _cpu_s(), time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        while count < now * rate:
            port.send((frames[count % len(frames)],))
            count += 1
        time.sleep(STEP_S)
    took = time.monotonic() - began
    port.close()
    print(json.dumps({"frames": count, "seconds": took, "cpu_s": _cpu_s() - before}))


def _mix() -> list[Arp]:
    asked = [
        Arp(1, OTHER_MAC, Address(Family.V4, FIRST_OTHER + n), Address(Family.V4, FIRST_OTHER + n + 1), OTHER_MAC)
        for n in range(250)
    ]
    told = [arp_announcement(Address(Family.V4, FIRST_WATCHED + n), POD_MAC) for n in range(25)]
    return [frame for n in range(250) for frame in ([asked[n], told[n // 10]] if n % 10 == 9 else [asked[n]])]


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    app()
