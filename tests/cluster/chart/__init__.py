"""The chart and the image on real nodes: what a user installs, and what happens to it in a cluster's life.

One cluster for the folder. Needs `tools/image build`; skips, with the reason, where the image was not built. Each test leaves three nodes Ready, no
pod, and no address held.
"""

from __future__ import annotations

import pytest

from e2e.cluster.nodes.chart import AGENT_PORT, IMAGE
from e2e.cluster.nodes.labs import RealCluster
from e2e.cluster.nodes.soundness import until_sound
from ipam.reclaim import Rules

MARKS = [
    pytest.mark.nodes,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.timeout(420),
    pytest.mark.skipif(not IMAGE.exists(), reason="build/nephila.tar is not there: run tools/image build"),
]

LEASE = {"heartbeatS": 5.0, "leaseS": 20.0, "cooldownS": 5.0, "cooldownFloorS": 2.0}
SWEEP = {"periodS": 2.0, "orphanS": 4.0}
RECLAIM = {"graceS": 2.0, "periodS": 1.0}
# The chart tells the leader the agents' lease time; so long a node is silent before it is marked, and so long again before its addresses are taken.
FENCE_WAIT_S = Rules(LEASE["leaseS"], RECLAIM["graceS"]).wait_s


async def sound(cluster: RealCluster, pods: int) -> None:
    """fsck finds nothing, and agents hold what these pods use: no more (a leak), no less (a pod that nobody protects)."""
    await until_sound(cluster, port=AGENT_PORT, pods=pods)
