"""A whole cluster with real nodes: control plane, segment, relays, nodes.

    async with RealCluster(nodes=3) as cluster:
        ... cluster.plane, cluster.nodes["node-1"], cluster.api ...

Every wait is bounded. After `stop` no process, mount, cgroup, namespace or file is left, and no setting of the machine was changed.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from e2e.cluster.binaries import Binaries, ensure
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.nodes import cgroups, images, node, settings, underlay
from e2e.cluster.nodes.kube import Kube
from e2e.cluster.nodes.node import Node
from e2e.cluster.program import ClusterFailed, Program
from e2e.cluster.workdir import WorkDir, write_private
from e2e.lab import fabric, netns

READY_TIMEOUT_S = 60.0
REMOVAL_TIMEOUT_S = 60.0
NEEDED = ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "nsenter", "unshare", "setpriv")


class _Plane(ControlPlane):
    """Its API server reaches kubelets and pods through `egress`, for their segment is not the machine's."""

    def __init__(self, binaries: Binaries, egress: Path) -> None:
        super().__init__(binaries)
        self._egress = egress

    def _prepare(self) -> None:
        super()._prepare()
        file = write_private(self.layout.folder / "egress.json", settings.egress(self._egress))
        known = self._programs["kube-apiserver"]
        command = [*known._command, f"--egress-selector-config-file={file}"]
        self._programs["kube-apiserver"] = Program(known.name, command, known.log)


class RealCluster:
    """`nodes` nodes named node-1, node-2, …; each a `Node` that tests may disturb."""

    def __init__(self, nodes: int = 3, binaries: Binaries | None = None) -> None:
        self.net = underlay.plan(nodes)
        self.nodes: dict[str, Node] = {}
        self.timings_s: dict[str, float] = {}
        self._binaries = binaries or ensure()
        self._work: WorkDir | None = None
        self._plane: _Plane | None = None
        self._relays: list[Program] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def plane(self) -> ControlPlane:
        if self._plane is None:
            raise ClusterFailed("the cluster is not started")
        return self._plane

    @property
    def folder(self) -> Path:
        if self._work is None:
            raise ClusterFailed("the cluster is not started")
        return self._work.path

    @property
    def api(self) -> Kube:
        return Kube(self.plane.client())

    async def start(self) -> None:
        """Returns when every node is Ready. Raises ClusterFailed, FabricError or OSError; then nothing is left."""
        check_machine()
        begun = time.monotonic()
        try:
            await asyncio.to_thread(sweep)
            self._work = WorkDir()
            await asyncio.to_thread(underlay.build, self.net)
            self._note("fabric", begun)
            self._plane = _Plane(self._binaries, self.folder / "egress.sock")
            await self._start_egress()
            await self._plane.start()
            self._note("control plane", begun)
            await self._start_relay()
            await self._start_nodes()
            self._note("nodes", begun)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Every part is ended even if another refuses; may be called twice."""
        work, self._work = self._work, None
        plane, self._plane = self._plane, None
        async with AsyncExitStack() as stack:  # last in, first out
            if work is not None:
                stack.callback(work.remove)
            stack.push_async_callback(asyncio.to_thread, fabric.destroy, self.net.prefix)
            if plane is not None:
                stack.push_async_callback(plane.stop)
            for relay in self._relays:
                stack.push_async_callback(relay.kill)
            removals = [asyncio.create_task(one.stop()) for one in self.nodes.values()]
            for removal in removals:
                stack.push_async_callback(asyncio.wait_for, removal, REMOVAL_TIMEOUT_S)
        self.nodes, self._relays = {}, []

    async def ready(self, names: list[str] | None = None, *, timeout_s: float = READY_TIMEOUT_S) -> float:
        """Returns the seconds until those nodes (all, unless named) are Ready. Raises ClusterFailed."""
        wanted = set(names or self.nodes)
        begun = time.monotonic()
        while True:
            missing = wanted - await self.api.ready_nodes()
            if not missing:
                return time.monotonic() - begun
            for name in wanted:
                if self.nodes[name].kubelet.pid is None:
                    raise ClusterFailed(f"kubelet of {name} ended\n{self.nodes[name].kubelet.tail()}")
            if time.monotonic() - begun > timeout_s:
                tails = "\n".join(self.nodes[name].kubelet.tail() for name in missing)
                raise ClusterFailed(f"not Ready after {timeout_s:.0f} s: {sorted(missing)}\n{tails}")
            await asyncio.sleep(0.1)

    def leftovers(self) -> list[str]:
        """What a stopped cluster should not have left."""
        prefix = self.net.prefix
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if prefix in line]
        return fabric.leftovers(prefix) + [f"cgroup {name}" for name in cgroups.names(f"{prefix}-")] + mounts

    async def _start_nodes(self) -> None:
        archive = images.write_archive(self.folder / "images.tar")
        for name in self.net.nodes:
            facts = node.Facts(
                name=name,
                folder=self.folder / name,
                namespace=self.net.node_ns(name),
                address=underlay.node_address(name),
                cgroup=f"{self.net.prefix}-{name}",
                kubelet=self._binaries.path("kubelet"),
                kubeconfig=self.plane.node_kubeconfig(name),
                ca_file=self.plane.ca_file,
                archives=(archive,),
                network=underlay.floor_network(name),
            )
            self.nodes[name] = node.make(facts)
        await asyncio.gather(*(one.start() for one in self.nodes.values()))
        await self.ready()

    async def _start_egress(self) -> None:
        enter = ["nsenter", f"--net={netns.path_of(self.net.gateway_ns)}"]
        await self._start_relay_program("egress", enter, ["egress", str(self.folder / "egress.sock")])

    async def _start_relay(self) -> None:
        namespaces = [self.net.gateway_ns, *map(self.net.node_ns, self.net.nodes)]
        await self._start_relay_program("api", [], ["api", str(self.plane.layout.ports.apiserver), *namespaces])

    async def _start_relay_program(self, name: str, enter: list[str], arguments: list[str]) -> None:
        command = [*enter, sys.executable, "-m", "e2e.cluster.nodes.relay", *arguments]
        program = Program(f"relay {name}", command, self.folder / f"relay-{name}.log")
        self._relays.append(program)
        program.start()

        async def missing() -> str:
            return "" if "ready" in program.log.read_text() else "its listeners"

        await program.wait_until(missing, timeout_s=20.0)

    def _note(self, stage: str, begun: float) -> None:
        self.timings_s[stage] = time.monotonic() - begun


def check_machine() -> None:
    """Raises ClusterFailed naming the programs that are missing and the fix."""
    command = ["sh", "-c", 'for name; do command -v "$name" >/dev/null || echo "$name"; done', "sh", *NEEDED]
    missing = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    if missing:
        raise ClusterFailed(f"not installed: {', '.join(missing)}; run tools/bootstrap nodes")


def sweep() -> None:
    """Removes the namespaces and cgroups of runs that were killed; their processes died with them, their folders go by WorkDir."""
    for prefix in underlay.sweep():
        for name in cgroups.names(f"{prefix}-"):
            cgroups.remove(name)
