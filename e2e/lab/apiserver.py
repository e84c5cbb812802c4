"""The lab's API server: the embedded one as a process of its own on the machine's loopback, with our CRDs applied."""

import asyncio
import socket
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp

from adapters.entropy import SystemEntropy
from e2e.cluster.faults import FaultProxy
from e2e.lab.agents import API_PORT, Access
from e2e.lab.api import Api, ApiError, wait_reachable
from e2e.lab.cluster_model import Cluster, node_object
from e2e.lab.control_loop import ControlLoop
from e2e.lab.objects import Object, load_manifests, name_of
from e2e.lab.processes import Child

READY_TIMEOUT_S = 20.0
ESTABLISH_TIMEOUT_S = 10.0
CRDS = Path(__file__).resolve().parents[2] / "crds" / "yaml"


class ApiServerError(RuntimeError):
    """It did not come up; the message carries the end of its log."""


class ApiServer:
    """A `Server` (see `servers`): starts, watches and stops the server process."""

    def __init__(self, run_dir: Path) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.child = Child(
            "apiserver",
            [sys.executable, "-m", "e2e.apiserver", "--port", str(self.port)],
            run_dir / "apiserver.log",
        )

    async def start(self) -> None:
        """Returns when objects of our kinds can be written. Raises ApiServerError."""
        self.child.start()
        try:
            await wait_reachable(self.url, READY_TIMEOUT_S)
            async with self.api("nephila-lab/setup") as api:
                await self._apply_crds(api)
        except (TimeoutError, ApiError, aiohttp.ClientError) as error:
            raise ApiServerError(f"the API server did not come up: {error!r}\n{self.child.tail()}") from error

    async def _apply_crds(self, api: Api) -> None:
        crds = load_manifests(CRDS)
        if not crds:
            raise ApiServerError(f"no CRDs in {CRDS}: run `make generate`")
        for crd in crds:
            await api.apply(crd)
        for _ in range(int(ESTABLISH_TIMEOUT_S / 0.05)):
            known = {name_of(item): item for item in (await api.list("CustomResourceDefinition"))[0]}
            if all(_established(known[name_of(crd)]) for crd in crds):
                return
            await asyncio.sleep(0.05)
        raise TimeoutError(f"CRDs not established within {ESTABLISH_TIMEOUT_S:.0f} s")

    async def requests(self) -> list[Object]:
        """Requests so far as the server counted them: verb, resource, subresource, userAgent, count; empty if it does not count."""
        async with self.api("nephila-lab/setup") as api:
            try:
                answer = await api.raw("/debug/requests")
            except ApiError:
                return []
        rows: list[Object] = answer["requests"]
        return rows

    async def stop(self) -> None:
        await self.child.stop()

    def api(self, user_agent: str) -> Api:
        return Api(self.url, user_agent)

    def proxy(self, listener: socket.socket) -> FaultProxy:
        return FaultProxy(self.url, listener, entropy=SystemEntropy())

    async def join(self, node: str, labels: Mapping[str, str], directory: Path) -> Access:
        """Nobody needs credentials here."""
        async with self.api("nephila-lab/kubelet") as api:
            await api.apply(node_object(node, labels))
        through_proxy = {"url": f"http://127.0.0.1:{API_PORT}"}
        return Access(through_proxy, through_proxy)

    def machinery(self, cluster: Cluster) -> AbstractAsyncContextManager[object]:
        return ControlLoop(cluster)


def _established(crd: dict[str, object]) -> bool:
    status = crd.get("status")
    conditions = status.get("conditions", []) if isinstance(status, dict) else []
    return any(item["type"] == "Established" and item["status"] == "True" for item in conditions)


def _free_port() -> int:
    """A port that was free a moment ago; the server's start fails loudly if another program was faster."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
