"""The built-in kinds that Nephila lives among: pods, nodes, events, leases, workloads, reviews."""

from __future__ import annotations

from typing import Any

from tests.contract.apiserver.client import STRATEGIC, Client


def pod(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "registry.invalid/none"}], **spec},
    }


async def test_a_pod_is_bound_once(server: Client, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    created = await server.post(path, pod("a", schedulerName="nobody"))
    assert (created.body["status"]["phase"], created.body["spec"]["restartPolicy"]) == ("Pending", "Always")
    binding = {"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "node-1"}}
    assert (await server.post(f"{path}/a/binding", binding)).status == 201
    bound = (await server.get(f"{path}/a")).body
    assert bound["spec"]["nodeName"] == "node-1"
    assert {"type": "PodScheduled", "status": "True"}.items() <= bound["status"]["conditions"][0].items()
    assert (await server.post(f"{path}/a/binding", binding)).status == 409
    await server.delete(f"{path}/a", {"gracePeriodSeconds": 0})


async def test_a_bound_pod_waits_for_its_kubelet_and_an_unbound_one_does_not(server: Client, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    await server.post(path, pod("unbound", schedulerName="nobody"))
    await server.post(path, pod("bound", nodeName="no-such-node", terminationGracePeriodSeconds=300))
    for name in ("unbound", "bound"):
        assert (await server.delete(f"{path}/{name}")).status == 200
    assert (await server.get(f"{path}/unbound")).status == 404
    waiting = (await server.get(f"{path}/bound")).body["metadata"]
    assert waiting["deletionGracePeriodSeconds"] == 300
    assert waiting["deletionTimestamp"] > waiting["creationTimestamp"]
    assert (await server.delete(f"{path}/bound", {"gracePeriodSeconds": 0})).status == 200
    assert (await server.get(f"{path}/bound")).status == 404


async def test_pod_status_is_patched_strategically(server: Client, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    await server.post(path, pod("a", nodeName="no-such-node"))
    ready = {"status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}}
    await server.patch(f"{path}/a/status", ready, STRATEGIC)
    more = {"status": {"conditions": [{"type": "Nephila", "status": "True"}]}}
    status = (await server.patch(f"{path}/a/status", more, STRATEGIC)).body["status"]
    assert {one["type"] for one in status["conditions"]} >= {"Ready", "Nephila"}
    assert (status["phase"], status["podIP"]) == ("Running", "10.0.0.1")
    await server.delete(f"{path}/a", {"gracePeriodSeconds": 0})


async def test_a_pod_is_evicted(server: Client, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    await server.post(path, pod("a", schedulerName="nobody"))
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a", "namespace": namespace}}
    assert (await server.post(f"{path}/a/eviction", eviction)).status == 201
    await server.gone(f"{path}/a")


async def test_a_pod_needs_containers(server: Client, namespace: str) -> None:
    reply = await server.post(
        f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"name": "a"}, "spec": {"containers": []}}
    )
    assert (reply.status, reply.causes.get("spec.containers")) == (422, "FieldValueRequired")


async def test_an_event_has_two_faces(server: Client, namespace: str) -> None:
    regarding = {"kind": "Pod", "namespace": namespace, "name": "p", "apiVersion": "v1"}
    event = {
        "metadata": {"name": "p.1", "namespace": namespace},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "nephila.io/agent",
        "reportingInstance": "agent-1",
        "action": "Allocating",
        "reason": "PoolExhausted",
        "type": "Warning",
        "regarding": regarding,
        "note": "no address left",
    }
    new, old = (f"{root}/namespaces/{namespace}/events" for root in ("/apis/events.k8s.io/v1", "/api/v1"))
    created = await server.post(new, event)
    assert created.status == 201, created.body
    core = (await server.get(f"{old}/p.1")).body
    assert (core["message"], core["involvedObject"]["name"]) == ("no address left", "p")
    assert core["reportingComponent"] == "nephila.io/agent"
    found = await server.get(old, fieldSelector="involvedObject.name=p,reason=PoolExhausted")
    assert [item["metadata"]["name"] for item in found.body["items"]] == ["p.1"]
    series = {"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}}
    assert (await server.patch(f"{new}/p.1", series)).body["series"]["count"] == 2


async def test_a_lease_is_taken_by_compare_and_swap(server: Client, namespace: str) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    created = (await server.post(path, {"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}})).body
    first = await server.put(f"{path}/l", {**created, "spec": {"holderIdentity": "b"}})
    second = await server.put(f"{path}/l", {**created, "spec": {"holderIdentity": "c"}})
    assert (first.status, second.status) == (200, 409)


async def test_node_status_and_labels(server: Client, unique: str) -> None:
    assert (await server.post("/api/v1/nodes", {"metadata": {"name": unique}})).status == 201
    condition = {"type": "Ready", "status": "True", "reason": "Test", "message": ""}
    patched = await server.patch(f"/api/v1/nodes/{unique}/status", {"status": {"conditions": [condition]}}, STRATEGIC)
    assert patched.body["status"]["conditions"][0]["type"] == "Ready"
    labelled = await server.patch(f"/api/v1/nodes/{unique}", {"metadata": {"labels": {"zone": "a"}}})
    assert labelled.body["metadata"]["labels"]["zone"] == "a"
    assert (await server.delete(f"/api/v1/nodes/{unique}")).status == 200


async def test_a_workload_is_scaled(server: Client, namespace: str) -> None:
    path = f"/apis/apps/v1/namespaces/{namespace}/statefulsets"
    labels = {"app": "x"}
    template = {"metadata": {"labels": labels}, "spec": pod("x")["spec"]}
    spec = {"replicas": 0, "serviceName": "x", "selector": {"matchLabels": labels}, "template": template}
    assert (await server.post(path, {"metadata": {"name": "s"}, "spec": spec})).status == 201
    scaled = await server.patch(f"{path}/s/scale", {"spec": {"replicas": 0}})
    assert (scaled.status, scaled.body["kind"]) == (200, "Scale")
    paused = await server.patch(f"{path}/s", {"spec": {"replicas": 0, "minReadySeconds": 5}})
    assert paused.body["metadata"]["generation"] == 2


async def test_a_service_account_gets_a_token(server: Client, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    await server.post(path, {"metadata": {"name": "agent"}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    issued = await server.post(f"{path}/agent/token", request)
    assert (issued.status, bool(issued.body["status"]["token"])) == (201, True)


async def test_an_administrator_is_told_that_everything_is_allowed(server: Client) -> None:
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "delete", "resource": "pods"}},
    }
    reply = await server.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
    assert (reply.status, reply.body["status"]["allowed"]) == (201, True)


async def test_the_first_namespaces_exist(server: Client) -> None:
    for name in ("default", "kube-system"):
        assert (await server.get(f"/api/v1/namespaces/{name}")).body["status"]["phase"] == "Active"


async def test_discovery_in_both_forms(server: Client) -> None:
    legacy = (await server.get("/api/v1")).body
    pods = next(one for one in legacy["resources"] if one["name"] == "pods")
    assert (pods["kind"], "po" in pods["shortNames"], "watch" in pods["verbs"]) == ("Pod", True, True)
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    aggregated = (await server.get("/apis", accept=accept)).body
    assert "apps" in {item["metadata"]["name"] for item in aggregated["items"]}
    assert (await server.get("/version")).body["major"] == "1"
    assert "apis/apps/v1" in (await server.get("/openapi/v3")).body["paths"]
