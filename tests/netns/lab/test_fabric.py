"""The segment of the lab: what reaches what, and that taking it down leaves nothing."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from e2e.lab import fabric, netns
from e2e.lab.fabric import Fabric


@pytest.fixture
def segment() -> Iterator[Fabric]:
    layout = fabric.plan(f"nt{os.getpid()}", 3)
    try:
        fabric.build(layout)
        yield layout
    finally:
        fabric.destroy(layout.prefix)


def ping(namespace: str, target: str) -> bool:
    command = ["nsenter", f"--net={netns.path_of(namespace)}", "ping", "-c", "1", "-W", "2", target]
    return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0


def test_the_foreign_host_reaches_the_gateway_in_both_families(segment: Fabric) -> None:
    assert ping(segment.foreign_ns, fabric.GATEWAY_V4)
    assert ping(segment.foreign_ns, fabric.GATEWAY_V6)


def test_a_node_whose_link_is_cut_is_off_the_segment_until_it_is_restored(segment: Fabric) -> None:
    node = segment.node_ns("node-2")
    fabric.ip_batch(node, [f"addr add 10.6.9.9/16 dev {fabric.PARENT}"])
    assert ping(node, fabric.GATEWAY_V4)
    fabric.cut_link(segment, "node-2")
    assert not ping(node, fabric.GATEWAY_V4)
    fabric.restore_link(segment, "node-2")
    assert ping(node, fabric.GATEWAY_V4)


def test_nothing_of_the_lab_is_visible_in_the_machines_own_network(segment: Fabric) -> None:
    before = {name for _, name in socket.if_nameindex()}
    assert not before & {"br0", "gateway", "foreign", "node-1", fabric.PARENT}
    with pytest.raises(fabric.FabricError, match="Cannot find device"):
        fabric.ip_batch(segment.bridge_ns, ["link set nonesuch up"])


def test_destroy_ends_processes_inside_and_removes_all_names_and_may_be_repeated(segment: Fabric) -> None:
    inside = subprocess.Popen(["nsenter", f"--net={netns.path_of(segment.gateway_ns)}", "sleep", "60"])
    deadline = time.monotonic() + 5
    while inside.pid not in netns.processes_in([segment.gateway_ns]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert fabric.leftovers(segment.prefix)
    assert len(fabric.destroy(segment.prefix)) == 6
    assert inside.wait(5) == -9
    assert fabric.leftovers(segment.prefix) == []
    assert fabric.destroy(segment.prefix) == []


def test_a_listener_made_inside_a_namespace_is_reachable_only_there(segment: Fabric) -> None:
    node = segment.node_ns("node-1")
    with netns.listen_in(node, "127.0.0.1", 8001) as listener:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 8001), timeout=2)

        def connect() -> socket.socket:
            return socket.create_connection(("127.0.0.1", 8001), timeout=2)

        with netns.run_in(node, connect), listener.accept()[0]:
            pass


def test_a_taken_name_is_refused_and_the_first_namespace_survives(segment: Fabric) -> None:
    with pytest.raises(FileExistsError):
        netns.create(segment.gateway_ns)
    assert ping(segment.foreign_ns, fabric.GATEWAY_V4)
