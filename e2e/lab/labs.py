"""Puts a lab together and takes it apart: fabric, API server, agents, and the cluster that the lab plays.

Whatever happens in between, leaving the context removes every process, namespace and file that it made. A lab that was killed with SIGKILL
is removed by the next one (`sweep`).
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adapters.entropy import SystemEntropy
from e2e.cluster.faults import FaultProxy
from e2e.lab import agents, fabric, netns, networks, plugins
from e2e.lab.api import Api
from e2e.lab.apiserver import ApiServer
from e2e.lab.cluster_model import Cluster, node_object
from e2e.lab.kubelet import Kubelet
from e2e.lab.ledger import Ledger
from e2e.lab.objects import Key, Object, load_manifests
from e2e.lab.runtime import Attachment

HOME = Path("/run/nephila-lab")
MANIFESTS = Path(__file__).with_name("manifests")
RACKS = ("a", "b", "c")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build."""

    nodes: int = 3
    agent_command: Sequence[str] = agents.AGENT_COMMAND
    agent_settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class Lab:
    """A lab that stands."""

    prefix: str
    run_dir: Path
    fabric: fabric.Fabric
    server: ApiServer
    api: Api
    proxies: dict[str, FaultProxy]
    agents: dict[str, agents.Agent]
    cluster: Cluster
    ledger: Ledger

    @property
    def times(self) -> Path:
        return self.run_dir / "shim-times"

    def journals(self) -> dict[str, Path]:
        """Node → the SQLite file of its agent."""
        return {node: agent.directory / "state" / "journal.db" for node, agent in self.agents.items()}

    def save_logs(self, target: Path) -> None:
        """Copies all logs out of the run directory, for a run that failed."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for log in self.run_dir.rglob("*.log"):
            shutil.copy(log, target / "-".join(log.relative_to(self.run_dir).parts))


@contextlib.asynccontextmanager
async def build(plan: Plan) -> AsyncIterator[Lab]:
    """Raises FabricError, PluginsError, ApiServerError, AgentError or TimeoutError if a part does not come up; nothing is left then either."""
    sweep()
    prefix = f"nl{os.getpid()}"
    run_dir = HOME / prefix
    try:
        _claim(run_dir)
        with pidfds():
            async with contextlib.AsyncExitStack() as stack:
                yield await _assemble(plan, prefix, run_dir, stack)
    finally:
        _remove(prefix)


async def _assemble(plan: Plan, prefix: str, run_dir: Path, stack: contextlib.AsyncExitStack) -> Lab:
    layout = fabric.plan(prefix, plan.nodes)
    server = ApiServer(run_dir)
    stack.push_async_callback(server.stop)
    starting = asyncio.create_task(server.start())
    try:
        await asyncio.to_thread(fabric.build, layout)
        await asyncio.to_thread(plugins.install, run_dir / "cni")
    finally:
        await starting
    api = await stack.enter_async_context(Api(server.url, "nephila-lab/kubelet"))
    proxies = {node: await _proxy(layout, node, server, stack) for node in layout.nodes}
    for index, node in enumerate(layout.nodes):
        await api.apply(node_object(node, {"rack": RACKS[index % len(RACKS)]}))
    crew = {
        node: agents.make(layout, node, run_dir, run_dir / "cni", plan.agent_command, plan.agent_settings)
        for node in layout.nodes
    }
    for agent in crew.values():
        stack.push_async_callback(agent.stop)
    ledger = Ledger()
    cluster = Cluster(api)
    _add_kubelets(cluster, layout, crew, api, ledger)
    await agents.start_all(list(crew.values()))
    await stack.enter_async_context(cluster)
    return Lab(prefix, run_dir, layout, server, api, proxies, crew, cluster, ledger)


async def _proxy(layout: fabric.Fabric, node: str, server: ApiServer, stack: contextlib.AsyncExitStack) -> FaultProxy:
    listener = netns.listen_in(layout.node_ns(node), "127.0.0.1", agents.API_PORT)
    return await stack.enter_async_context(FaultProxy(server.url, listener, entropy=SystemEntropy()))


def _add_kubelets(
    cluster: Cluster, layout: fabric.Fabric, crew: Mapping[str, agents.Agent], api: Api, ledger: Ledger
) -> None:
    default = networks.load_conflist(MANIFESTS / "underlay.conflist")
    others: dict[Key, Object] = networks.definitions(load_manifests(MANIFESTS))
    for node, agent in crew.items():

        def attachments(pod: Object, socket: Path = agent.socket) -> list[Attachment]:
            return networks.attachments(pod, default, others, socket)

        cluster.kubelets[node] = Kubelet(node, layout, agent.executor, api, ledger, attachments, agent.was_down)


def manifests() -> list[Object]:
    """What the lab's user applies; networks are not API objects here but files of the nodes."""
    return [thing for thing in load_manifests(MANIFESTS) if thing["kind"] != "NetworkAttachmentDefinition"]


@contextlib.contextmanager
def pidfds() -> Iterator[None]:
    """asyncio's default watcher starts a thread for each child process; with thousands of children a pidfd is much cheaper."""
    before, watcher = asyncio.get_child_watcher(), asyncio.PidfdChildWatcher()
    watcher.attach_loop(asyncio.get_running_loop())
    asyncio.set_child_watcher(watcher)
    try:
        yield
    finally:
        asyncio.set_child_watcher(before)


def sweep() -> list[str]:
    """Removes labs whose owner is dead. Returns their prefixes."""
    removed = []
    for owner in HOME.glob("*/owner"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            claim = json.loads(owner.read_text())
            if birth_of(int(claim["pid"])) != claim["birth"]:
                _remove(owner.parent.name)
                removed.append(owner.parent.name)
    return removed


def _claim(run_dir: Path) -> None:
    HOME.mkdir(mode=0o700, parents=True, exist_ok=True)
    run_dir.mkdir(mode=0o700)
    (run_dir / "owner").write_text(json.dumps({"pid": os.getpid(), "birth": birth_of(os.getpid()), "argv": sys.argv}))


def birth_of(pid: int) -> str:
    """The start time of a process in clock ticks since boot (field 22 of stat), "" if there is none: tells a pid from its reuse."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return ""


def _remove(prefix: str) -> None:
    fabric.destroy(prefix)
    shutil.rmtree(HOME / prefix, ignore_errors=True)
    with contextlib.suppress(OSError):  # other labs are there, or it is gone already
        HOME.rmdir()
