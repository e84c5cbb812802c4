"""The invariants on a live cluster, as an operator would check them: the product's own `fsck`, and what each agent says it holds."""

from __future__ import annotations

import asyncio
import re
import sys
import time

from e2e.cluster.nodes.labs import RealCluster
from e2e.cluster.nodes.node import Node
from e2e.cluster.program import ClusterFailed, run_to_end

FSCK_TIMEOUT_S = 60.0
POLL_S = 0.5


async def fsck(cluster: RealCluster) -> tuple[int, str]:
    """`nephila fsck` of a cluster where nothing is under way (leaks count too): exit status and words."""
    command = [sys.executable, "-m", "cli", f"--kubeconfig={cluster.plane.kubeconfig}", "fsck", "--quiet-cluster"]
    return await run_to_end(*command, what="fsck", timeout_s=FSCK_TIMEOUT_S)


async def until_sound(cluster: RealCluster, *, port: int, pods: int, timeout_s: float = 60.0) -> float:
    """Until fsck finds nothing and the agents together hold exactly `pods` interfaces; the seconds it took.

    Raises ClusterFailed with what is wrong.
    """
    begun = time.monotonic()
    while True:
        # A node that is down holds nothing: its sandboxes ended with it.
        held = sum([await attachments(node, port) for node in cluster.nodes.values() if node.init_pid])
        code, said = await fsck(cluster) if held == pods else (1, f"agents hold {held} interfaces for {pods} pods")
        waited = time.monotonic() - begun
        if code == 0:
            return waited
        if waited > timeout_s:
            raise ClusterFailed(f"not sound after {timeout_s:.0f} s: {said}")
        await asyncio.sleep(POLL_S)


async def attachments(node: Node, port: int) -> int:
    """How many pod interfaces the node's agent has addresses for, by its own metric; -1 if it does not answer."""
    script = (
        f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/metrics', timeout=5).read().decode())"
    )
    code, said = await node.run(sys.executable, "-c", script)
    found = re.search(r"^nephila_attachments (\d+)", said, re.MULTILINE)
    return int(found[1]) if code == 0 and found else -1
