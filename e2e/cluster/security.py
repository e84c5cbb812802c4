"""Puts Nephila's kinds, roles and admission policies on a cluster, and hands out the tokens that its programs would have there.

The tokens are real ones: asked for with TokenRequest and bound to a pod on a node, as the kubelet does for a projected volume.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from crds.generate import objects
from crds.policies import AGENT, LEADER, NAMESPACE
from crds.roles import RULES, cluster_role, webhook_roles
from crds.webhooks import configurations
from e2e.cluster.client import Answer, JsonClient
from e2e.cluster.program import ClusterFailed

RBAC = "/apis/rbac.authorization.k8s.io/v1"
SERVED_S, IN_FORCE_S = 20.0, 20.0
SECRET = "nephila-webhook"
# Applied, not created: the server holds a first POST to a new kind back for 2 s.
APPLY = "fieldManager=nephila-security&force=true"
_PATHS = {
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "ValidatingAdmissionPolicy": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
    "Role": f"{RBAC}/namespaces/{NAMESPACE}/roles",
    "RoleBinding": f"{RBAC}/namespaces/{NAMESPACE}/rolebindings",
    "MutatingWebhookConfiguration": "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
    "Secret": f"/api/v1/namespaces/{NAMESPACE}/secrets",
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "ServiceAccount": f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts",
    "Pod": f"/api/v1/namespaces/{NAMESPACE}/pods",
}


async def apply(admin: JsonClient, document: Mapping[str, Any]) -> None:
    """Server-side apply. Raises ClusterFailed."""
    name = document["metadata"]["name"]
    path = f"{_PATHS[document['kind']]}/{name}?{APPLY}"
    answer = await admin.request("PATCH", path, document, content_type="application/apply-patch+yaml")
    if answer.status not in (200, 201):
        raise ClusterFailed(f"{document['kind']} {name} was refused: {answer.status} {answer.message}")


async def install(
    admin: JsonClient, *, policies: tuple[str, ...] = ("ipblocks", "ipnodes", "leaderlocks", "spiderendpoints")
) -> None:
    """Kinds, accounts, roles and the named policies; returns when all of them are in force. Raises ClusterFailed."""
    found = {str(path.with_suffix("")): documents for path, documents in objects().items()}
    wanted = [name for name in found if "/" not in name] + [f"policies/{name}" for name in policies]
    await apply(admin, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for account in RULES:
        await apply(admin, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}})
        await apply(admin, cluster_role(account))
        await bind(admin, account, account)
    for name in wanted:
        for document in found[name]:
            await apply(admin, document)
    await _until_served(admin)


async def bind(admin: JsonClient, role: str, account: str) -> None:
    """Gives a ClusterRole to one of our accounts."""
    await apply(
        admin,
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"{role}.{account}"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
        },
    )


async def install_webhook(admin: JsonClient, url: str, policy: str) -> None:
    """What the chart installs where the webhook is on, but reached at `url`: the empty Secret, the leader's rights to it, two configurations."""
    await apply(admin, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "type": "Opaque"})
    for role in webhook_roles():
        await apply(admin, role)
        binding = {
            "apiVersion": role["apiVersion"],
            "kind": f"{role['kind']}Binding",
            "metadata": role["metadata"],
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": role["kind"],
                "name": role["metadata"]["name"],
            },
            "subjects": [{"kind": "ServiceAccount", "name": LEADER, "namespace": NAMESPACE}],
        }
        await apply(admin, binding)
    for document in configurations().values():
        (webhook,) = document["webhooks"]
        path = webhook["clientConfig"]["service"]["path"]
        reached = {**webhook, "clientConfig": {"url": f"{url}{path}"}, "failurePolicy": policy}
        await apply(admin, {**document, "webhooks": [reached]})


async def join(admin: JsonClient, node: str) -> str:
    """A Node, an agent's pod on it, and that pod's token."""
    await apply(admin, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{AGENT}-{node}"},
        "spec": {
            "nodeName": node,
            "serviceAccountName": AGENT,
            "containers": [{"name": "agent", "image": "k8s.local/pause:1"}],
        },
    }
    await apply(admin, pod)
    return await token(admin, AGENT, pod=f"{AGENT}-{node}")


async def token(admin: JsonClient, account: str, *, pod: str = "") -> str:
    """A token of one of our accounts, bound to a pod if one is named. Raises ClusterFailed."""
    spec: dict[str, object] = {"expirationSeconds": 3600}
    if pod:
        spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod}
    answer = await admin.post(
        f"{_PATHS['ServiceAccount']}/{account}/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
    )
    if answer.status != 201:
        raise ClusterFailed(f"no token for {account}: {answer.status} {answer.message}")
    return str(answer.body["status"]["token"])


async def leader_token(admin: JsonClient) -> str:
    return await token(admin, LEADER)


async def until_enforced(agent: JsonClient, path: str, body: Mapping[str, Any]) -> None:
    """Returns when a write that only a policy forbids is refused by it; policies come into force a moment after they exist."""
    async with asyncio.timeout(IN_FORCE_S):
        while True:
            if is_by_policy(await agent.post(f"{path}?dryRun=All", body)):
                return
            await asyncio.sleep(0.05)


def is_by_policy(answer: Answer) -> bool:
    return answer.status in (403, 422) and "ValidatingAdmissionPolicy" in answer.message


async def _until_served(admin: JsonClient) -> None:
    paths = ["/apis/nephila.io/v1alpha1/ipblocks", "/apis/spiderpool.spidernet.io/v2beta1/spiderendpoints"]
    async with asyncio.timeout(SERVED_S):
        while paths:
            if (await admin.get(paths[0])).status == 200:
                del paths[0]
            else:
                await asyncio.sleep(0.05)
