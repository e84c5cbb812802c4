"""The server as a program part: start it on a port or a socket, stop it, ask it for a kubeconfig."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import yaml
from aiohttp import web

from e2e.apiserver.admission import Admission, UrlCaller
from e2e.apiserver.controllers import Housekeeper
from e2e.apiserver.errors import ApiError
from e2e.apiserver.handlers import MAX_BODY_BYTES, Api
from e2e.apiserver.negotiation import load_documents
from e2e.apiserver.operations import SYSTEM, Cluster, Target
from e2e.apiserver.reading import Timing
from e2e.apiserver.resources import CRDS, NAMESPACES, Registry
from e2e.apiserver.storage import Store

FIRST_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
STOP_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """`history_limit` is the number of changes that a collection remembers for watches and paging."""

    history_limit: int = 20_000
    bookmark_interval_s: float = 5.0


class EmbeddedServer:
    """One API server with its state in memory. `start`, then use `url`; `stop` ends all watches and forgets nothing."""

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or Options()
        self.store = Store(self._options.history_limit)
        self.cluster = Cluster(self.store, Registry())
        self._webhooks = UrlCaller()
        self.api = Api(self.cluster, Timing(self._options.bookmark_interval_s), Admission(self._webhooks))
        self._housekeeper = Housekeeper(self.cluster)
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        sock: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> str:
        """Serves; returns the base URL. Port 0 lets the system choose. A given listening `sock` is used instead of host and port."""
        self.store.closed = False
        self._housekeeper.start()
        for name in FIRST_NAMESPACES:
            self._ensure_namespace(name)
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self.api.handle)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=STOP_TIMEOUT_S, keepalive_timeout=600
        )
        await self._runner.setup()
        site: web.BaseSite
        site = (
            web.SockSite(self._runner, sock, ssl_context=tls)
            if sock is not None
            else web.TCPSite(self._runner, host, port, ssl_context=tls)
        )
        await site.start()
        address = self._runner.addresses[0]
        scheme = "https" if tls is not None else "http"
        self.url = f"{scheme}://{address[0]}:{address[1]}" if isinstance(address, tuple) else f"{scheme}://unix"
        return self.url

    async def stop(self) -> None:
        self.store.close()
        await self._housekeeper.stop()
        await self._webhooks.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _ensure_namespace(self, name: str) -> None:
        resource = self.cluster.registry.stored(NAMESPACES)
        if resource is not None and self.store.collection(NAMESPACES).get(("", name)) is None:
            self.cluster.create(Target(resource), {"metadata": {"name": name}}, SYSTEM)

    def install_crds(self, folder: Path) -> list[str]:
        """Creates every definition in the folder's YAML files that is not there yet; returns the names. Raises ApiError."""
        definitions = self.cluster.registry.stored(CRDS)
        created: list[str] = []
        if definitions is None:
            return created
        for path in sorted(folder.glob("*.yaml")):
            for document in load_documents(path.read_text()):
                if document.get("kind") != definitions.kind:
                    continue
                try:
                    record = self.cluster.create(Target(definitions), document, SYSTEM)
                except ApiError as exc:
                    if exc.reason != "AlreadyExists":
                        raise
                    continue
                created.append(record.obj["metadata"]["name"])
        return created

    def kubeconfig(self) -> str:
        """A kubeconfig for this server; any token will do."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "embedded", "cluster": {"server": self.url}}],
            "users": [{"name": "embedded", "user": {"token": "embedded"}}],
            "contexts": [{"name": "embedded", "context": {"cluster": "embedded", "user": "embedded"}}],
            "current-context": "embedded",
        }
        return yaml.safe_dump(config, sort_keys=False)
