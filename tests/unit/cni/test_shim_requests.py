"""What the agent receives, and what the runtime gets back."""

import json
import socket
from pathlib import Path

import pytest

from tests.unit.cni.harness import RESULT, VARIABLES, Agent, Finished, Shim, answering, body_of, headers_of, reply


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_forwards_variables_and_stdin_exactly(shim: Shim, command: str) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    stdin = shim.config(text='ü\u2028 \\ "', numbers=[1e300, -0.5])
    with Agent(shim.socket_path) as agent:
        done = shim.run(command, stdin, {"TRACEPARENT": trace, "CNI_OTHER": "no"})
    assert (done.code, done.out, done.err) == (0, RESULT, b"")
    (request,) = agent.requests
    assert request.startswith(b"POST /cni HTTP/1.1\r\n")
    assert headers_of(request) == {
        "Host": "nephila",
        "Nephila-Shim": "1",
        "Cni-Command": command,
        "Cni-Containerid": VARIABLES["CNI_CONTAINERID"],
        "Cni-Netns": VARIABLES["CNI_NETNS"],
        "Cni-Ifname": VARIABLES["CNI_IFNAME"],
        "Cni-Args": VARIABLES["CNI_ARGS"],
        "Cni-Path": VARIABLES["CNI_PATH"],
        "Traceparent": trace,
        "Content-Length": str(len(stdin)),
    }
    assert body_of(request) == stdin


def test_leaves_out_variables_that_are_unset_or_empty(shim: Shim) -> None:
    empty = {"CNI_CONTAINERID": "", "CNI_NETNS": None, "CNI_IFNAME": "", "CNI_ARGS": None, "CNI_PATH": ""}
    with Agent(shim.socket_path) as agent:
        assert shim.run("STATUS", env=empty).code == 0
    assert set(headers_of(agent.requests[0])) == {"Host", "Nephila-Shim", "Cni-Command", "Content-Length"}


@pytest.mark.parametrize("trace", ["a\r\nX-Injected: 1", "x" * 129, "a b", ""])
def test_drops_a_trace_that_is_none_instead_of_failing_the_pod(shim: Shim, trace: str) -> None:
    with Agent(shim.socket_path) as agent:
        assert shim.run("ADD", env={"TRACEPARENT": trace}).code == 0
    assert "Traceparent" not in headers_of(agent.requests[0])


@pytest.mark.parametrize("size", [0, 1, 9, 10, 4096, 65536])
def test_carries_stdin_of_every_allowed_size(shim: Shim, default_dir: Path, size: int) -> None:
    default_dir.mkdir()
    stdin = b"x" * size  # not JSON either: that is the agent's to say
    with Agent(default_dir / "nephila.sock") as agent:
        assert shim.run("ADD", stdin).code == 0
    assert body_of(agent.requests[0]) == stdin


def test_passes_broken_json_on_to_the_agent_that_it_names_so_far(shim: Shim) -> None:
    stdin = shim.config()[:-1] + b', "broken": [1, 2'
    with Agent(shim.socket_path) as agent:
        assert shim.run("ADD", stdin).code == 0
    assert body_of(agent.requests[0]) == stdin


def test_exits_1_with_the_error_of_the_agent_unchanged(shim: Shim) -> None:
    error = b'{"cniVersion":"1.0.0","code":11,"msg":"no free address","details":"PoolExhausted; hint: grow the pool"}\n'
    for status in ("500 Internal Server Error", "400 Bad Request", "503 X", "204 No Content"):
        with Agent(shim.socket_path, answering(reply(error, status=status))):
            for command in ("ADD", "DEL", "STATUS"):
                done = shim.run(command)
                assert (done.code, done.out) == (1, error)
    assert not shim.spool.exists()


@pytest.mark.parametrize("command", ["DEL", "CHECK", "GC", "STATUS"])
def test_prints_nothing_where_success_has_no_result(shim: Shim, command: str) -> None:
    with Agent(shim.socket_path, answering(reply(b""))):
        done = shim.run(command)
    assert (done.code, done.out) == (0, b"")


def test_takes_an_answer_in_many_small_pieces(shim: Shim) -> None:
    def trickle(connection: socket.socket, _request: bytes) -> None:
        for byte in reply(head=b"X-Other: 1\r\n"):
            connection.send(bytes([byte]))

    with Agent(shim.socket_path, trickle):
        assert shim.run("ADD").out == RESULT


def test_takes_the_largest_allowed_answer_and_ignores_header_case(shim: Shim) -> None:
    body = json.dumps({"cniVersion": "1.1.0", "pad": "p" * 65000}).encode()
    raw = b"HTTP/1.1 200 OK\r\ncontent-LENGTH:   %d  \r\nX: y\r\n\r\n%s" % (len(body), body)
    with Agent(shim.socket_path, answering(raw)):
        assert shim.run("ADD").out == body


def version_of(done: Finished) -> str:
    said = done.result()
    assert isinstance(said, dict)
    assert said["supportedVersions"] == ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    return str(said["cniVersion"])


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion":"1.1.0"}', "1.1.0"),
        (b'{"x":{"cniVersion":"0.1.0"},"cniVersion":"0.4.0","y":[', "0.4.0"),
        (b'{"cniVersion":"0.3.\\u0031"}', "0.3.1"),
        (b'{"cniVersion":"1.1"}', "1.0.0"),
        (b'{"cniVersion":"1.1.0.0"}', "1.0.0"),
        (b'{"cniVersion":"1.1.0\\",\\"a\\":\\""}', "1.0.0"),
        (b'{"cniVersion":"111111.111111.111111"}', "1.0.0"),
        (b'{"cniVersion":1}', "1.0.0"),
        (b'["cniVersion","0.3.0"]', "1.0.0"),
        (b"", "1.0.0"),
        (b"x" * 70000, "1.0.0"),
    ],
)
def test_version_needs_no_agent_and_echoes_the_callers_version(shim: Shim, stdin: bytes, version: str) -> None:
    nothing = dict.fromkeys(VARIABLES)
    assert version_of(shim.run("VERSION", stdin, nothing)) == version


def test_errors_carry_the_version_of_the_caller(shim: Shim) -> None:
    assert json.loads(shim.run("ADD", b'{"cniVersion":"0.3.1"}', {"CNI_NETNS": None}).out)["cniVersion"] == "0.3.1"
    assert json.loads(shim.run("ADD", b"{", {"CNI_NETNS": None}).out)["cniVersion"] == "1.0.0"


@pytest.mark.parametrize(
    "make",
    [
        '{"ipam":{"ipam_unix_socket_path":"%s"}}',
        ' {"a":"ipam","b":["ipam_unix_socket_path"],"ipam" : {"x":{"y":"}"},"ipam_unix_socket_path"\n:\t"%s"} } ',
        '{"ipam":{"ipam_unix_socket_path":"/no"},"ipam":{"ipam_unix_socket_path":"%s"}}',
        '{"ipam":{"ipam_unix_socket_path":"/no","ipam_unix_socket_path":"%s"}}',
        '{"\\u0069pam":{"ipam_unix_socket\\u005fpath":"\\/%s"}}',
        '{"x":"\\\\\\"{","ipam":{"ipam_unix_socket_path":"%s"},"ipam2":{"ipam_unix_socket_path":"/no"}}',
        '{"ipam":{"ipam_unix_socket_path":"%s","more":{"ipam_unix_socket_path":"/no"}},"z":{"ipam":{}}}',
    ],
)
def test_finds_the_socket_path_where_json_says_it_is(shim: Shim, make: str) -> None:
    path = str(shim.socket_path)
    with Agent(shim.socket_path) as agent:
        assert shim.run("ADD", (make % (path[1:] if "\\/%s" in make else path)).encode()).code == 0
    assert len(agent.requests) == 1


@pytest.mark.parametrize(
    "stdin",
    [
        '{"ipam_unix_socket_path":"%s"}',
        '{"prevResult":{"ipam":{"ipam_unix_socket_path":"%s"}}}',
        '{"ipam":{"nested":{"ipam_unix_socket_path":"%s"}}}',
        '{"ipam":[{"ipam_unix_socket_path":"%s"}]}',
        '{"x":"\\"ipam\\":{\\"ipam_unix_socket_path\\":\\"%s\\"}"}',
        '[{"ipam":{"ipam_unix_socket_path":"%s"}}]',
        '{"ipam":{"ipam_unix_socket_path":["%s"]}}',
        '{"ipam":{"ipam_unix_socket_path":null,"x":"%s"}}',
        '{"ipam":{"ipam_unix_socket_path":"","x":"%s"}}',
        '{"ipam":{"ipam_unix_socket_path":"%s"},"ipam":{}}',
        '{"IPAM":{"ipam_unix_socket_path":"%s"}}',
        '{"broken":nope,"ipam":{"ipam_unix_socket_path":"%s"}}',
    ],
)
def test_uses_the_default_socket_when_stdin_names_none(shim: Shim, default_dir: Path, stdin: str) -> None:
    default_dir.mkdir()
    with Agent(shim.socket_path) as named, Agent(default_dir / "nephila.sock") as default:
        assert shim.run("ADD", (stdin % shim.socket_path).encode()).code == 0
    assert (len(named.requests), len(default.requests)) == (0, 1)
