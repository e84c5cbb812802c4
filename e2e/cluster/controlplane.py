"""Starts, stops and disturbs a whole control plane on loopback.

    async with ControlPlane() as cluster:
        ... cluster.kubeconfig, cluster.url, cluster.admin_token ...

Every wait is bounded. After `stop` no process runs and no file is left.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from e2e.cluster import flags
from e2e.cluster.binaries import Binaries, ensure
from e2e.cluster.certificates import Authority
from e2e.cluster.checks import check_custom_resources
from e2e.cluster.client import JsonClient
from e2e.cluster.flags import Layout, Ports
from e2e.cluster.program import ClusterFailed, Program
from e2e.cluster.workdir import WorkDir, encode_file, free_ports, write_kubeconfig, write_private

START_TIMEOUT_S = 90.0
USERS = {
    "admin": ("nephila:admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
}


class ControlPlane:
    """etcd, kube-apiserver, kube-controller-manager and kube-scheduler, each a `Program` that tests may disturb."""

    def __init__(self, binaries: Binaries | None = None) -> None:
        """Builds the binaries if they are not given and not cached (minutes; raises `BuildFailed`)."""
        self._binaries = binaries or ensure()
        self._work: WorkDir | None = None
        self._layout: Layout | None = None
        self._programs: dict[str, Program] = {}
        self._tokens = {name: secrets.token_urlsafe(24) for name in USERS}
        self.timings_s: dict[str, float] = {}  # what each stage of the start took

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def layout(self) -> Layout:
        """Files, ports and certificates. Raises `ClusterFailed` before `start` and after `stop`."""
        if self._layout is None:
            raise ClusterFailed("the cluster is not started")
        return self._layout

    @property
    def kubeconfig(self) -> Path:
        """The admin's (group system:masters)."""
        return self.layout.kubeconfig("admin")

    @property
    def url(self) -> str:
        return self.layout.url

    @property
    def ca_file(self) -> Path:
        return self.layout.authority.certificate

    @property
    def admin_token(self) -> str:
        return self._tokens["admin"]

    @property
    def etcd(self) -> Program:
        return self._programs["etcd"]

    @property
    def apiserver(self) -> Program:
        return self._programs["kube-apiserver"]

    @property
    def controller_manager(self) -> Program:
        return self._programs["kube-controller-manager"]

    @property
    def scheduler(self) -> Program:
        return self._programs["kube-scheduler"]

    def client(self, token: str | None = None) -> JsonClient:
        """A small JSON client; the admin's unless another bearer token is given ("" for anonymous)."""
        return JsonClient(self.url, ca_file=self.ca_file, token=self.admin_token if token is None else token)

    async def start(self) -> None:
        """Starts everything and returns when pods could be created. Raises `ClusterFailed`; then nothing is left."""
        if self._work is not None:
            raise ClusterFailed("the cluster is started already")
        try:
            with _Stage(self.timings_s, "certificates"):
                self._prepare()
            with _Stage(self.timings_s, "etcd"):
                self.etcd.start()
                await self._etcd_ready()
            with _Stage(self.timings_s, "apiserver"):
                self.apiserver.start()
                await self._apiserver_ready()
            with _Stage(self.timings_s, "controllers"):
                self.controller_manager.start()
                self.scheduler.start()
                await check_custom_resources(self.client())
                await self.ready()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends every program and removes every file; may be called twice."""
        try:
            later = ("etcd",)  # the others log errors and wait while it is gone
            await asyncio.gather(*(p.stop() for name, p in self._programs.items() if name not in later))
            await asyncio.gather(*(self._programs[name].stop() for name in later if name in self._programs))
        finally:
            self._programs = {}
            self._layout = None
            if self._work is not None:
                self._work.remove()
                self._work = None

    async def ready(self, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Returns when every program answers healthy and pods could be created. Raises `ClusterFailed`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._apiserver_ready(timeout_s))
            group.create_task(self._healthy(self.controller_manager, self.layout.ports.controller_manager, timeout_s))
            group.create_task(self._healthy(self.scheduler, self.layout.ports.scheduler, timeout_s))
        await self._default_account(timeout_s)

    async def restart_etcd(self, *, down_s: float = 0.0) -> None:
        """Kills it (SIGKILL), waits, starts it again on the same data, returns when all is ready again."""
        await self.etcd.kill()
        await asyncio.sleep(down_s)
        self.etcd.start()
        await self._etcd_ready()
        await self.ready()

    async def restart_apiserver(self, *, down_s: float = 0.0) -> None:
        """Kills it (SIGKILL), waits, starts it again on the same port, returns when all is ready again."""
        await self.apiserver.kill()
        await asyncio.sleep(down_s)
        self.apiserver.start()
        await self.ready()

    async def compact(self) -> int:
        """Compacts etcd up to now and gives that revision: older list continuations answer 410.

        Watches still start from the API server's own cache; see `expire_history`.
        """
        now = await self._etcd_call("/v3/kv/range", {"key": "AA=="})
        revision = int(now["header"]["revision"])
        await self._etcd_call("/v3/kv/compaction", {"revision": revision, "physical": True})
        return revision

    async def expire_history(self) -> int:
        """Compacts etcd and empties the API server's caches by a restart: a watch from any older version gets 410."""
        revision = await self.compact()
        await self.restart_apiserver()
        return revision

    def node_kubeconfig(self, node: str) -> Path:
        """A kubelet's credentials (user system:node:NAME, group system:nodes), made at the first call."""
        path = self.layout.kubeconfig(f"node-{node}")
        if not path.exists():
            pair = self.layout.authority.issue_client(f"node-{node}", user=f"system:node:{node}", group="system:nodes")
            user = {
                "client-certificate-data": encode_file(pair.certificate),
                "client-key-data": encode_file(pair.key),
            }
            write_kubeconfig(path, server=self.url, ca_file=self.ca_file, user=user)
        return path

    def rss_bytes(self) -> dict[str, int]:
        return {name: program.rss_bytes() for name, program in self._programs.items()}

    def _prepare(self) -> None:
        self._work = WorkDir()
        folder = self._work.path
        authority = Authority.create(folder / "pki")
        lines = [f'{self._tokens[name]},{user},{name},"{group}"' for name, (user, group) in USERS.items()]
        self._layout = layout = Layout(
            folder=folder,
            binaries=self._binaries,
            ports=Ports(*free_ports(5)),
            authority=authority,
            serving=authority.issue_server("serving"),
            kubelet_client=authority.issue_client("kubelet-client", user="nephila:apiserver", group="system:masters"),
            signing=authority.issue_signing_key("service-accounts"),
            tokens=write_private(folder / "tokens.csv", "\n".join(lines) + "\n"),
        )
        for name, token in self._tokens.items():
            write_kubeconfig(
                layout.kubeconfig(name), server=layout.url, ca_file=authority.certificate, user={"token": token}
            )
        commands = {
            "etcd": flags.etcd(layout),
            "kube-apiserver": flags.apiserver(layout),
            "kube-controller-manager": flags.controller_manager(layout),
            "kube-scheduler": flags.scheduler(layout),
        }
        self._programs = {name: Program(name, line, folder / f"{name}.log") for name, line in commands.items()}

    async def _etcd_ready(self) -> None:
        client = JsonClient(self.layout.etcd_url)

        async def missing() -> str:
            answer = await client.get("/health")
            return "" if answer.body.get("health") == "true" else answer.message or str(answer.body)

        await self.etcd.wait_until(missing, timeout_s=START_TIMEOUT_S)

    async def _apiserver_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        await self._healthy(self.apiserver, self.layout.ports.apiserver, timeout_s, path="/readyz")

    async def _healthy(self, program: Program, port: int, timeout_s: float, path: str = "/healthz") -> None:
        client = JsonClient(f"https://127.0.0.1:{port}", ca_file=self.ca_file, token=self.admin_token)

        async def missing() -> str:
            answer = await client.get(path)
            return "" if answer.status == 200 else f"{path} answered {answer.status} {answer.message}"

        await program.wait_until(missing, timeout_s=timeout_s)

    async def _default_account(self, timeout_s: float) -> None:
        """Pods of namespace default are refused until the controller has made its service account."""
        client = self.client()

        async def missing() -> str:
            answer = await client.get("/api/v1/namespaces/default/serviceaccounts/default")
            return "" if answer.status == 200 else f"service account default: {answer.status} {answer.message}"

        await self.controller_manager.wait_until(missing, timeout_s=timeout_s)

    async def _etcd_call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await JsonClient(self.layout.etcd_url).post(path, body)
        if answer.status != 200:
            raise ClusterFailed(f"etcd refused {path}: {answer.status} {answer.message}\n{self.etcd.tail()}")
        return dict(answer.body)


class _Stage:
    """Notes in `timings` how long its block took."""

    def __init__(self, timings: dict[str, float], name: str) -> None:
        self._timings = timings
        self._name = name
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._timings[self._name] = time.monotonic() - self._started
