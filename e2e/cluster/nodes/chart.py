"""Nephila on real nodes as its users install it: the image in each node's containerd, the chart's rendered manifests in the API server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.cluster.nodes import agents, manifests, settings
from e2e.cluster.nodes.kube import Object, path_of
from e2e.cluster.nodes.labs import RealCluster
from e2e.cluster.nodes.manifests import NAMESPACE
from e2e.cluster.program import ClusterFailed

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm" / "nephila"
IMAGE = ROOT / "build" / "nephila.tar"
HELM_PYTHON = ROOT / ".venv-chart" / "bin" / "python"
RELEASE = "nephila"
READY_TIMEOUT_S = 120.0
AGENT_PORT = 9807  # the chart's default
AGENT_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app.kubernetes.io%2Fcomponent%3Dagent"
LEADER_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app.kubernetes.io%2Fcomponent%3Dleader"
AGENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/nephila-agent"
LEADERS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/nephila-leader"
_RENDER = """
import json, sys, yaml, helm_python as helm
given = json.load(sys.stdin)
with helm.Chart.load(given["chart"]) as chart:
    texts = chart.render(given["values"], name=given["name"], namespace=given["namespace"])
names = [name for name in sorted(texts) if name.endswith(".yaml")]
json.dump([thing for name in names for thing in yaml.safe_load_all(texts[name]) if thing], sys.stdout)
"""


@dataclass(slots=True)
class ChartInstallation:
    """`values` go over those that every test needs. Not uninstalled: the cluster ends as a whole."""

    cluster: RealCluster
    agent_settings: Mapping[str, object] = field(default_factory=dict)
    leader_settings: Mapping[str, object] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)

    async def install(self) -> None:
        """Returns when the agents are Ready on every node, a leader is there, and Nephila is every node's network. Raises ClusterFailed."""
        begun = time.monotonic()
        name = image_name()
        await asyncio.gather(*(node.import_image(IMAGE) for node in self.cluster.nodes.values()))
        self.timings_s["image"] = time.monotonic() - begun
        objects = await asyncio.to_thread(render, self.values(name))
        await self.cluster.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        for thing in sorted(objects, key=_first_what_others_need):
            await self.cluster.api.apply(thing)
        await self.cluster.api.apply(manifests.pool(agents.DEFAULT_POOL, "10.6.1.1-10.6.1.240"))
        await self.rolled_out()
        self.timings_s["ready"] = time.monotonic() - begun
        self.use()

    def use(self) -> None:
        for node in self.cluster.nodes.values():
            node.set_network(agents.network())

    def values(self, image: str) -> dict[str, Any]:
        repository, _, tag = image.rpartition(":")
        return {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "agent": {"settings": {"parent": settings.PARENT, **self.agent_settings}},
            # Leaders are on the nodes' network: two of one node would want one port.
            "leader": {"settings": dict(self.leader_settings), "replicas": min(2, len(self.cluster.nodes))},
        }

    async def rolled_out(self, *, timeout_s: float = READY_TIMEOUT_S) -> float:
        """Until every agent and leader is of the newest template and Ready; the seconds it took. Raises ClusterFailed."""
        begun = time.monotonic()
        while True:
            agent, leader = await self.cluster.api.get(AGENTS), await self.cluster.api.get(LEADERS)
            if _all_new(agent, "numberReady", len(self.cluster.nodes)) and _all_new(
                leader, "readyReplicas", leader["spec"]["replicas"]
            ):
                return time.monotonic() - begun
            if time.monotonic() - begun > timeout_s:
                raise ClusterFailed(f"not rolled out after {timeout_s:.0f} s\n{await self._explain()}")
            await asyncio.sleep(0.2)

    async def restart_agents(self) -> float:
        """A rolling update that changes nothing but the template's mark; the seconds it took."""
        mark = {"nephila.io/restarted": str(time.time_ns())}
        change = {"spec": {"template": {"metadata": {"annotations": mark}}}}
        kind = "application/merge-patch+json"
        answer = await self.cluster.api.client.request("PATCH", AGENTS, change, content_type=kind)
        if answer.status != 200:
            raise ClusterFailed(f"rolling update refused: {answer.status} {answer.message}")
        return await self.rolled_out()

    async def agent_restarts(self) -> dict[str, int]:
        """How often kubelet restarted the agent's container, by node: a change tells of a restart, a missing node of a missing pod."""
        pods = (await self.cluster.api.get(AGENT_PODS))["items"]
        return {pod["spec"]["nodeName"]: int(pod["status"]["containerStatuses"][0]["restartCount"]) for pod in pods}

    async def kill_agent(self, node: str) -> None:
        """SIGKILL of the agent's container; kubelet is to start another. Raises ClusterFailed."""
        pods = (await self.cluster.api.get(AGENT_PODS))["items"]
        [status] = [pod["status"]["containerStatuses"][0] for pod in pods if pod["spec"]["nodeName"] == node]
        container = str(status["containerID"]).rpartition("/")[2]
        command = ["ctr", "-a", settings.CONTAINERD_SOCKET, "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", container]
        code, said = await self.cluster.nodes[node].run(*command)
        if code != 0:
            raise ClusterFailed(f"agent of {node}: {said}")
        await self._until_seen(node, str(status["containerID"]))

    async def _until_seen(self, node: str, old: str) -> None:
        """Until kubelet has reported that the container is another one."""
        begun = time.monotonic()
        while time.monotonic() - begun < READY_TIMEOUT_S:
            pods = (await self.cluster.api.get(AGENT_PODS))["items"]
            [status] = [pod["status"]["containerStatuses"][0] for pod in pods if pod["spec"]["nodeName"] == node]
            if status.get("containerID") != old or not status["ready"]:
                return
            await asyncio.sleep(0.1)
        raise ClusterFailed(f"kubelet of {node} did not see its agent end")

    async def _explain(self) -> str:
        pods = (await self.cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/pods"))["items"]
        states = [json.dumps(pod["status"].get("containerStatuses", pod["status"]))[:600] for pod in pods]
        events = (await self.cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/events"))["items"]
        warnings = [str(event["message"]) for event in events if event.get("type") == "Warning"]
        return "\n".join([*states, "newest warnings:", *warnings[-10:]])


def render(values: Mapping[str, object]) -> list[Object]:
    """The chart's objects without its test hooks. Raises ClusterFailed with helm's words."""
    if not HELM_PYTHON.exists():
        subprocess.run([ROOT / "tools" / "chartvenv"], check=True, timeout=600)
    given = {"chart": str(CHART), "values": values, "name": RELEASE, "namespace": NAMESPACE}
    done = subprocess.run(
        [HELM_PYTHON, "-c", _RENDER], input=json.dumps(given), capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        raise ClusterFailed(f"the chart did not render: {done.stderr[-2000:]}")
    objects: list[Object] = json.loads(done.stdout)
    return [thing for thing in objects if "helm.sh/hook" not in thing["metadata"].get("annotations", {})]


def image_name() -> str:
    """The name inside the archive that `tools/image build` made. Raises ClusterFailed if there is none."""
    if not IMAGE.exists():
        raise ClusterFailed(f"{IMAGE} is missing; run tools/image build")
    command = ["tar", "--extract", "--to-stdout", f"--file={IMAGE}", "index.json"]
    index = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    return str(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"])


_ORDER: Sequence[str] = ("CustomResourceDefinition", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap")


def _first_what_others_need(thing: Object) -> tuple[int, str]:
    kind = str(thing["kind"])
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER), path_of(thing))


def _all_new(workload: Object, ready: str, wanted: int) -> bool:
    status = workload.get("status", {})
    updated = status.get("updatedNumberScheduled", status.get("updatedReplicas", 0))
    seen = status.get("observedGeneration") == workload["metadata"]["generation"]
    return bool(seen and updated == wanted and status.get(ready, 0) == wanted)
