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

from e2e.cluster.faults import FaultProxy
from e2e.lab import agents, fabric, netns, networks, page, plugins, traces
from e2e.lab.api import Api
from e2e.lab.apiserver import ApiServer
from e2e.lab.cluster_model import Cluster
from e2e.lab.kubelet import Kubelet
from e2e.lab.ledger import Ledger
from e2e.lab.objects import Key, Object, load_manifests
from e2e.lab.realserver import RealServer
from e2e.lab.runtime import Attachment
from e2e.lab.servers import Server, ServerName

HOME = Path("/run/nephila-lab")
MANIFESTS = Path(__file__).with_name("manifests")
CONFLIST = "underlay.conflist"  # the network of eth0; a folder of manifests may bring its own
RACKS = ("a", "b", "c")
CANDIDATES = 2  # nodes on which agents start a leader: the first ones


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build."""

    nodes: int = 3
    agent_command: Sequence[str] = agents.AGENT_COMMAND
    settings: agents.Settings = field(default_factory=agents.Settings)
    server: ServerName = "embedded"
    manifests: Path = MANIFESTS


@dataclass(slots=True)
class Lab:
    """A lab that stands."""

    prefix: str
    run_dir: Path
    fabric: fabric.Fabric
    server: Server
    api: Api
    proxies: dict[str, FaultProxy]
    agents: dict[str, agents.Agent]
    cluster: Cluster
    ledger: Ledger

    page: str
    """Where the leader's page can be looked at."""
    traces: frozenset[str]
    """The network namespaces of the nodes, for what stays in the kernel under their numbers."""
    dead: set[str] = field(default_factory=set)
    """Nodes that a scenario has powered off: what their journals say holds nothing."""

    @property
    def times(self) -> Path:
        return self.run_dir / "shim-times"

    def journals(self) -> dict[str, Path]:
        """Node → the SQLite file of its agent."""
        return {
            node: agent.directory / "state" / "journal.db"
            for node, agent in self.agents.items()
            if node not in self.dead
        }

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
    server: Server = ApiServer(run_dir) if plan.server == "embedded" else RealServer()
    stack.push_async_callback(server.stop)
    starting = asyncio.create_task(server.start())
    try:
        await asyncio.to_thread(fabric.build, layout)
        await asyncio.to_thread(plugins.install, run_dir / "cni")
    finally:
        await starting
    api = await stack.enter_async_context(server.api("nephila-lab/kubelet"))
    proxies = {node: await _proxy(layout, node, server, stack) for node in layout.nodes}
    crew = {}
    for index, node in enumerate(layout.nodes):
        access = await server.join(node, labels_of(index), run_dir)
        crew[node] = agents.make(layout, node, run_dir, run_dir / "cni", plan.agent_command, access, plan.settings)
    stack.push_async_callback(_stop_all, tuple(crew.values()))
    ledger = Ledger()
    cluster = Cluster(api)
    _add_kubelets(cluster, layout, crew, api, ledger, plan.manifests)
    await agents.start_all(list(crew.values()))
    await stack.enter_async_context(cluster)
    await stack.enter_async_context(server.machinery(cluster))
    owners = traces.inodes(map(layout.node_ns, layout.nodes))
    looked_at = await stack.enter_async_context(page.opened(api, layout.node_ns))
    return Lab(prefix, run_dir, layout, server, api, proxies, crew, cluster, ledger, looked_at, owners)


def labels_of(index: int) -> dict[str, str]:
    """Of the node with that number, from 0."""
    return {"rack": RACKS[index % len(RACKS)], **(agents.LEADER_LABEL if index < CANDIDATES else {})}


async def _stop_all(crew: Sequence[agents.Agent]) -> None:
    await asyncio.gather(*(agent.stop() for agent in crew))


async def _proxy(layout: fabric.Fabric, node: str, server: Server, stack: contextlib.AsyncExitStack) -> FaultProxy:
    listener = netns.listen_in(layout.node_ns(node), "127.0.0.1", agents.API_PORT)
    return await stack.enter_async_context(server.proxy(listener))


def _add_kubelets(
    cluster: Cluster,
    layout: fabric.Fabric,
    crew: Mapping[str, agents.Agent],
    api: Api,
    ledger: Ledger,
    folder: Path,
) -> None:
    own = folder / CONFLIST
    default = networks.load_conflist(own if own.exists() else MANIFESTS / CONFLIST)
    others: dict[Key, Object] = networks.definitions(load_manifests(folder))
    for node, agent in crew.items():

        def attachments(pod: Object, socket: Path = agent.socket) -> list[Attachment]:
            return networks.attachments(pod, default, others, socket)

        cluster.kubelets[node] = Kubelet(node, layout, agent.executor, api, ledger, attachments, agent.was_down)


def manifests(folder: Path = MANIFESTS) -> list[Object]:
    """What the lab's user applies; networks are not API objects here but files of the nodes."""
    return [thing for thing in load_manifests(folder) if thing["kind"] != "NetworkAttachmentDefinition"]


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
    found = fabric.end_processes(prefix)
    traces.remove(name for name in found if not name.startswith(fabric.plan(prefix, 1).pod_ns("")))
    fabric.destroy(prefix)
    shutil.rmtree(HOME / prefix, ignore_errors=True)
    with contextlib.suppress(OSError):  # other labs are there, or it is gone already
        HOME.rmdir()
