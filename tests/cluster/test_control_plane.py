"""The cluster is a current Kubernetes with what Nephila relies on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from adapters.entropy import SeededEntropy
from e2e.cluster.checks import check_custom_resources
from e2e.cluster.client import JsonClient
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.faults import DropReply, FaultProxy, Refuse, Requests, listen
from tests.cluster.objects import CONFIG_MAPS, PODS, config_map, create_ready_node, eventually, must, pod_spec

KUBECTL = Path(sys.executable).parent / "kubectl"


async def kubectl(kubeconfig: Path, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        KUBECTL,
        *arguments,
        env=dict(os.environ, KUBECONFIG=str(kubeconfig)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, output.decode()


async def test_reports_the_pinned_version_and_is_ready(cluster: ControlPlane) -> None:
    admin = cluster.client()
    version = await must(admin.get("/version"), 200)
    assert version["gitVersion"] == cluster.layout.binaries.pins.kubernetes
    assert (int(version["major"]), int(version["minor"])) >= (1, 34)
    etcd = await must(JsonClient(cluster.layout.etcd_url).get("/version"), 200)
    assert f"v{etcd['etcdserver']}" == cluster.layout.binaries.pins.etcd
    assert (await admin.get("/readyz")).message == "ok"


async def test_keeps_empty_strings_and_maps_of_custom_resources(cluster: ControlPlane) -> None:
    await check_custom_resources(cluster.client())


def test_listens_on_loopback_only(cluster: ControlPlane) -> None:
    pids = [cluster.etcd.pid, cluster.apiserver.pid, cluster.controller_manager.pid, cluster.scheduler.pid]
    done = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, timeout=10, check=True)
    ours = [line.split()[3] for line in done.stdout.splitlines() if any(f"pid={pid}," in line for pid in pids)]
    assert len(ours) == 5
    assert all(address.startswith("127.0.0.1:") for address in ours)


async def test_refuses_strangers_and_false_tokens(cluster: ControlPlane) -> None:
    assert (await cluster.client("").get(CONFIG_MAPS)).status == 403
    assert (await cluster.client("false").get(CONFIG_MAPS)).status == 401


async def test_policy_sees_the_node_of_a_pod_bound_token(cluster: ControlPlane) -> None:
    """What the agents' ValidatingAdmissionPolicy rests on: the token names the node, and the caller cannot choose it."""
    admin = cluster.client()
    await must(admin.post("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}))
    await must(admin.post(PODS, {"metadata": {"name": "agent"}, "spec": pod_spec(nodeName="node-a")}))
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}
    await must(
        admin.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", {"metadata": {"name": "w"}, "rules": [rule]})
    )
    binding = {
        "metadata": {"name": "w"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "w"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
    }
    await must(admin.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding))
    await _create_policy(admin)
    bound, free = await _token(admin, pod="agent"), await _token(admin)

    async def attempt(token: str, name: str) -> tuple[int, str]:
        answer = await cluster.client(token).post(f"{CONFIG_MAPS}?dryRun=All", config_map(name))
        return answer.status, answer.message

    await eventually(  # a policy is in force a moment after it was created
        lambda: cluster.client(free).post(f"{CONFIG_MAPS}?dryRun=All", config_map("node-a")),
        lambda answer: answer.status == 422,
    )
    assert (await attempt(bound, "node-a"))[0] == 201
    status, message = await attempt(bound, "node-b")
    assert status == 422
    assert "only the node's own object" in message
    assert (await attempt(free, "node-a"))[0] == 422
    await must(
        admin.request("DELETE", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/own"), 200
    )


async def _token(admin: JsonClient, *, pod: str = "") -> str:
    spec: dict[str, object] = {"expirationSeconds": 600}
    if pod:
        spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod}
    path = "/api/v1/namespaces/default/serviceaccounts/default/token"
    answer = await must(
        admin.post(path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
    )
    return str(answer["status"]["token"])


async def _create_policy(admin: JsonClient) -> None:
    extra = "authentication.kubernetes.io/node-name"
    expression = (
        f"has(request.userInfo.extra) && '{extra}' in request.userInfo.extra"
        f" && request.userInfo.extra['{extra}'][0] == object.metadata.name"
    )
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    spec = {
        "matchConstraints": {"resourceRules": [rule]},
        "matchConditions": [
            {"name": "agents", "expression": "request.userInfo.username.startsWith('system:serviceaccount:default:')"}
        ],
        "validations": [{"expression": expression, "message": "only the node's own object"}],
    }
    base = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
    await must(admin.post(f"{base}ies", {"metadata": {"name": "own"}, "spec": spec}))
    binding = {"metadata": {"name": "own"}, "spec": {"policyName": "own", "validationActions": ["Deny"]}}
    await must(admin.post(f"{base}ybindings", binding))


async def test_node_credentials_reach_their_own_node_only(cluster: ControlPlane) -> None:
    for node in ("node-c", "node-d"):
        await must(
            cluster.client().post("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        )
    mine = cluster.node_kubeconfig("node-c")
    code, output = await kubectl(mine, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
    assert (code, output) == (0, "system:node:node-c")
    assert (await kubectl(mine, "label", "node", "node-c", "seen=yes"))[0] == 0
    code, output = await kubectl(mine, "label", "node", "node-d", "seen=yes")
    assert code != 0
    assert "only its own Node object" in output


async def test_controllers_and_scheduler_bring_pods_to_nodes(cluster: ControlPlane) -> None:
    admin = cluster.client()
    await create_ready_node(admin, "roomy")
    template = {"metadata": {"labels": {"app": "web"}}, "spec": pod_spec(nodeSelector={})}
    deployment = {
        "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    }
    deployments = "/apis/apps/v1/namespaces/default/deployments"
    await must(admin.post(deployments, deployment))
    await eventually(
        lambda: admin.get(f"{PODS}?labelSelector=app%3Dweb"),
        lambda answer: [pod["spec"].get("nodeName") for pod in answer.body["items"]] == ["roomy"] * 3,
    )
    await must(admin.request("DELETE", f"{deployments}/web?propagationPolicy=Background"), 200)
    await eventually(  # pods of a node without kubelet stay terminating
        lambda: admin.get(f"{PODS}?labelSelector=app%3Dweb"),
        lambda answer: all("deletionTimestamp" in pod["metadata"] for pod in answer.body["items"]),
    )


async def test_fault_proxy_stands_before_the_real_server(cluster: ControlPlane) -> None:
    async with FaultProxy(cluster.url, listen(), entropy=SeededEntropy(1), ca_file=cluster.ca_file) as proxy:
        client = JsonClient(proxy.url, token=cluster.admin_token)
        proxy.inject(Refuse(429, retry_after_s=1), Requests(count=1))
        assert (await client.post(CONFIG_MAPS, config_map("refused"))).status == 429
        proxy.inject(DropReply(), Requests(methods=frozenset({"POST"}), count=1))
        assert (await client.post(CONFIG_MAPS, config_map("unknown-outcome"))).status == 0
        assert (await client.get(f"{CONFIG_MAPS}/unknown-outcome")).status == 200
        assert (await client.get(f"{CONFIG_MAPS}/refused")).status == 404
