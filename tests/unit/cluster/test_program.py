"""Child processes start, are awaited and end, whatever they do."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from e2e.cluster.program import ClusterFailed, Program


def program(tmp_path: Path, script: str) -> Program:
    return Program("stub", [sys.executable, "-c", script], tmp_path / "stub.log")


async def wait_for_log(stub: Program, text: str) -> None:
    async def missing() -> str:
        return "" if stub.log.exists() and text in stub.log.read_text() else f"no {text!r} in the log"

    await stub.wait_until(missing, timeout_s=10)


async def never() -> str:
    return "the moon is missing"


async def test_program_that_ends_while_starting_is_reported_with_its_log(tmp_path: Path) -> None:
    stub = program(tmp_path, "import sys; print('no such flag'); sys.exit(3)")
    stub.start()
    with pytest.raises(ClusterFailed, match=r"(?s)stub ended with code 3 while starting.*no such flag"):
        await stub.wait_until(never, timeout_s=10)


async def test_wait_is_bounded_and_says_what_is_missing(tmp_path: Path) -> None:
    stub = program(tmp_path, "import time; time.sleep(60)")
    stub.start()
    with pytest.raises(ClusterFailed, match=r"stub not ready after \d+ s: the moon is missing"):
        await stub.wait_until(never, timeout_s=0.1)
    await stub.stop()


async def test_stop_kills_a_program_that_ignores_the_request(tmp_path: Path) -> None:
    stub = program(
        tmp_path, "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    stub.start()
    await wait_for_log(stub, "up")
    pid = stub.pid
    started = time.monotonic()
    await stub.stop(grace_s=0.2)
    assert 0.2 <= time.monotonic() - started < 5
    assert stub.pid is None
    assert not Path(f"/proc/{pid}").exists()


async def test_paused_program_can_be_stopped_in_order(tmp_path: Path) -> None:
    stub = program(
        tmp_path,
        "import signal, sys, time; signal.signal(15, lambda *_: (print('bye', flush=True), sys.exit()));"
        " print('up', flush=True); time.sleep(60)",
    )
    stub.start()
    await wait_for_log(stub, "up")
    stub.pause()
    await stub.stop(grace_s=5)
    assert "bye" in stub.log.read_text()


async def test_program_can_be_started_again_and_keeps_its_log(tmp_path: Path) -> None:
    stub = program(tmp_path, "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)")
    for _ in range(2):
        stub.start()
        await wait_for_log(stub, f"pid {stub.pid}")
        with pytest.raises(ClusterFailed, match="runs already"):
            stub.start()
        assert stub.rss_bytes() > 1_000_000
        await stub.kill()
    assert len(re.findall(r"pid \d+", stub.tail())) == 2
