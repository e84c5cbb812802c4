"""The chart and the image on real nodes: what a user installs, updated while pods come and go.

Needs `tools/image build`; skips, with the reason, where the image was not built.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from e2e.cluster.binaries import Binaries
from e2e.cluster.nodes import manifests
from e2e.cluster.nodes.bench import check_distinct
from e2e.cluster.nodes.chart import IMAGE, ChartInstallation
from e2e.cluster.nodes.churn import Churn
from e2e.cluster.nodes.kube import address_of
from e2e.cluster.nodes.labs import RealCluster

pytestmark = [
    pytest.mark.nodes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(420),
    pytest.mark.skipif(not IMAGE.exists(), reason="build/nephila.tar is not there: run tools/image build"),
]

LEASE = {"heartbeatS": 5.0, "leaseS": 60.0, "cooldownS": 5.0, "cooldownFloorS": 2.0}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nephila(binaries: Binaries) -> AsyncIterator[ChartInstallation]:
    cluster = RealCluster(3, binaries)
    async with cluster:
        installation = ChartInstallation(cluster, {"lease": LEASE})
        await installation.install()
        yield installation
    assert cluster.leftovers() == []


async def test_the_charts_agents_give_pods_their_addresses(nephila: ChartInstallation) -> None:
    api = nephila.cluster.api
    deployment = manifests.workload("Deployment", "web", 6, manifests.pod_template("web"))
    await api.apply(deployment)
    await api.running("web", 6)
    pods = await api.pods("web")
    check_distinct(pods)
    assert all(address_of(pod).startswith("10.6.1.") for pod in pods)
    await api.delete(deployment)
    await api.gone("web")


async def test_a_rolling_update_of_the_daemon_set_under_load_fails_no_pod(nephila: ChartInstallation) -> None:
    async with Churn(nephila.cluster.api, "load", 12) as churn:
        await nephila.restart_agents()
    assert churn.rebuilt >= 5
    again = ("AgentUnreachable", "the agent is starting")
    assert [words for words in churn.failures if not any(reason in words for reason in again)] == []
