"""One node: namespaces, containerd and kubelet, each of which may be killed and started again."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cluster.nodes import cgroups, settings
from e2e.cluster.program import ClusterFailed, Program, run_to_end
from e2e.lab import netns

INIT = Path(__file__).with_name("node-init.sh")
BOOT_TIMEOUT_S = 20.0
RUNTIME_TIMEOUT_S = 30.0
END_TIMEOUT_S = 15.0
CONFLIST = "10-underlay.conflist"
DISTRIBUTION = Path("/usr/lib/cni")
PLUGINS = ("macvlan", "host-local", "loopback", "tuning")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a node is made of; fixed for its life."""

    name: str
    folder: Path
    namespace: str
    address: str
    cgroup: str
    kubelet: Path
    kubeconfig: Path
    ca_file: Path
    archives: tuple[Path, ...]
    network: str  # the conflist that it boots with


@dataclass(slots=True)
class Node:
    """Call everything from the main thread (see `Program`). After `stop` no process and no cgroup of it is left."""

    facts: Facts
    timings_s: dict[str, float] = field(default_factory=dict)
    _init: Program | None = None
    _init_pid: int = 0
    _programs: dict[str, Program] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def init_pid(self) -> int:
        """The node's first process, seen from the machine; 0 if the node is down."""
        return self._init_pid if self._init_pid and Path(f"/proc/{self._init_pid}").exists() else 0

    @property
    def containerd(self) -> Program:
        return self._programs["containerd"]

    @property
    def kubelet(self) -> Program:
        return self._programs["kubelet"]

    def path(self, inside: str) -> Path:
        """Where a path of the node is found from the machine. Raises ClusterFailed if the node is down."""
        if not self.init_pid:
            raise ClusterFailed(f"{self.name} is down")
        return Path(f"/proc/{self.init_pid}/root") / inside.lstrip("/")

    async def start(self) -> None:
        """Returns when kubelet runs; it registers itself a moment later. Raises ClusterFailed."""
        begun = time.monotonic()
        cgroups.create(self.facts.cgroup)
        await self._boot()
        self._install_plugins()
        self.timings_s["namespaces"] = time.monotonic() - begun
        await self.start_containerd()
        self.timings_s["containerd"] = time.monotonic() - begun
        self.start_kubelet()

    async def start_containerd(self) -> None:
        config = self.facts.folder / "containerd.toml"
        config.write_text(settings.containerd())
        program = self.program("containerd", ["containerd", "--config", str(config), "--log-level", "info"])
        program.start()

        async def missing() -> str:
            code, said = await self.run("ctr", "-a", settings.CONTAINERD_SOCKET, "version")
            return "" if code == 0 else said

        await program.wait_until(missing, timeout_s=RUNTIME_TIMEOUT_S)
        for archive in self.facts.archives:
            await self.import_image(archive)

    def set_network(self, conflist: str) -> None:
        """The node's default network from the next pod on; containerd sees the new file by itself."""
        file = self.path(settings.CNI_CONF) / CONFLIST
        fresh = file.with_suffix(".tmp")
        fresh.write_text(conflist)
        fresh.rename(file)

    def _install_plugins(self) -> None:
        """The distribution's main plugins; a network only if the node has none yet, so that one set later survives a crash."""
        for name in PLUGINS:
            target = self.path(settings.CNI_BIN) / name
            if not target.is_symlink():
                target.symlink_to(DISTRIBUTION / name)
        if not (self.path(settings.CNI_CONF) / CONFLIST).exists():
            self.set_network(self.facts.network)

    async def import_image(self, archive: Path) -> None:
        """Into the namespace that kubelet uses. Raises ClusterFailed."""
        command = ("ctr", "-a", settings.CONTAINERD_SOCKET, "-n", "k8s.io", "images", "import", str(archive))
        code, said = await self.run(*command, timeout_s=120.0)
        if code != 0:
            raise ClusterFailed(f"{self.name}: containerd refused {archive}: {said}")

    def start_kubelet(self) -> None:
        config = self.facts.folder / "kubelet.json"
        config.write_text(settings.kubelet(self.facts.ca_file, f"/{self.facts.cgroup}"))
        command = [str(self.facts.kubelet), f"--config={config}", f"--kubeconfig={self.facts.kubeconfig}"]
        command += [f"--hostname-override={self.name}", f"--node-ip={self.facts.address}"]
        command += ["--root-dir=/var/lib/kubelet", "--cert-dir=/var/lib/kubelet/pki"]
        self.program("kubelet", command).start()

    async def restart_kubelet(self, *, down_s: float = 0.0) -> None:
        """SIGKILL, a pause, a new one; pods keep running."""
        await self.kubelet.kill()
        await asyncio.sleep(down_s)
        self.start_kubelet()

    async def stop(self) -> None:
        """Ends every process of the node at once, pods included, as a power loss would; may be called twice."""
        if self._init is not None:
            await self._init.kill()
        await _until(lambda: self.init_pid == 0, END_TIMEOUT_S, f"{self.name}'s first process to end")
        for program in self._programs.values():
            await program.kill()
        self._programs = {}
        (self.facts.folder / "ready").unlink(missing_ok=True)
        # A machine boots without cgroups; kubelet would look three seconds at each container that it finds in one and nowhere else.
        await asyncio.to_thread(cgroups.remove, self.facts.cgroup)

    def program(self, name: str, command: Sequence[str]) -> Program:
        """A program inside the node's namespaces (not started), its log outside, ended with the node. One per name."""
        line = [*self._enter(), "setpriv", "--pdeathsig", "KILL", "--", *command]
        self._programs[name] = Program(f"{name} of {self.name}", line, self.facts.folder / f"{name}.log")
        return self._programs[name]

    async def run(self, *command: str, timeout_s: float = 20.0) -> tuple[int, str]:
        """A command inside the node to its end: exit status and all that it said; 124 if it took too long."""
        return await run_to_end(*self._enter(), *command, what=command[0], timeout_s=timeout_s)

    def rss_bytes(self, name: str) -> int:
        """Resident memory of a program of the node (not of nsenter, its parent)."""
        pid = self._programs[name].pid
        pages = sum(int(Path(f"/proc/{child}/statm").read_text().split()[1]) for child in _children(pid or 0))
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def _boot(self) -> None:
        ready = self.facts.folder / "ready"
        ready.unlink(missing_ok=True)
        enter = ["nsenter", f"--net={netns.path_of(self.facts.namespace)}", "unshare", "--mount", "--uts", "--ipc"]
        enter += ["--pid", "--fork", "--kill-child", "--propagation", "private"]
        line = [*enter, "bash", str(INIT), str(self.facts.folder), self.name]
        self._init = Program(f"init of {self.name}", line, self.facts.folder / "init.log")
        self._init.start()

        async def missing() -> str:
            return "" if ready.exists() else "its mounts"

        await self._init.wait_until(missing, timeout_s=BOOT_TIMEOUT_S)
        self._init_pid = _children(self._init.pid or 0)[0]

    def _enter(self) -> list[str]:
        if not self.init_pid:
            raise ClusterFailed(f"{self.name} is down")
        return ["nsenter", f"--target={self.init_pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--"]


def make(facts: Facts) -> Node:
    facts.folder.mkdir(mode=0o700, parents=True)
    return Node(facts)


async def _until(met: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not met():
        if time.monotonic() > deadline:
            raise ClusterFailed(f"waited {timeout_s:.0f} s for {what}")
        await asyncio.sleep(0.02)


def _children(pid: int) -> list[int]:
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in file.read_text().split()] if file.exists() else []
