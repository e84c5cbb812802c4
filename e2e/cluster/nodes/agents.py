"""Nephila on real nodes as plain processes: the agent inside each node's namespaces, the binary put there by its installer.

The agent has the credentials that it would have as a DaemonSet's pod: its service account's token, which names the node; roles and
admission policies are in force. The leader is the agent's child, with its own account.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.nodes import manifests, settings
from e2e.cluster.nodes.kube import Kube
from e2e.cluster.nodes.labs import RealCluster
from e2e.cluster.nodes.manifests import AGENT, LEADER, NAMESPACE
from e2e.cluster.nodes.node import Node
from e2e.cluster.program import ClusterFailed, Program
from e2e.cluster.workdir import write_kubeconfig
from e2e.lab import plugins

ROOT = Path(__file__).resolve().parents[3]
READY_TIMEOUT_S = 30.0
TOKEN_LIFE_S = 86400
DEFAULT_POOL = "default"
SETTINGS: Mapping[str, object] = {"parent": settings.PARENT, "healthAddress": "127.0.0.1:5710"}


@dataclass(slots=True)
class Installation:
    """Nephila on every node of a cluster. `uninstall` is not needed before the cluster stops."""

    cluster: RealCluster
    settings: Mapping[str, object] = field(default_factory=dict)  # over the agent's
    leader_settings: Mapping[str, object] = field(default_factory=dict)
    _agents: dict[str, Program] = field(default_factory=dict)

    async def install(self) -> None:
        """CRDs, accounts, policies; binaries, agents; then Nephila is every node's network. Raises ClusterFailed."""
        shim = await asyncio.to_thread(plugins.build_shim)
        await prepare(self.cluster.api)
        await asyncio.gather(*(self._install_on(node, shim) for node in self.cluster.nodes.values()))
        self.use()

    def use(self) -> None:
        """Every node's next pod gets its address from Nephila."""
        for node in self.cluster.nodes.values():
            node.set_network(network())

    async def reconfigure(self, agent_settings: Mapping[str, object]) -> None:
        """Other settings over the agent's defaults, on every node, by a restart of each agent."""
        self.settings = agent_settings
        for node in self.cluster.nodes.values():
            await self._configure(node)
            await self._agents[node.name].kill()
            await self.start_agent(node)

    def agent(self, node: str) -> Program:
        return self._agents[node]

    async def start_agent(self, node: Node) -> float:
        """Starts it (anew) and returns the seconds until STATUS through the installed binary succeeds."""
        command = ["env", f"--chdir={ROOT}", sys.executable, "-m", "nodeagent", "--config", "/etc/nephila/agent.yaml"]
        program = self._agents[node.name] = node.program("agent", command)
        program.start()
        return await program.wait_until(lambda: status(node), timeout_s=READY_TIMEOUT_S)

    async def _install_on(self, node: Node, shim: Path) -> None:
        command = (sys.executable, "-m", "cni.install", "--bin-dir", settings.CNI_BIN, "--source", str(shim))
        code, said = await node.run("env", f"--chdir={ROOT}", *command)
        if code != 0:
            raise ClusterFailed(f"{node.name}: {said}")
        await self._configure(node)
        await self.start_agent(node)

    async def _configure(self, node: Node) -> None:
        folder = node.path("/etc/nephila")
        folder.mkdir(exist_ok=True)
        for account in (AGENT, LEADER):
            token = await node_token(self.cluster.api, account, node.name)
            write_kubeconfig(
                folder / f"{account}.kubeconfig",
                server=self.cluster.plane.url,
                ca_file=self.cluster.plane.ca_file,
                user={"token": token},
            )
        agent = {"node": node.name, **SETTINGS, "api": _api(AGENT), "leader": {"enabled": True}, **self.settings}
        (folder / "agent.yaml").write_text(yaml.safe_dump(agent, sort_keys=False))
        leader = {"node": node.name, "api": _api(LEADER), **self.leader_settings}
        (folder / "leader.yaml").write_text(yaml.safe_dump(leader, sort_keys=False))


async def prepare(api: Kube) -> None:
    """What the chart puts into the API server, and one default pool of 240 addresses."""
    for thing in (*manifests.definitions(), *manifests.accounts(), *manifests.policies()):
        await api.apply(thing)
    await api.apply(manifests.pool(DEFAULT_POOL, "10.6.1.1-10.6.1.240"))


async def node_token(api: Kube, account: str, node: str) -> str:
    """A token of the service account that names the node, as that of a pod on it does. Raises ClusterFailed."""
    uid = (await api.get(f"/api/v1/nodes/{node}"))["metadata"]["uid"]
    reference = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}
    body: dict[str, Any] = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
    body["spec"] = {"boundObjectRef": reference, "expirationSeconds": TOKEN_LIFE_S}
    answer = await api.client.post(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token", body)
    if answer.status != 201:
        raise ClusterFailed(f"no token for {account} on {node}: {answer.status} {answer.message}")
    return str(answer.body["status"]["token"])


def network() -> str:
    return settings.conflist("underlay", [settings.macvlan(settings.nephila([DEFAULT_POOL]))])


async def status(node: Node) -> str:
    """ "" if the STATUS verb through the installed binary succeeds, else what it said."""
    config = {"cniVersion": "1.1.0", "name": "underlay", "type": "nephila", "ipam": {"type": "nephila"}}
    script = f"echo '{json.dumps(config)}' | CNI_COMMAND=STATUS {settings.CNI_BIN}/nephila"
    code, said = await node.run("sh", "-c", script)
    return "" if code == 0 else said or f"exit status {code}"


def _api(account: str) -> dict[str, str]:
    return {"kubeconfig": f"/etc/nephila/{account}.kubeconfig"}
