"""The underlay of the lab: one bridge in a private namespace, and on it the nodes, the gateway and a foreign host.

Nothing touches the machine's own network: both ends of every veth live in namespaces whose names begin with the lab's prefix, so
removing the names removes everything.
"""

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass

from e2e.lab import netns

PARENT = "ul0"
SUBNET_V4, SUBNET_V6 = "10.6.0.0/16", "fd00:6::/64"
GATEWAY_V4, GATEWAY_V6 = "10.6.0.1", "fd00:6::1"
FOREIGN_V4, FOREIGN_V6 = "10.6.255.250", "fd00:6::ffff:fa"
BATCH_TIMEOUT_S = 20.0
KILL_ROUNDS = 100


class FabricError(RuntimeError):
    """`ip` refused a command; the message carries its words."""


@dataclass(frozen=True, slots=True)
class Fabric:
    """Names only: what exists is in the kernel."""

    prefix: str
    nodes: tuple[str, ...]

    @property
    def bridge_ns(self) -> str:
        return f"{self.prefix}-fabric"

    @property
    def gateway_ns(self) -> str:
        return f"{self.prefix}-gateway"

    @property
    def foreign_ns(self) -> str:
        return f"{self.prefix}-foreign"

    def node_ns(self, node: str) -> str:
        return f"{self.prefix}-{node}"

    def pod_ns(self, sandbox: str) -> str:
        return f"{self.prefix}-pod-{sandbox}"


def plan(prefix: str, count: int) -> Fabric:
    """Raises ValueError for a count outside 1-100 (the bridge's names and the foreign host's address assume it)."""
    if not 1 <= count <= 100:
        raise ValueError(f"nodes: {count} is outside 1-100")
    return Fabric(prefix, tuple(f"node-{number}" for number in range(1, count + 1)))


def build(fabric: Fabric) -> None:
    """Makes all namespaces and links. Raises FabricError or OSError; the caller then calls `destroy`."""
    for name in (fabric.bridge_ns, fabric.gateway_ns, fabric.foreign_ns, *map(fabric.node_ns, fabric.nodes)):
        netns.create(name)
    # Snooping off: without a querier on the segment it would only delay neighbour discovery. STP off: one bridge, no loop.
    lines = ["link add br0 type bridge mcast_snooping 0 forward_delay 0 stp_state 0", "link set br0 up"]
    ends = [("gateway", fabric.gateway_ns, "eth0"), ("foreign", fabric.foreign_ns, "eth0")]
    ends += [(node, fabric.node_ns(node), PARENT) for node in fabric.nodes]
    for port, namespace, inner in ends:
        lines.append(f"link add {port} type veth peer name {inner} netns {namespace}")
        lines.append(f"link set {port} master br0 up")
    ip_batch(fabric.bridge_ns, lines)
    for namespace, v4, v6 in (
        (fabric.gateway_ns, GATEWAY_V4, GATEWAY_V6),
        (fabric.foreign_ns, FOREIGN_V4, FOREIGN_V6),
    ):
        add_host_addresses(namespace, v4, v6)
        ip_batch(namespace, ["link set eth0 up"])
    for node in fabric.nodes:
        ip_batch(fabric.node_ns(node), [f"link set {PARENT} up"])


def add_host_addresses(namespace: str, v4: str, v6: str) -> None:
    """nodad: a router or a server of the site has long finished its own duplicate detection when the lab begins."""
    lines = [f"addr add {v4}/16 dev eth0", f"addr add {v6}/64 dev eth0 nodad"]
    ip_batch(namespace, [line for line, address in zip(lines, (v4, v6), strict=True) if address])


def cut_link(fabric: Fabric, node: str) -> None:
    """Takes the node off the segment (its port of the bridge goes down)."""
    ip_batch(fabric.bridge_ns, [f"link set {node} down"])


def restore_link(fabric: Fabric, node: str) -> None:
    ip_batch(fabric.bridge_ns, [f"link set {node} up"])


def ip_batch(namespace: str, lines: list[str]) -> None:
    """One `ip` process for all lines. Raises FabricError at the first one refused."""
    done = subprocess.run(
        ["ip", "-n", namespace, "-batch", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=BATCH_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise FabricError(f"ip in {namespace}: {done.stderr.strip()}")


def end_processes(prefix: str) -> list[str]:
    """Ends what runs inside the lab's namespaces. Returns the names of these."""
    found = netns.names(f"{prefix}-")
    for _ in range(KILL_ROUNDS):  # again, for a process may have had a child meanwhile
        inside = netns.processes_in(found)
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not inside:
            break
        time.sleep(0.02)
    return found


def destroy(prefix: str) -> list[str]:
    """Removes every namespace of the lab, and first ends what still runs inside one. Returns the names removed; may be called again."""
    found = end_processes(prefix)
    for name in found:
        netns.delete(name)
    return found


def leftovers(prefix: str) -> list[str]:
    """What a finished lab should not have left: names of namespaces and processes inside them."""
    found = netns.names(f"{prefix}-")
    return found + [f"pid {pid} in {name}" for pid, name in netns.processes_in(found).items()]
