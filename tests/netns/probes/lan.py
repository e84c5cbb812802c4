"""A real LAN for tests: a bridge in a namespace of its own, and hosts in others. Everything is removed at the end."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from adapters.frames import FrameSocket

_NUMBERS = itertools.count(1)
_CLONE_NEWNET = 0x40000000


def run(*command: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Sockets opened and processes started by this thread are in `namespace` meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert libc.setns(there, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        assert libc.setns(home, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.close(there)
        os.close(home)


@dataclass(frozen=True, slots=True)
class Host:
    """A namespace with one interface on the LAN."""

    namespace: str
    mac: str
    interface: str = "eth0"

    def ip(self, *arguments: str) -> str:
        return run("ip", "-n", self.namespace, *arguments)

    def exec(self, *command: str) -> str:
        return run("ip", "netns", "exec", self.namespace, *command)

    def own(self, *addresses: str) -> None:
        """Configure addresses (with prefix) at once, without the kernel's own duplicate detection."""
        for address in addresses:
            flags = ("nodad",) if ":" in address else ()
            self.ip("address", "add", address, "dev", self.interface, *flags)

    def set(self, name: str, value: int) -> None:
        self.exec("sh", "-c", f"echo {value} > /proc/sys/net/{name}")


Ear = Callable[[Host], FrameSocket]
"""Opens a port on another host."""


@dataclass(slots=True)
class Lan:
    """Build with `lan()`."""

    hub: str
    namespaces: list[str] = field(default_factory=list)
    port_of: dict[str, str] = field(default_factory=dict)  # MAC of a host's interface → its port of the bridge

    def host(self, *addresses: str, hairpin: bool = False) -> Host:
        """A new host on the bridge. With `hairpin` its own frames come back to it."""
        namespace = f"{self.hub}h{next(_NUMBERS)}"
        self.add_namespace(namespace)
        host = self.join(namespace, "eth0", *addresses)
        if hairpin:
            run("bridge", "-n", self.hub, "link", "set", "dev", self.port_of[host.mac], "hairpin", "on")
        return host

    def join(self, namespace: str, interface: str, *addresses: str) -> Host:
        """One more interface of a namespace, on this LAN."""
        number = next(_NUMBERS)
        port, mac = f"p{number}", f"02:4e:50:00:00:{number % 256:02x}"
        veth = ("type", "veth", "peer", "name", interface, "address", mac, "netns", namespace)
        run("ip", "-n", self.hub, "link", "add", port, *veth)
        run("ip", "-n", self.hub, "link", "set", port, "master", "br0", "up")
        self.port_of[mac] = port
        host = Host(namespace, mac, interface)
        host.set("ipv6/conf/default/accept_dad", 0)
        host.set(f"ipv6/conf/{interface}/accept_dad", 0)
        host.set(f"ipv6/conf/{interface}/router_solicitations", 0)
        host.ip("link", "set", "lo", "up")
        host.ip("link", "set", interface, "up")
        host.own(*addresses)
        self.settle(port)
        return host

    def settle(self, port: str) -> None:
        """Wait until the bridge forwards frames of `port`."""
        for _ in range(200):
            if "state forwarding" in run("bridge", "-n", self.hub, "link", "show", "dev", port):
                return
            time.sleep(0.005)
        raise AssertionError(f"{port} does not forward")

    def add_namespace(self, namespace: str) -> None:
        run("ip", "netns", "add", namespace)
        self.namespaces.append(namespace)

    def remove(self) -> None:
        for namespace in reversed(self.namespaces):
            with suppress(AssertionError):
                run("ip", "netns", "delete", namespace)


@contextmanager
def lan() -> Iterator[Lan]:
    """A LAN without hosts."""
    made = Lan(f"nph{os.getpid()}x{next(_NUMBERS)}")
    try:
        made.add_namespace(made.hub)
        silence = (
            "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"
        )
        run("ip", "netns", "exec", made.hub, "sh", "-c", silence)  # the bridge itself must say nothing
        bridge = ("type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
        run("ip", "-n", made.hub, "link", "add", "br0", *bridge)
        run("ip", "-n", made.hub, "link", "set", "br0", "up")
        yield made
    finally:
        made.remove()


def resident_kib(pid: int | str = "self") -> int:
    """VmRSS of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")
