"""Objects that the tests give to the API server: pure builders, and Nephila's own kinds, roles and policies from `crds/yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.nodes.images import BUSYBOX_IMAGE, IDLE
from e2e.lab.fabric import GATEWAY_V4, SUBNET_V4

Object = dict[str, Any]
CRDS = Path(__file__).resolve().parents[3] / "crds" / "yaml"
NAMESPACE, AGENT, LEADER = "nephila-system", "nephila-agent", "nephila-leader"
# The other form of this policy is for API servers that cannot compile this one.
_ALTERNATIVES = {"ipblocks-vacant.yaml"}
GRACE_S = 1
SERVE = "mkdir -p /www; hostname >/www/index.html; httpd -p 80 -h /www; trap 'exit 0' TERM; sleep 2147483647 & wait"


def definitions() -> list[Object]:
    return [thing for file in sorted(CRDS.glob("*.yaml")) for thing in _load(file)]


def policies() -> list[Object]:
    files = [file for file in sorted((CRDS / "policies").glob("*.yaml")) if file.name not in _ALTERNATIVES]
    return [thing for file in files for thing in _load(file)]


def accounts() -> list[Object]:
    """The namespace, both service accounts and what they may do: as the chart makes them."""
    found: list[Object] = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}]
    for name in (AGENT, LEADER):
        meta = {"name": name, "namespace": NAMESPACE}
        found.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    found += [thing for file in sorted((CRDS / "roles").glob("*.yaml")) for thing in _load(file)]
    return found + [_binding(thing) for thing in found if thing["kind"] == "ClusterRole"]


def pool(name: str, ips: str, **spec: object) -> Object:
    meta = {"name": name}
    ranges = {"subnet": SUBNET_V4, "gateway": GATEWAY_V4, "ips": [ips]}
    version = "spiderpool.spidernet.io/v2beta1"
    return {"apiVersion": version, "kind": "SpiderIPPool", "metadata": meta, "spec": ranges | spec}


def pod_template(app: str, *, pools: Sequence[str] = (), command: Sequence[str] = IDLE, **spec: object) -> Object:
    """With `pools` the pod asks for them by Spiderpool's annotation; else the node's conflist decides."""
    container: Object = {"name": "main", "image": BUSYBOX_IMAGE, "imagePullPolicy": "Never", "command": list(command)}
    metadata: Object = {"labels": {"app": app}}
    if pools:
        names = ", ".join(f'"{name}"' for name in pools)
        metadata["annotations"] = {"ipam.spidernet.io/ippool": f'{{"ipv4": [{names}]}}'}
    base = {"terminationGracePeriodSeconds": GRACE_S, "automountServiceAccountToken": False, "containers": [container]}
    return {"metadata": metadata, "spec": base | spec}


def workload(kind: str, app: str, replicas: int, template: Mapping[str, object], **spec: object) -> Object:
    """A Deployment or StatefulSet."""
    base: Object = {"replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app}, "spec": base | spec}


def stateful_set(app: str, replicas: int, template: Mapping[str, object]) -> Object:
    return workload("StatefulSet", app, replicas, template, serviceName=app, podManagementPolicy="Parallel")


def job(app: str, completions: int, template: Mapping[str, Any]) -> Object:
    template = {**template, "spec": {**template["spec"], "restartPolicy": "Never"}}
    spec = {"completions": completions, "parallelism": completions, "backoffLimit": 0, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": app}, "spec": spec}


def _binding(role: Mapping[str, Any]) -> Object:
    """Each role is named as the account that has it."""
    name = role["metadata"]["name"]
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
    }


def _load(file: Path) -> list[Object]:
    return [thing for thing in yaml.safe_load_all(file.read_text()) if thing]
