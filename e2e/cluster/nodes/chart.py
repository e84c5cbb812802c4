"""Nephila on real nodes as its users install it: the image in each node's containerd, the chart installed by Helm's own engine."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.cluster.client import MERGE_PATCH
from e2e.cluster.nodes import agents, manifests, settings
from e2e.cluster.nodes.kube import Object
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
ENGINE = Path(__file__).with_name("helmengine.py")
HELM_TIMEOUT_S = 180.0


@dataclass(slots=True)
class ChartInstallation:
    """`agent_settings`, `leader_settings`, `more` (values by section) go over what every test needs. Not uninstalled: the cluster ends as a whole."""

    cluster: RealCluster
    agent_settings: Mapping[str, object] = field(default_factory=dict)
    leader_settings: Mapping[str, object] = field(default_factory=dict)
    more: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)
    notes: str = ""  # what Helm prints after an installation

    async def install(self) -> None:
        """Returns when the agents are Ready on every node, a leader is there, and Nephila is every node's network. Raises ClusterFailed."""
        begun = time.monotonic()
        values = self.values(image_name())
        await asyncio.gather(*(node.import_image(IMAGE) for node in self.cluster.nodes.values()))
        self.timings_s["image"] = time.monotonic() - begun
        self.notes = (await self._helm("install", values=values))["notes"]
        await self.cluster.api.apply(manifests.pool(agents.DEFAULT_POOL, "10.6.1.1-10.6.1.240"))
        await self.rolled_out()
        self.timings_s["ready"] = time.monotonic() - begun
        self.use()

    async def upgrade(self, more: Mapping[str, Mapping[str, object]]) -> None:
        """`helm upgrade` with other values in `more`. Returns when the API server has the objects, before pods follow. Raises ClusterFailed."""
        self.more = more
        await self._helm("upgrade", values=self.values(image_name()))

    async def test(self) -> str:
        """`helm test`; what its pod said. Raises ClusterFailed with Helm's words if it failed."""
        return (await self._helm("test", timeout_s=int(HELM_TIMEOUT_S) - 30))["logs"]

    async def _helm(self, action: str, **more: object) -> dict[str, str]:
        subject = {"chart": str(CHART), "name": RELEASE, "namespace": NAMESPACE}
        given = {"action": action, "kubeconfig": str(self.cluster.plane.kubeconfig), **subject, **more}
        return await asyncio.to_thread(_run_helm, json.dumps(given))

    def use(self) -> None:
        for node in self.cluster.nodes.values():
            node.set_network(agents.network())

    def values(self, image: str) -> dict[str, Any]:
        repository, _, tag = image.rpartition(":")
        base: dict[str, dict[str, Any]] = {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "agent": {"settings": {"parent": settings.PARENT, **self.agent_settings}},
            # Leaders are on the nodes' network: two of one node would want one port.
            "leader": {"settings": dict(self.leader_settings), "replicas": min(2, len(self.cluster.nodes))},
        }
        return base | {section: base.get(section, {}) | dict(values) for section, values in self.more.items()}

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
        answer = await self.cluster.api.client.request("PATCH", AGENTS, change, content_type=MERGE_PATCH)
        if answer.status != 200:
            raise ClusterFailed(f"rolling update refused: {answer.status} {answer.message}")
        return await self.rolled_out()

    async def agents_gone(self) -> None:
        """Until no agent's pod is left, where values have sent them away. Raises ClusterFailed."""
        begun = time.monotonic()
        while (await self.cluster.api.get(AGENT_PODS))["items"]:
            if time.monotonic() - begun > READY_TIMEOUT_S:
                raise ClusterFailed(f"agents still there after {READY_TIMEOUT_S:.0f} s\n{await self._explain()}")
            await asyncio.sleep(0.2)

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


def _run_helm(given: str) -> dict[str, str]:
    """Raises ClusterFailed with Helm's words."""
    subprocess.run([ROOT / "tools" / "chartvenv"], check=True, timeout=600)
    done = subprocess.run(
        [HELM_PYTHON, ENGINE], input=given, capture_output=True, text=True, timeout=HELM_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise ClusterFailed(f"helm: {done.stderr[-4000:]}")
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


def image_name() -> str:
    """The name inside the archive that `tools/image build` made. Raises ClusterFailed if there is none."""
    if not IMAGE.exists():
        raise ClusterFailed(f"{IMAGE} is missing; run tools/image build")
    command = ["tar", "--extract", "--to-stdout", f"--file={IMAGE}", "index.json"]
    index = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    return str(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"])


def _all_new(workload: Object, ready: str, wanted: int) -> bool:
    status = workload.get("status", {})
    updated = status.get("updatedNumberScheduled", status.get("updatedReplicas", 0))
    seen = status.get("observedGeneration") == workload["metadata"]["generation"]
    return bool(seen and updated == wanted and status.get(ready, 0) == wanted)
