"""Multus itself on real nodes: the thin plugin, built from its Go module, as each node's default network and with NetworkAttachmentDefinitions.

`multus-module/go.mod` pins it as a Go tool and `go.sum` is checked by Go. The result lies beside the control plane's (`binaries.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e.cluster import binaries
from e2e.cluster.nodes import settings
from e2e.cluster.nodes.kube import Kube
from e2e.cluster.nodes.labs import RealCluster
from e2e.cluster.nodes.node import Node
from e2e.cluster.program import ClusterFailed
from e2e.cluster.workdir import write_kubeconfig

SOURCE = Path(__file__).with_name("multus-module")
PACKAGE = "gopkg.in/k8snetworkplumbingwg/multus-cni.v4/cmd/multus"
NAMESPACE, ACCOUNT = "kube-system", "multus"
KUBECONFIG = "/etc/cni/net.d/multus.d/multus.kubeconfig"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
STATUS = "k8s.v1.cni.cncf.io/network-status"
_GROUP, _RBAC = "k8s.cni.cncf.io", "rbac.authorization.k8s.io"


def ensure() -> Path:
    """The plugin, built if this machine's cache lacks it. Raises BuildFailed."""
    go, version = binaries.find_go()
    digest = hashlib.sha256((SOURCE / "go.mod").read_bytes() + (SOURCE / "go.sum").read_bytes()).hexdigest()[:12]
    target = binaries.cache_folder() / "multus" / f"multus-{version}-{digest}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with binaries.locked(target.parent / ".lock"):
        binaries.go_build(go, SOURCE, PACKAGE, temporary, what=PACKAGE)
        temporary.rename(target)
    return target


async def install(cluster: RealCluster, plugin: Path, default: Mapping[str, Any]) -> None:
    """Its kind, account and role; then the plugin on every node, with `default` (a conflist) as the network of eth0. Raises ClusterFailed."""
    for thing in _objects():
        await cluster.api.apply(thing)
    token = await _token(cluster.api)
    for node in cluster.nodes.values():
        shutil.copy2(plugin, node.path(settings.CNI_BIN) / "multus")
        file = node.path(KUBECONFIG)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_kubeconfig(file, server=cluster.plane.url, ca_file=cluster.plane.ca_file, user={"token": token})
        use(node, default)


def use(node: Node, default: Mapping[str, Any]) -> None:
    """Every next pod of the node goes through Multus."""
    config = {
        "type": "multus",
        "kubeconfig": KUBECONFIG,
        "delegates": [default],
        "logLevel": "error",
        "logFile": "/var/log/multus.log",
    }
    node.set_network(settings.conflist("multus", [config]))


def definition(name: str, config: Mapping[str, Any], namespace: str = "default") -> dict[str, Any]:
    """A NetworkAttachmentDefinition."""
    meta = {"name": name, "namespace": namespace}
    spec = {"config": json.dumps({"cniVersion": "1.0.0", "name": name, **config})}
    return {"apiVersion": f"{_GROUP}/v1", "kind": "NetworkAttachmentDefinition", "metadata": meta, "spec": spec}


def _objects() -> list[dict[str, Any]]:
    """What Multus' own manifest installs, without its DaemonSet."""
    plural = "network-attachment-definitions"
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {"config": {"type": "string"}}}},
    }
    names = {"plural": plural, "singular": plural[:-1], "kind": "NetworkAttachmentDefinition"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    rules = [
        {"apiGroups": [_GROUP], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["get", "update"]},
        {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]},
    ]
    account = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
    role = {"apiGroup": _RBAC, "kind": "ClusterRole", "name": ACCOUNT}
    return [
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{_GROUP}"},
            "spec": {"group": _GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
        },
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": NAMESPACE}},
        {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": ACCOUNT}, "rules": rules},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": ACCOUNT},
            "roleRef": role,
            "subjects": [account],
        },
    ]


async def _token(api: Kube) -> str:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
    answer = await api.client.post(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}/token", body)
    if answer.status != 201:
        raise ClusterFailed(f"no token for {ACCOUNT}: {answer.status} {answer.message}")
    return str(answer.body["status"]["token"])
