"""The segment of the nodes: the lab's fabric (bridge, gateway, foreign host), and for each node a second link with its own address.

The second link is needed since a macvlan parent cannot talk to its own children: through it kubelet's probes reach the pods.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from e2e.cluster.flags import SERVICE_RANGE
from e2e.cluster.nodes import settings
from e2e.cluster.nodes.settings import MANAGEMENT, PARENT, SERVICE_ADDRESS
from e2e.lab import fabric, netns
from e2e.lab.fabric import GATEWAY_V4, SUBNET_V4, Fabric

PREFIX = "nk"
# IPv4 answers on any link for any address of the host; two links on one segment must each speak for themselves.
_PER_LINK = {"arp_ignore": "1", "arp_announce": "2"}


def node_address(node: str) -> str:
    """`node-7` → 10.6.250.7. No pool of these tests reaches there."""
    return f"10.6.250.{int(node.rpartition('-')[2])}"


def floor_network(node: str) -> str:
    """macvlan with host-local: what a node has before Nephila, and the floor to measure against. 250 addresses of its own."""
    third = 100 + int(node.rpartition("-")[2])
    ipam = settings.host_local(f"10.6.{third}.1", f"10.6.{third}.250", subnet=SUBNET_V4, gateway=GATEWAY_V4)
    return settings.conflist("floor", [settings.macvlan(ipam)])


def plan(count: int) -> Fabric:
    return fabric.plan(f"{PREFIX}{os.getpid()}", count)


def build(net: Fabric) -> None:
    """Raises FabricError or OSError; the caller then calls `fabric.destroy`."""
    fabric.build(net)
    # The gateway's namespace is the control plane's place on the segment: its calls to kubelets, pods and Services start there.
    fabric.ip_batch(net.gateway_ns, [f"addr add {SERVICE_ADDRESS}/32 dev lo", f"route add {SERVICE_RANGE} dev eth0"])
    for node in net.nodes:
        link = f"link add {node}m type veth peer name {MANAGEMENT} netns {net.node_ns(node)}"
        fabric.ip_batch(net.bridge_ns, [link, f"link set {node}m master br0 up"])
        netns.run_in(net.node_ns(node), _set_per_link)
        lines = [f"addr add {node_address(node)}/{SUBNET_V4.rpartition('/')[2]} dev {MANAGEMENT}"]
        lines += [f"link set {MANAGEMENT} up", f"addr add {SERVICE_ADDRESS}/32 dev lo"]
        fabric.ip_batch(net.node_ns(node), [*lines, f"route add default via {GATEWAY_V4}"])


def sweep() -> list[str]:
    """Removes the namespaces of runs whose process is gone. Returns the prefixes removed."""
    found = {match[1]: int(match[2]) for name in netns.names(PREFIX) if (match := re.match(rf"({PREFIX}(\d+))-", name))}
    dead = [prefix for prefix, pid in found.items() if not Path(f"/proc/{pid}").exists()]
    for prefix in dead:
        with contextlib.suppress(OSError):
            fabric.destroy(prefix)
    return dead


def _set_per_link() -> None:
    for link in (MANAGEMENT, PARENT):
        for key, value in _PER_LINK.items():
            # thread-self would be right too, but /proc/sys/net always shows the namespace of the reading thread.
            Path(f"/proc/sys/net/ipv4/conf/{link}/{key}").write_text(value)
