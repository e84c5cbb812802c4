"""Bad input and bad agents: always one CNI error object, never a hang, never half an answer."""

import os
import socket
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.unit.cni.conftest import DEADLINE_S
from tests.unit.cni.harness import RESULT, VARIABLES, Agent, Behaviour, Shim, answering, reply

NEEDED = {
    "ADD": ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
    "CHECK": ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
    "DEL": ["CNI_CONTAINERID", "CNI_IFNAME"],
}


@pytest.mark.parametrize(("command", "name"), [(verb, name) for verb, names in NEEDED.items() for name in names])
def test_names_the_variable_that_the_verb_misses(shim: Shim, command: str, name: str) -> None:
    assert shim.run(command, env={name: None}).error(4).startswith(f"{name} is required for {command} ")
    assert name in shim.run(command, env={name: ""}).error(4)
    assert not shim.spool.exists()


@pytest.mark.parametrize("command", ["", "add", "ADDX", "UPDATE", 'X"\\', "\x01"])
def test_refuses_an_unknown_command(shim: Shim, command: str) -> None:
    assert "CNI_COMMAND" in shim.run(command).error(4)


def test_refuses_to_run_without_a_command_and_does_not_wait_for_stdin(shim: Shim) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w"):
        done = subprocess.run([shim.binary], stdin=reading, env={}, capture_output=True, timeout=10, check=False)
    assert done.returncode == 1
    assert b"CNI_COMMAND is missing" in done.stdout


@pytest.mark.parametrize("name", sorted(VARIABLES))
@pytest.mark.parametrize("bad", ["a\r\nCni-Command: DEL", "a\nb", "\x1b[2J", "a\x7f", "\t"])
def test_refuses_control_characters_that_could_forge_a_header(shim: Shim, name: str, bad: str) -> None:
    with Agent(shim.socket_path) as agent:
        assert name in shim.run("ADD", env={name: bad}).error(4)
    assert agent.requests == []


@pytest.mark.parametrize("bad", ["-a", ".a", "_a", "a/b", "../x", "a b", "a:b", "ä", "x" * 254, "a" * 100_000])
def test_refuses_a_container_id_outside_the_specification(shim: Shim, bad: str) -> None:
    assert "CNI_CONTAINERID" in shim.run("DEL", env={"CNI_CONTAINERID": bad}).error(4)


@pytest.mark.parametrize("good", ["a", "0", "x" * 253, "A_b.c-9"])
def test_accepts_every_container_id_of_the_specification(shim: Shim, good: str) -> None:
    with Agent(shim.socket_path):
        assert shim.run("ADD", env={"CNI_CONTAINERID": good}).code == 0


def test_refuses_a_value_that_no_header_should_carry(shim: Shim) -> None:
    with Agent(shim.socket_path):
        assert shim.run("ADD", env={"CNI_ARGS": "x" * 8000}).code == 0
        assert "CNI_ARGS is longer than 8000 bytes" in shim.run("ADD", env={"CNI_ARGS": "x" * 8001}).error(4)


def test_refuses_stdin_beyond_64_kib(shim: Shim) -> None:
    assert "larger than 64 KiB" in shim.run("ADD", b" " * 65537).error(6)
    assert "larger than 64 KiB" in shim.run("DEL", b" " * 200_000).error(6)


def test_refuses_stdin_that_never_ends(shim: Shim) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w"):
        started = time.monotonic()
        env = {"CNI_COMMAND": "ADD", **VARIABLES}
        done = subprocess.run([shim.binary], stdin=reading, env=env, capture_output=True, timeout=10, check=False)
    assert done.returncode == 1
    assert b'"code":6' in done.stdout
    assert DEADLINE_S * 0.9 < time.monotonic() - started < DEADLINE_S + 2


def test_refuses_stdin_that_cannot_be_read(shim: Shim) -> None:
    with shim.binary.parent.joinpath("unreadable").open("w") as write_only:
        env = {"CNI_COMMAND": "ADD", **VARIABLES}
        done = subprocess.run([shim.binary], stdin=write_only, env=env, capture_output=True, timeout=10, check=False)
    assert done.returncode == 1
    assert b'"code":6' in done.stdout


@pytest.mark.parametrize(
    "path",
    [b"relative.sock", b"/" + b"x" * 107, b"/" + b"x" * 5000, b"/a\\u0000b", b"/a\\nb", b"/\\ud800", b"@abstract"],
)
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_refuses_a_socket_path_that_cannot_be_one(shim: Shim, path: bytes, command: str) -> None:
    stdin = b'{"ipam":{"ipam_unix_socket_path":"%s"}}' % path
    assert "at most 107 bytes" in shim.run(command, stdin).error(7)


def test_accepts_the_longest_socket_path_and_says_why_it_fails(shim: Shim) -> None:
    path = b"/" + b"x" * 106
    said = shim.run("ADD", b'{"ipam":{"ipam_unix_socket_path":"%s"}}' % path).error(11)
    assert said.startswith(path.decode() + ": No such file or directory | AgentUnreachable; hint: ")


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)])
def test_says_that_there_is_no_agent(shim: Shim, command: str, code: int) -> None:
    assert str(shim.socket_path) in shim.run(command).error(code)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(shim.socket_path))
    done = shim.run(command)
    assert "Connection refused" in done.error(code)
    assert done.seconds < DEADLINE_S


def hang(connection: socket.socket, _request: bytes) -> None:
    connection.recv(1)


def trickle_forever(connection: socket.socket, _request: bytes) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.send(b"X-Pad: y\r\n")
        time.sleep(0.02)


def then_hang(raw: bytes) -> Behaviour:
    def behave(connection: socket.socket, request: bytes) -> None:
        connection.sendall(raw)
        hang(connection, request)

    return behave


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("STATUS", 50)])
@pytest.mark.parametrize("make", [lambda: hang, lambda: trickle_forever, lambda: then_hang(reply()[:-1])])
def test_gives_up_at_the_deadline(shim: Shim, command: str, code: int, make: Callable[[], Behaviour]) -> None:
    with Agent(shim.socket_path, make()):
        done = shim.run(command)
    assert "it did not answer in time" in done.error(code)
    assert DEADLINE_S * 0.9 < done.seconds < DEADLINE_S + 2


def test_gives_up_when_the_queue_of_connections_stays_full(shim: Shim) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(shim.socket_path))
        listener.listen(0)
        waiting.connect(str(shim.socket_path))
        done = shim.run("ADD")
    assert "it took no connection in time" in done.error(11)
    assert done.seconds < DEADLINE_S + 2


def test_gives_up_when_the_agent_takes_no_request(shim: Shim) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(str(shim.socket_path))
        listener.listen(8)
        done = shim.run("ADD", shim.config(pad="x" * 60_000))
    assert "in time" in done.error(11)
    assert done.seconds < DEADLINE_S + 2


NOT_ANSWERS = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Len",
    "half a body": reply()[:-1],
    "no body": reply(b""),
    "garbage": b"\x00\xff" * 300 + b"\r\n\r\n",
    "not http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "short status": b"HTTP/1.1 20\r\nContent-Length: 2\r\n\r\n{}",
    "odd status": b"HTTP/1.1 2000\r\nContent-Length: 2\r\n\r\n{}",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n" + RESULT,
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + RESULT,
    "length with a tail": b"HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\n{}",
    "two lengths": reply(head=b"Content-Length: 1\r\n"),
    "huge length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n" + RESULT,
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
    "too short a length": b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + RESULT,
    "head beyond 8 KiB": b"HTTP/1.1 200 OK\r\n" + b"X-Pad: yyyyyyyyyyy\r\n" * 1000 + b"Content-Length: 2\r\n\r\n{}",
    "body beyond 64 KiB": reply(b'{"pad":"' + b"p" * 65536 + b'"}'),
    "plain text error": reply(b"500 Internal Server Error", status="500 Internal Server Error"),
    "empty error": reply(b"", status="500 Internal Server Error"),
    "array": reply(b"[{}]"),
    "string": reply(b'"ok"'),
    "two objects": reply(b"{}{}"),
    "embedded nul": reply(b'{"a":"\x00"}'),
    "not utf-8": reply(b'{"a":"\xff"}'),
    "wrong brackets": reply(b'{"a":[}]'),
    "trailing comma": reply(b'{"a":1,}'),
    "nested too deep": reply(b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
}


@pytest.mark.parametrize("name", NOT_ANSWERS)
def test_never_prints_what_is_not_an_answer(shim: Shim, name: str) -> None:
    with Agent(shim.socket_path, answering(NOT_ANSWERS[name])):
        done = shim.run("ADD")
        assert "AgentUnreachable" in done.error(11)
        if name != "no body":
            shim.run("STATUS").error(50)
        assert done.seconds < DEADLINE_S + 2


def test_reads_the_answer_of_an_agent_that_did_not_wait_for_the_whole_request(shim: Shim) -> None:
    error = b'{"cniVersion":"1.0.0","code":7,"msg":"too large","details":""}'
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(shim.socket_path))
        listener.listen(1)
        env = {"CNI_COMMAND": "ADD", **VARIABLES}
        with subprocess.Popen([shim.binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as running:
            assert running.stdin is not None
            assert running.stdout is not None
            running.stdin.write(shim.config(pad="x" * 60_000))
            running.stdin.close()
            connection, _ = listener.accept()
            with connection:
                connection.sendall(reply(error, status="413 Too Large"))
            out = running.stdout.read()
    assert (running.returncode, out) == (1, error)
