"""Who is measured: an empty binary, the shim before an echo server, the shim before the agent, host-local."""

import contextlib
import json
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.bench.spawning import BenchError, Tools

HOST_LOCAL = Path("/usr/lib/cni/host-local")
NAMESPACE = "bench"
# 1,000 addresses, as in the targets of the design.
RANGE = {"subnet": "10.9.0.0/16", "rangeStart": "10.9.1.0", "rangeEnd": "10.9.4.231"}

Pods = Callable[[int, int], None]
"""Called with (first number, count) outside the measured time."""


def no_pods(_first: int, _count: int) -> None:
    """For contenders that ask nobody about pods."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A program that is run as a CNI plugin. ``create`` and ``remove`` make the pods ``bench-<n>`` and take them away."""

    name: str
    program: Path
    stdin: bytes
    env: Mapping[str, str]
    create: Pods = no_pods
    remove: Pods = no_pods


def variables(netns: str = "/var/run/netns/bench-{n}") -> dict[str, str]:
    """What containerd sets, with ``{n}`` where processes differ; CNI_COMMAND is added by the measurement."""
    args = (
        f"IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME=bench-{{n}};K8S_POD_INFRA_CONTAINER_ID=bench{{n}}"
    )
    return {
        "CNI_CONTAINERID": "bench{n}",
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": args,
    }


def configuration(ipam: Mapping[str, object]) -> bytes:
    config = {"cniVersion": "1.0.0", "name": "bench", "type": "macvlan", "master": "eth0", "ipam": ipam}
    return json.dumps(config).encode()


def parse_ipam(text: str) -> dict[str, object]:
    """The ``--ipam`` option; raises BenchError."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BenchError(f"--ipam is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise BenchError('--ipam is not a JSON object; example: {"default_ipv4_ippool": ["v4"]}')
    return found


def empty(tools: Tools) -> Contender:
    return Contender("empty binary", tools.empty, b"{}", variables())


@contextlib.contextmanager
def shim_before_echo(tools: Tools) -> Iterator[Contender]:
    """The shim and the least server that answers it: the transport's own cost."""
    with tempfile.TemporaryDirectory(prefix="nephila-bench-", dir="/dev/shm") as place:
        path = Path(place, "echo.sock")
        server = subprocess.Popen([tools.echo, path])
        try:
            _await_socket(path)
            ipam = {"type": "nephila", "ipam_unix_socket_path": str(path)}
            yield Contender("shim + echo server", tools.shim, configuration(ipam), variables())
        finally:
            server.kill()
            server.wait()


def shim_before_agent(
    tools: Tools, socket_path: Path, ipam: Mapping[str, object], netns: str, create: Pods, remove: Pods
) -> Contender:
    """The whole of Nephila; ``ipam`` holds what the configuration says besides the socket (pools)."""
    full = {"type": "nephila", **ipam, "ipam_unix_socket_path": str(socket_path)}
    return Contender("nephila", tools.shim, configuration(full), variables(netns), create, remove)


@contextlib.contextmanager
def host_local() -> Iterator[Contender]:
    """The reference plugin with its state on tmpfs, its best case."""
    if not HOST_LOCAL.exists():
        raise BenchError(f"{HOST_LOCAL} is missing; fix: apt-get install containernetworking-plugins")
    place = tempfile.mkdtemp(prefix="nephila-bench-", dir="/dev/shm")
    try:
        ipam = {"type": "host-local", "dataDir": place, "ranges": [[RANGE]]}
        yield Contender("host-local", HOST_LOCAL, configuration(ipam), variables())
    finally:
        shutil.rmtree(place)


def command_hook(command: str, verb: str) -> Pods:
    """A hook that runs ``command VERB FIRST COUNT``, for agents whose pods another program makes."""

    def call(first: int, count: int) -> None:
        done = subprocess.run([*shlex.split(command), verb, str(first), str(count)], timeout=300, check=False)
        if done.returncode != 0:
            raise BenchError(f"{command} {verb} {first} {count} ended with code {done.returncode}")

    return call


def _await_socket(path: Path) -> None:
    for _ in range(500):
        if path.exists():
            return
        time.sleep(0.01)
    raise BenchError(f"no server at {path} after 5 s")
