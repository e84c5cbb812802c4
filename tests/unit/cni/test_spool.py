"""DEL when the agent is away: kept beside the socket, complete and in order, or refused; never lost in silence."""

import os
import socket
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.unit.cni.conftest import DEADLINE_S
from tests.unit.cni.harness import VARIABLES, Agent, Finished, Shim, answering, headers_of, reply


def spooled(shim: Shim) -> list[Path]:
    return sorted(shim.spool.iterdir())


def test_spools_the_exact_request_when_there_is_no_agent(shim: Shim) -> None:
    with Agent(shim.socket_path) as agent:
        assert shim.run("DEL").code == 0
    done = shim.run("DEL")
    assert (done.code, done.out, done.err) == (0, b"", b"")
    (file,) = spooled(shim)
    assert file.read_bytes() == agent.requests[0]
    stamp, pid = file.stem.split("-")
    assert file.suffix == ".del"
    assert len(stamp) == 20
    assert 0 <= os_boottime_ns() - int(stamp) < 60 * 10**9
    assert pid == str(int(pid))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(shim.spool.stat().st_mode) == 0o700


def os_boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_names_sort_in_the_order_of_the_requests(shim: Shim) -> None:
    for number in range(5):
        assert shim.run("DEL", env={"CNI_CONTAINERID": f"c{number}"}).code == 0
    order = [headers_of(file.read_bytes())["Cni-Containerid"] for file in spooled(shim)]
    assert order == ["c0", "c1", "c2", "c3", "c4"]


def test_spools_when_the_agent_hangs(shim: Shim) -> None:
    def hang(connection: socket.socket, _request: bytes) -> None:
        connection.recv(1)

    with Agent(shim.socket_path, hang):
        done = shim.run("DEL")
    assert (done.code, done.out) == (0, b"")
    assert DEADLINE_S * 0.9 < done.seconds < DEADLINE_S + 2
    assert len(spooled(shim)) == 1


@pytest.mark.parametrize("raw", [b"", reply()[:-1], reply(b"oops", status="500 Oops"), b"\xff" * 9000])
def test_spools_when_the_answer_is_none(shim: Shim, raw: bytes) -> None:
    with Agent(shim.socket_path, answering(raw)):
        assert shim.run("DEL").code == 0
    assert len(spooled(shim)) == 1


def test_does_not_spool_what_the_agent_answered(shim: Shim) -> None:
    error = b'{"cniVersion":"1.0.0","code":5,"msg":"disk","details":""}'
    with Agent(shim.socket_path, answering(reply(error, status="500 X"))):
        done = shim.run("DEL")
    assert (done.code, done.out) == (1, error)
    assert not shim.spool.exists()


def test_refuses_beyond_256_files_and_counts_only_requests(shim: Shim) -> None:
    shim.spool.mkdir()
    for number in range(255):
        (shim.spool / f"{number:020}-1.del").touch()
    (shim.spool / ".half-written.tmp").touch()
    assert shim.run("DEL").code == 0
    said = shim.run("DEL").error(11)
    assert "it is full (256 files)" in said
    assert "SpoolRefused" in said
    assert len(list(shim.spool.glob("*.del"))) == 256


def test_what_is_half_written_does_not_look_like_a_request(shim: Shim) -> None:
    limited = ["prlimit", "--fsize=100", "--core=0", str(shim.binary)]  # the write dies of SIGXFSZ after 100 bytes
    env = {"CNI_COMMAND": "DEL", "PATH": os.environ["PATH"], **VARIABLES}
    done = subprocess.run(limited, input=shim.config(), env=env, capture_output=True, check=False)
    assert done.returncode != 0
    (left,) = spooled(shim)
    assert left.stat().st_size == 100
    assert left.name.startswith(".")
    assert left.suffix == ".tmp"


def delete_as_the_kubelet_does(shim: Shim, number: int) -> Finished:
    """Again, if the spool was held by others for longer than a DEL waits: on a busy machine 49 of them, with sanitizers, may take so long."""

    def attempt() -> Finished:
        return shim.run("DEL", env={"CNI_CONTAINERID": f"c{number}"})

    done = attempt()
    for _ in range(20):
        if done.code == 0 or "another DEL holds it" not in done.error(11):
            break
        done = attempt()
    return done


def test_a_burst_of_50_dels_keeps_each_and_never_passes_the_bound(shim: Shim) -> None:
    shim.spool.mkdir()
    for number in range(216):
        (shim.spool / f"{number:020}-1.del").touch()
    with ThreadPoolExecutor(50) as pool:
        done = list(pool.map(partial(delete_as_the_kubelet_does, shim), range(50)))
    kept = {n for n, one in enumerate(done) if one.code == 0}
    assert len(kept) == 40
    for n in set(range(50)) - kept:
        assert "it is full" in done[n].error(11)
    requests = [file.read_bytes() for file in spooled(shim)[216:]]
    assert sorted(headers_of(request)["Cni-Containerid"] for request in requests) == sorted(f"c{n}" for n in kept)
    assert [file for file in spooled(shim) if file.suffix != ".del"] == []


def test_refuses_when_the_spool_is_not_a_directory_of_its_own(shim: Shim, tmp_path: Path) -> None:
    shim.spool.write_text("a file")
    assert "SpoolRefused" in shim.run("DEL").error(11)
    shim.spool.unlink()
    shim.spool.symlink_to(tmp_path)
    assert "SpoolRefused" in shim.run("DEL").error(11)
    assert list(tmp_path.iterdir()) == []


def test_refuses_when_the_spool_cannot_be_written(shim: Shim) -> None:
    # Root writes through permission bits; a read-only mount is what stops it, and /proc is one that is always there.
    said = shim.run("DEL", b'{"ipam":{"ipam_unix_socket_path":"/proc/self/nephila.sock"}}').error(11)
    assert "refused the DEL" in said


def test_makes_no_directory_where_no_agent_ever_was(shim: Shim) -> None:
    missing = shim.socket_path.parent / "typo"
    stdin = b'{"ipam":{"ipam_unix_socket_path":"%s/nephila.sock"}}' % os.fsencode(missing)
    assert "No such file or directory" in shim.run("DEL", stdin).error(11)
    assert not missing.exists()


def test_makes_the_default_directory_because_run_is_empty_after_a_boot(shim: Shim, default_dir: Path) -> None:
    assert not default_dir.exists()
    assert shim.run("DEL", b"{}").code == 0
    assert len(list((default_dir / "spool").glob("*.del"))) == 1
    assert stat.S_IMODE(default_dir.stat().st_mode) == 0o700
