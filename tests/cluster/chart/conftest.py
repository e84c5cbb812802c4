"""The folder's cluster: three nodes, kube-proxy beside the API server, the chart with the webhook on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from e2e.cluster.binaries import Binaries
from e2e.cluster.nodes.chart import ChartInstallation
from e2e.cluster.nodes.kube import Kube
from e2e.cluster.nodes.kubeproxy import KubeProxy
from e2e.cluster.nodes.labs import RealCluster
from tests.cluster.chart import LEASE, RECLAIM, SWEEP
from tests.cluster.workloads import clear


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def started(binaries: Binaries) -> AsyncIterator[RealCluster]:
    cluster = RealCluster(3, binaries)
    async with cluster:
        yield cluster
    assert cluster.leftovers() == []


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def proxy(started: RealCluster, binaries: Binaries) -> AsyncIterator[KubeProxy]:
    async with KubeProxy(started, binaries) as running:
        yield running


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def nephila(started: RealCluster, proxy: KubeProxy) -> ChartInstallation:
    assert proxy.program.pid is not None
    leader = {"sweep": SWEEP, "reclaim": RECLAIM}
    installation = ChartInstallation(started, {"lease": LEASE}, leader, {"webhook": {"enabled": True}})
    await installation.install()
    return installation


@pytest_asyncio.fixture(loop_scope="package", autouse=True)
async def tidy(nephila: ChartInstallation) -> AsyncIterator[None]:
    yield
    nephila.use()
    await clear(nephila.cluster)


@pytest.fixture
def cluster(nephila: ChartInstallation) -> RealCluster:
    return nephila.cluster


@pytest.fixture
def api(cluster: RealCluster) -> Kube:
    return cluster.api
