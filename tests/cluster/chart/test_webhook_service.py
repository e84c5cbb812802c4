"""The admission webhook as the chart sets it up: the API server calls a Service, kube-proxy leads it to an agent; and what happens without agents."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from e2e.cluster.client import Answer
from e2e.cluster.nodes import manifests, underlay
from e2e.cluster.nodes.chart import ChartInstallation
from e2e.cluster.nodes.kube import Kube
from e2e.cluster.nodes.kubeproxy import KubeProxy
from e2e.cluster.nodes.labs import RealCluster
from e2e.cluster.nodes.manifests import NAMESPACE
from tests.cluster.chart import MARKS, sound
from tests.cluster.objects import eventually, must
from tests.cluster.workloads import addresses, end, start

pytestmark = MARKS

Values = dict[str, dict[str, object]]

POOLS = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/{}webhookconfigurations/nephila"
SERVICE = f"{NAMESPACE}/nephila-webhook"
PORT = 9809  # the chart's default, on the nodes' network
# kubelet brings a Secret that changed to a pod within a minute and a half.
IN_FORCE_S = 120.0
IGNORE: Values = {"webhook": {"enabled": True}}  # as the folder's cluster is installed
FAIL: Values = {"webhook": {"enabled": True, "failurePolicy": "Fail"}}
AWAY: Values = {"agent": {"nodeSelector": {"nephila.io/away": "true"}}}
FAILED = "failed calling webhook"


def draft(name: str, *ips: str) -> dict[str, Any]:
    """A pool as people write it: without what follows from its addresses."""
    thing = manifests.pool(name, "")
    thing["spec"]["ips"] = list(ips)
    return thing


async def ask(api: Kube, thing: Mapping[str, Any]) -> Answer:
    """Admission of it without storing it."""
    return await api.client.post(f"{POOLS}?dryRun=All", thing)


async def in_force(cluster: RealCluster, api: Kube, proxy: KubeProxy) -> Answer:
    """The answer to a good pool once every agent is behind the Service and the webhook is asked."""
    await proxy.until_targets(SERVICE, {f"{underlay.node_address(name)}:{PORT}" for name in cluster.nodes})
    good = draft("good", "10.6.4.5", "10.6.4.1-10.6.4.4")
    return await eventually(lambda: ask(api, good), _is_filled_in, timeout_s=IN_FORCE_S)


def _is_filled_in(answer: Answer) -> bool:
    return answer.status == 201 and "ipVersion" in answer.body["spec"]


async def test_the_api_server_asks_the_agents_through_the_service_and_they_refuse_and_fill_in(
    cluster: RealCluster, api: Kube, proxy: KubeProxy
) -> None:
    filled = await in_force(cluster, api, proxy)
    assert filled.body["spec"]["ips"] == ["10.6.4.1-10.6.4.5"]
    assert filled.body["spec"]["ipVersion"] == 4
    assert filled.body["metadata"]["finalizers"] == ["spiderpool.spidernet.io"]
    # No other way leads there: both configurations name the Service, and no address.
    for kind in ("mutating", "validating"):
        [webhook] = (await api.get(WEBHOOKS.format(kind)))["webhooks"]
        called = webhook["clientConfig"]
        assert (called["service"]["name"], "url" in called, webhook["failurePolicy"]) == (
            "nephila-webhook",
            False,
            "Ignore",
        )
    refused = await api.client.post(POOLS, draft("claimant", "10.6.1.240-10.6.1.250"))
    assert refused.status == 422, refused.message
    assert 'admission webhook "validate.nephila.io" denied the request' in refused.message
    assert "belongs to SpiderIPPool default too" in refused.message


async def test_without_agents_a_pool_passes_or_is_refused_as_the_failure_policy_says_and_the_leader_judges_it(
    nephila: ChartInstallation, cluster: RealCluster, api: Kube, proxy: KubeProxy, note: Callable[[str], None]
) -> None:
    await in_force(cluster, api, proxy)
    claimant, other = draft("claimant", "10.6.1.240", "10.6.1.241-10.6.1.250"), draft("other", "10.6.4.1")
    deployment = await start(api, "calm", 3)
    before = await addresses(api, "calm")
    await nephila.upgrade(IGNORE | AWAY)
    times = [time.monotonic()]
    try:
        await nephila.agents_gone()
        times.append(time.monotonic())
        await proxy.until_targets(SERVICE, set())
        # Ignore, the default: stored as it was written, and it overlaps. The leader says so, and fills in what follows.
        made = await must(api.client.post(POOLS, claimant))
        assert made["spec"]["ips"] == ["10.6.1.240", "10.6.1.241-10.6.1.250"] and "ipVersion" not in made["spec"]
        judged = await eventually(lambda: api.client.get(f"{POOLS}/claimant"), _is_judged, timeout_s=30.0)
        assert judged.body["spec"]["ips"] == ["10.6.1.240-10.6.1.250"]
        times.append(time.monotonic())
        # Fail: neither this nor its deletion passes.
        await nephila.upgrade(FAIL | AWAY)
        refused = await eventually(lambda: ask(api, other), lambda answer: answer.status == 500)
        assert FAILED in refused.message, refused.message
        kept = await api.client.request("DELETE", f"{POOLS}/claimant")
        assert (kept.status, FAILED in kept.message) == (500, True), kept.message
        assert await addresses(api, "calm") == before
    finally:
        await nephila.upgrade(FAIL)
        back = await nephila.rolled_out()
    await in_force(cluster, api, proxy)
    gone, judged_after = (later - sooner for sooner, later in pairwise(times))
    note(
        f"agents sent away: gone after {gone:.1f} s, a pool judged by the leader {judged_after:.1f} s later; back and Ready after {back:.1f} s"
    )
    again = await ask(api, draft("another", "10.6.1.1"))
    assert (again.status, "belongs to SpiderIPPool default too" in again.message) == (422, True), again.message
    await must(api.client.request("DELETE", f"{POOLS}/claimant"), 200)
    await nephila.upgrade(IGNORE)
    await sound(cluster, 3)
    await end(api, deployment)
    await sound(cluster, 0)


def _is_judged(answer: Answer) -> bool:
    conditions = (answer.body.get("status") or {}).get("conditions", [])
    overlaps = any((one["type"], one["status"]) == ("Overlapping", "True") for one in conditions)
    return overlaps and "ipVersion" in answer.body["spec"]
