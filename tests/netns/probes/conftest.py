from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from adapters.frames import FrameSocket
from probes.ebpf.libbpf import Libbpf
from probes.ebpf.loader import unpin
from tests.netns.probes.lan import Ear, Host, Lan, inside, lan


@pytest.fixture(name="net")
def _net() -> Iterator[Lan]:
    if os.geteuid():
        pytest.skip("network namespaces need root")
    with lan() as made:
        yield made


@pytest.fixture(scope="session")
def _bpf() -> None:
    """Skips, by what the kernel says of itself, only where it has no tc programs or ring buffers. What cannot be found out is a failure."""
    missing = Libbpf().supported()
    if missing.startswith("this kernel has no"):
        pytest.skip(missing)
    assert not missing


@pytest.fixture(name="host")
def _host(net: Lan) -> Iterator[Host]:
    """A host in whose namespace the test runs, as an agent does; its pinned programs are removed at the end."""
    host = net.host()
    with inside(host.namespace):
        yield host
        unpin()


@pytest.fixture(name="ear")
def _ear() -> Iterator[Ear]:
    """Opens ports on other hosts; all are closed at the end."""
    with ExitStack() as stack:

        def listen(host: Host) -> FrameSocket:
            with inside(host.namespace):
                port = FrameSocket(host.interface)
            stack.callback(port.close)
            return port

        yield listen
