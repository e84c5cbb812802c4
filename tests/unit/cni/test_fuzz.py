"""Whole processes under the sanitizers, with random environment, stdin and answers, in bounded time."""

import json
import random
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cni import build
from tests.unit.cni.harness import VARIABLES, Agent, Shim, answering, reply
from tests.unit.cni.test_parsers import mutated

SEED = 20260715
CASES = 3000
BUDGET_S = 15.0
PATHLESS = b'{"cniVersion":"1.1.0","name":"underlay","ipam":{"type":"nephila","pools":["a",{"b":[1,2,{}]}]}}'
COMMANDS = ["ADD", "ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "", "ADD\n", "x"]
BYTES = [b"", b"a", b"\n", b"\x7f", b"\xff\xfe", b"-", b"../", b"x" * 300, b"y" * 9000, b"{n}%s%n", b'"', b"\\"]


@pytest.fixture(scope="module")
def fast(short_root: Path) -> Path:
    defines = [f"NEPHILA_{name}_MS=150" for name in ("DEADLINE", "DEL_DEADLINE", "STDIN", "PATIENCE")]
    defines.append(f'NEPHILA_SOCKET="{short_root}/fuzz/nephila.sock"')
    return build.build_sanitized(short_root / "fuzz-bin", defines=defines)


def environment(chance: random.Random) -> dict[str, str | bytes | None]:
    chosen: dict[str, str | bytes | None] = {"TRACEPARENT": chance.choice(BYTES)}
    for name, value in VARIABLES.items():
        if chance.random() < 0.15:
            chosen[name] = chance.choice([None, *BYTES, mutated(chance, value.encode()).replace(b"\0", b"")])
    return chosen


def one_case(shim: Shim, seed: int) -> None:
    chance = random.Random(seed)
    command = chance.choice(COMMANDS)
    # A mutated path must not make DEL spool into a directory of this machine.
    config = PATHLESS if command == "DEL" else shim.config()
    stdin = config if chance.random() < 0.6 else mutated(chance, config)
    done = shim.run(command, stdin, environment(chance))
    assert done.err == b"", (seed, done.err)
    assert done.code in (0, 1), (seed, done)
    if done.code == 1 or done.out or command == "ADD":
        assert isinstance(json.loads(done.out), dict), seed


def test_every_process_ends_with_one_json_object(fast: Path, short_root: Path) -> None:
    answers = random.Random(SEED)
    error = b'{"cniVersion":"1.0.0","code":11,"msg":"m","details":"d"}'

    def behave(connection: socket.socket, request: bytes) -> None:
        raw = answers.choice([reply(), reply(b""), reply(error, status="500 X")])
        chosen = raw if answers.random() < 0.5 else mutated(answers, raw)
        answering(chosen)(connection, request)

    shim = Shim(fast, short_root / "fuzz" / "nephila.sock")
    shim.socket_path.parent.mkdir()
    end = time.monotonic() + BUDGET_S
    finished = 0
    with Agent(shim.socket_path, behave), ThreadPoolExecutor(3) as pool:
        for start in range(0, CASES, 100):
            seeds = range(SEED + start, SEED + start + 100)
            finished += len(list(pool.map(lambda seed: one_case(shim, seed), seeds)))
            for file in shim.spool.glob("*.del"):
                file.unlink()  # a full spool would hide the path that writes
            if time.monotonic() > end:
                break
    assert finished >= 200, "this machine is too slow for the fuzz to mean anything"


def test_the_sanitizers_would_be_seen(short_root: Path, tmp_path: Path) -> None:
    source = tmp_path / "broken.c"
    source.write_text(
        "int main(int count, char **words) { char four[4] = {0}; return words[0] ? four[count + 3] : 0; }"
    )
    broken = build.compile_c("gcc", source, short_root / "bin" / "broken", build.SANITIZED)
    done = subprocess.run([broken], capture_output=True, check=False)
    assert done.returncode not in (0, 1) or b"runtime error" in done.stderr or b"AddressSanitizer" in done.stderr
