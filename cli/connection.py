"""From the command line's options to a connected store."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import yaml

from adapters.clock import SystemClock
from adapters.entropy import SystemEntropy
from adapters.kube.kubestore import KubeStore
from adapters.kube.store import Store
from adapters.kube.transport import (
    Answer,
    Explicit,
    Kubeconfig,
    Source,
    Timeouts,
    Transport,
    TransportError,
    connect,
    default_source,
)
from cli.failures import CliError, Exit

SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Options:
    """How the cluster is reached, as kubectl's options of these names; `server` is a plain URL, as the lab has."""

    kubeconfig: str = ""
    context: str = ""
    namespace: str = ""
    server: str = ""

    def source(self) -> Source:
        if self.server:
            return Explicit(self.server)
        listed = self.kubeconfig or os.environ.get("KUBECONFIG", "")
        if listed or self.context:
            return Kubeconfig(listed, self.context)
        return default_source()


@dataclass(frozen=True, slots=True)
class Session:
    """A connected cluster. `namespace`: where names without one are looked up."""

    store: Store
    namespace: str
    transport: Transport | None = None

    async def server_version(self) -> str:
        """`v1.34.1`; "" if the server does not tell."""
        if self.transport is None:
            return ""
        try:
            answer = await self.transport.request("GET", "/version", query={}, timeouts=Timeouts())
            body: Any = msgspec.json.decode(answer.body) if answer.status == 200 else {}
        except (TransportError, msgspec.DecodeError):
            return ""
        return str(body.get("gitVersion", "")) if isinstance(body, dict) else ""


@asynccontextmanager
async def opened(options: Options) -> AsyncIterator[Session]:
    """A session; raises CliError if there is no cluster to talk to."""
    fix = "give --kubeconfig FILE, set KUBECONFIG, or give --server URL"
    if options.kubeconfig and not Path(options.kubeconfig).is_file():
        raise CliError(f"--kubeconfig {options.kubeconfig}: no such file", fix, code=Exit.CLUSTER)
    try:
        transport = await connect(options.source(), component="cli", version=own_version(), connections=8)
    except (OSError, ValueError, TypeError) as error:
        raise CliError(f"no usable connection settings: {error}", fix, code=Exit.CLUSTER) from error
    try:
        await _greeted(transport)
        store = KubeStore(transport, SystemClock(), SystemEntropy(), retry_budget_s=4.0)
        yield Session(store, options.namespace or default_namespace(options), transport)
    finally:
        await transport.close()


async def _greeted(transport: Transport) -> Answer:
    """Fail at once, and with the reason, where nobody listens or the credentials are not accepted."""
    try:
        answer = await transport.request("GET", "/version", query={}, timeouts=Timeouts(3.0, 6.0))
    except TransportError as error:
        raise CliError(
            f"the API server does not answer: {error}",
            "check --kubeconfig, --context or --server",
            code=Exit.CLUSTER,
        ) from error
    if answer.status == 401:
        raise CliError("the API server does not accept these credentials", "log in again", code=Exit.CLUSTER)
    return answer


def default_namespace(options: Options, environ: Mapping[str, str] = os.environ) -> str:
    """The namespace of the chosen context, else that of this pod, else `default`."""
    if not options.server:
        found = _context_namespace(options, environ)
        if found:
            return found
        if not options.kubeconfig and SERVICE_ACCOUNT_NAMESPACE.is_file():
            return SERVICE_ACCOUNT_NAMESPACE.read_text().strip() or "default"
    return "default"


def _context_namespace(options: Options, environ: Mapping[str, str]) -> str:
    """Files are merged as kubectl does: the first one that says something wins."""
    listed = options.kubeconfig or environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    contexts: dict[str, str] = {}
    current = options.context
    for name in filter(None, listed.split(os.pathsep)):
        try:
            config: Any = yaml.safe_load(Path(name).read_text())
        except (OSError, yaml.YAMLError):
            continue
        if not isinstance(config, dict):
            continue
        current = current or str(config.get("current-context") or "")
        for item in config.get("contexts") or ():
            inner = item.get("context") or {}
            contexts.setdefault(str(item.get("name", "")), str(inner.get("namespace") or ""))
    return contexts.get(current, "")


def own_version() -> str:
    """The installed version; "0" in a bare checkout."""
    try:
        return version("nephila")
    except PackageNotFoundError:
        return "0"
