"""The webhook on the real API server with the programs' own tokens: what the leader may do for it, and that its absence stops people only."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.clock import SystemClock
from adapters.entropy import SeededEntropy
from adapters.kube.kubestore import KubeStore
from adapters.kube.store import Store
from adapters.kube.transport import Explicit, connect
from crds.policies import NAMESPACE
from e2e.cluster.client import MERGE_PATCH, Answer, JsonClient
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.security import SECRET, install, install_webhook, join, leader_token
from ipam.addresses import Family
from leader.config import ElectionSettings, LeaderConfig, WebhookSettings
from leader.leader import Leader, Ports
from nodeagent.webhook.review import Reviewer
from nodeagent.webhook.server import WebhookServer
from tests.cluster.objects import eventually, must

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

POOLS = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


def pool(name: str, *ips: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "spiderpool.spidernet.io/v2beta1",
        "kind": "SpiderIPPool",
        "metadata": {"name": name},
        "spec": {"subnet": "10.1.0.0/24", "ips": list(ips), **spec},
    }


async def store_for(cluster: ControlPlane, stack: AsyncExitStack, token: str, component: str) -> Store:
    source = Explicit(cluster.url, token, str(cluster.ca_file))
    transport = await connect(source, component=component, version="test")
    stack.push_async_callback(transport.close)
    return KubeStore(transport, SystemClock(), SeededEntropy(7))


@asynccontextmanager
async def running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def show_secret(admin: JsonClient, folder: Path) -> None:
    """The kubelet's part."""
    answer = await eventually(
        lambda: admin.get(f"{SECRETS}/{SECRET}"), lambda found: "tls.key" in (found.body.get("data") or {})
    )
    for key in ("tls.crt", "tls.key"):
        (folder / key).write_bytes(base64.b64decode(answer.body["data"][key]))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_the_leader_keeps_it_with_the_rights_that_the_chart_gives(cluster: ControlPlane, tmp_path: Path) -> None:
    admin = cluster.client()
    await install(admin)
    port = free_port()
    await install_webhook(admin, f"https://localhost:{port}", "Fail")
    async with AsyncExitStack() as stack:
        leading = await store_for(cluster, stack, await leader_token(admin), "leader")
        serving = await store_for(cluster, stack, await join(admin, "node-a"), "agent")
        election = ElectionSettings(lease_s=3.0, renew_deadline_s=2.0, retry_s=0.2)
        webhook = WebhookSettings(enabled=True, namespace=NAMESPACE, names=("localhost",), period_s=0.5)
        leader = Leader(
            LeaderConfig(node="node-a", election=election, webhook=webhook),
            Ports(leading, SystemClock(), SeededEntropy(1)),
        )
        await stack.enter_async_context(running(leader.run()))
        await show_secret(admin, tmp_path)

        # Nobody serves yet, and the policy is Fail: people are refused, the leader goes on.
        refused = await eventually(
            lambda: admin.post(POOLS, pool("early", "10.1.0.1")), lambda answer: answer.status == 500
        )
        assert "failed calling webhook" in refused.message
        derived = {"metadata": {"labels": {"by": "leader"}}}
        await admin.request("DELETE", f"{POOLS}/early")

        reviewer = Reviewer(serving, frozenset(Family), protect_in_use=True)
        server = WebhookServer(f"127.0.0.1:{port}", tmp_path, reviewer, SystemClock())
        served = await stack.enter_async_context(AsyncExitStack())
        await served.enter_async_context(running(server.run()))
        made = await eventually(
            lambda: admin.post(POOLS, pool("a", "10.1.0.5", "10.1.0.1-10.1.0.4")), lambda answer: answer.status == 201
        )
        assert made.body["spec"]["ips"] == ["10.1.0.1-10.1.0.5"] and made.body["spec"]["ipVersion"] == 4
        answer = await admin.post(POOLS, pool("b", "10.1.0.5-10.1.0.9"))
        assert (answer.status, "belongs to SpiderIPPool a too" in answer.message) == (422, True), answer.message

        # Gone again: the leader still writes pools (status, finalizer), which only it may do now.
        await served.aclose()
        await eventually(lambda: admin.get(f"{POOLS}/a"), _has_status)
        answer = await admin.request("PATCH", f"{POOLS}/a", derived, content_type=MERGE_PATCH)
        assert (answer.status, "failed calling webhook" in answer.message) == (500, True), answer.message
        by_leader = cluster.client(await leader_token(admin))
        await must(by_leader.request("PATCH", f"{POOLS}/a", derived, content_type=MERGE_PATCH), 200)


def _has_status(answer: Answer) -> bool:
    return bool((answer.body.get("status") or {}).get("conditions"))


async def test_the_leader_may_touch_nothing_else_of_that_kind(cluster: ControlPlane) -> None:
    admin = cluster.client()
    leader = cluster.client(await leader_token(admin))
    other = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other", "namespace": NAMESPACE}}
    await admin.post(SECRETS, other)
    allowed = await leader.get(f"{SECRETS}/{SECRET}")
    assert allowed.status == 200
    refused = [
        await leader.get(f"{SECRETS}/other"),
        await leader.get(SECRETS),
        await leader.post(SECRETS, {**other, "metadata": {"name": "mine"}}),
        await leader.request("DELETE", f"{SECRETS}/{SECRET}"),
        await leader.get(CONFIGURATIONS),
        await leader.get(f"{CONFIGURATIONS}/other"),
        await leader.request("DELETE", f"{CONFIGURATIONS}/nephila"),
    ]
    assert [answer.status for answer in refused] == [403] * len(refused)
    agent = cluster.client(await join(admin, "node-a"))
    assert (await agent.get(f"{SECRETS}/{SECRET}")).status == 403
