"""A segment for benchmarks: a bridge, a node and a far host, each in a namespace of its own; removed at the end, whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass

from e2e.bench.spawning import BenchError
from e2e.lab import netns
from e2e.lab.fabric import ip_batch

INTERFACE = "eth0"
GATEWAY = "10.100.0.1"
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class Segment:
    """Names of namespaces; both ends have `INTERFACE`."""

    node: str
    far: str


@contextlib.contextmanager
def segment(addresses: int) -> Iterator[Segment]:
    """A running segment; the far host has the gateway's address and `addresses` more from 10.100.250.1 on. Raises BenchError without root."""
    if os.geteuid():
        raise BenchError("network namespaces need root")
    prefix = f"nephila-bench-{os.getpid()}"
    hub, made = f"{prefix}-hub", Segment(f"{prefix}-node", f"{prefix}-far")
    try:
        for name in (hub, made.node, made.far):
            netns.create(name)
        lines = ["link add br0 type bridge mcast_snooping 0 forward_delay 0 stp_state 0", "link set br0 up"]
        for port, inner in (("node", made.node), ("far", made.far)):
            lines += [
                f"link add {port} type veth peer name {INTERFACE} netns {inner}",
                f"link set {port} master br0 up",
            ]
        ip_batch(hub, lines)
        ip_batch(made.node, [f"link set {INTERFACE} up"])
        held = [GATEWAY, *(f"10.100.250.{number}" for number in range(1, addresses + 1))]
        ip_batch(
            made.far,
            [f"link set {INTERFACE} up", *(f"addr add {address}/16 dev {INTERFACE}" for address in held)],
        )
        yield made
    finally:
        for name in (made.node, made.far, hub):
            netns.delete(name)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread, and what it starts, is in that namespace meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.ExitStack() as stack:
        home, there = (
            os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in ("/proc/thread-self/ns/net", netns.path_of(name))
        )
        stack.callback(os.close, home)
        stack.callback(os.close, there)
        _enter(libc, there)
        try:
            yield
        finally:
            _enter(libc, home)


def _enter(libc: ctypes.CDLL, handle: int) -> None:
    if libc.setns(handle, _CLONE_NEWNET):
        raise BenchError(f"setns: {os.strerror(ctypes.get_errno())}")
