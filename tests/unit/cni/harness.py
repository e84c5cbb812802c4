"""Runs the real binary against a real unix socket: the shim's callers and its agent, both in the test."""

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

RESULT = b'{"cniVersion":"1.0.0","ips":[{"address":"10.6.0.7/16","gateway":"10.6.0.1"}],"dns":{}}'
VARIABLES = {
    "CNI_CONTAINERID": "0a1b2c3d4e5f",
    "CNI_NETNS": "/var/run/netns/cni-1",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0",
    "CNI_PATH": "/opt/cni/bin",
}

Behaviour = Callable[[socket.socket, bytes], None]


@dataclass(frozen=True)
class Finished:
    """What the runtime sees of one call."""

    code: int
    out: bytes
    err: bytes
    seconds: float

    def result(self) -> object:
        assert self.code == 0, (self.out, self.err)
        return json.loads(self.out)

    def error(self, code: int) -> str:
        """Checks that stdout is exactly one CNI error object with this code; returns message and details."""
        assert self.code == 1, (self.code, self.out, self.err)
        said = json.loads(self.out)
        assert set(said) == {"cniVersion", "code", "msg", "details"}
        assert said["code"] == code, said
        return f"{said['msg']} | {said['details']}"


@dataclass(frozen=True)
class Shim:
    """One build of the shim and the socket it uses in this test."""

    binary: Path
    socket_path: Path

    @property
    def spool(self) -> Path:
        return self.socket_path.parent / "spool"

    def config(self, **more: object) -> bytes:
        ipam = {"type": "nephila", "ipam_unix_socket_path": str(self.socket_path)}
        return json.dumps({"cniVersion": "1.1.0", "name": "underlay", "type": "macvlan", "ipam": ipam, **more}).encode()

    def run(
        self, command: str | None, stdin: bytes | None = None, env: Mapping[str, str | bytes | None] | None = None
    ) -> Finished:
        """Runs one verb; ``env`` overrides the usual variables, None removes one."""
        chosen: dict[str, str | bytes | None] = {"CNI_COMMAND": command, **VARIABLES, **(env or {})}
        started = time.monotonic()
        done = subprocess.run(
            [self.binary],
            input=self.config() if stdin is None else stdin,
            env={os.fsencode(name): os.fsencode(value) for name, value in chosen.items() if value is not None},
            capture_output=True,
            timeout=20,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


def reply(body: bytes = RESULT, *, status: str = "200 OK", head: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status.encode(), head, len(body), body)


def answering(raw: bytes) -> Behaviour:
    def behave(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(raw)

    return behave


@dataclass
class Agent:
    """Answers at ``path`` as ``behave`` does, one thread for each connection; remembers the requests."""

    path: Path
    behave: Behaviour = field(default_factory=lambda: answering(reply()))
    requests: list[bytes] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(128)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(10)
        self._listener.close()
        self.path.unlink()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            thread.start()
            self._threads.append(thread)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            try:
                request = read_request(connection)
                if request:
                    self.requests.append(request)
                    self.behave(connection, request)
            except OSError:
                pass  # the shim hung up first, which is its right at the deadline


def read_request(connection: socket.socket) -> bytes:
    """One whole HTTP request; fewer bytes if the peer hung up."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(headers_of(data)["Content-Length"])
    while len(body) < length:
        part = connection.recv(65536)
        if not part:
            break
        body += part
    return head + b"\r\n\r\n" + body


def headers_of(request: bytes) -> dict[str, str]:
    lines = request.partition(b"\r\n\r\n")[0].decode("utf-8", "surrogateescape").split("\r\n")[1:]
    pairs = [line.split(": ", 1) for line in lines]
    assert len({name for name, _ in pairs}) == len(pairs)
    return {name: value for name, value in pairs}


def body_of(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]
