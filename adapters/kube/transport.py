"""HTTP to the API server: authentication, TLS and connection pooling by the official client, everything else by us.

From `kubernetes.aio` we use `Configuration`, the kubeconfig and in-cluster loaders, and `RESTClientObject` (an
aiohttp pool). Its models are not used: decoding with them costs 180 times the time of ours and drops fields they do
not know.

Imported the usual way, that is 54 MiB of resident memory, because `kubernetes/__init__.py` and
`kubernetes/aio/__init__.py` import every convenience they offer (two HTTP stacks, dynamic client, leader election,
informers). `bare_packages` imports the same submodules without running those two files (and
`config/__init__.py`): 36 MiB, of which asyncio, aiohttp and msgspec are 34.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlencode

import aiohttp
import yarl

from adapters.bareimport import bare_packages

_UMBRELLAS = ("kubernetes", "kubernetes.aio", "kubernetes.aio.config")


with bare_packages(*_UMBRELLAS):
    from kubernetes.aio.client.configuration import Configuration
    from kubernetes.aio.client.rest import RESTClientObject

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MAX_EVENT_BYTES = 16 * 1024 * 1024
_KEEP_IDLE_S = 60.0
"""How long an unused connection is kept: longer than a heartbeat interval, shorter than API servers' 90 s."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer. `retry_after_s` is the header in seconds, or None."""

    status: int
    body: bytes
    retry_after_s: float | None


class TransportError(Exception):
    """No complete answer. `sent` is False only if no byte of the request can have reached the server."""

    def __init__(self, cause: str, *, sent: bool) -> None:
        super().__init__(cause)
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Timeouts:
    """`connect_s` covers waiting for a pooled connection, TCP and TLS.

    `total_s` the whole request. connect_s < total_s.
    """

    connect_s: float = 3.0
    total_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.connect_s < self.total_s:
            raise ValueError(f"connect_s {self.connect_s} must be positive and less than total_s {self.total_s}")


class Transport(Protocol):
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        timeouts: Timeouts,
        body: object = None,
        content_type: str = "application/json",
    ) -> Answer:
        """One request, sent at most once. `body` is plain JSON data. Raises TransportError."""

    def lines(self, path: str, *, query: Mapping[str, str], timeouts: Timeouts) -> AsyncIterator[Answer | bytes]:
        """GET whose answer is a stream of lines.

        An answer other than 200 is yielded whole, alone. Raises TransportError.
        """

    async def close(self) -> None:
        """Close all connections."""


@dataclass(frozen=True, slots=True)
class InCluster:
    """The service account of this pod; its token is re-read every minute."""

    directory: Path = SERVICE_ACCOUNT


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """A kubeconfig file ("" = $KUBECONFIG or ~/.kube/config) and context ("" = current); exec plugins are run."""

    path: str = ""
    context: str = ""


@dataclass(frozen=True, slots=True)
class Explicit:
    """A URL, as in the lab. `ca_file` "" means the system's authorities."""

    url: str
    token: str = ""
    ca_file: str = ""


Source: TypeAlias = InCluster | Kubeconfig | Explicit


def default_source(environ: Mapping[str, str] = os.environ) -> Source:
    """In-cluster if this is a pod with a service account, else the kubeconfig."""
    if environ.get("KUBERNETES_SERVICE_HOST") and (SERVICE_ACCOUNT / "token").is_file():
        return InCluster()
    return Kubeconfig()


async def connect(source: Source, *, component: str, version: str, connections: int = 32) -> HTTPTransport:
    """A transport that identifies itself as `nephila-<component>/<version>`. No request is made yet.

    Raises OSError or ValueError, with the reason, if the source's files are missing or unusable.
    """
    transport = HTTPTransport(source, user_agent=f"nephila-{component}/{version}", connections=connections)
    await transport.load()
    return transport


class HTTPTransport:
    """`Transport` over the official client's connection pool. Build it with `connect`."""

    def __init__(self, source: Source, *, user_agent: str, connections: int) -> None:
        self._source = source
        self._user_agent = user_agent
        self._connections = connections
        self._configuration: Any = None
        self._rest: Any = None
        self._renewing = asyncio.Lock()
        self._generation = 0

    async def load(self) -> None:
        """Read the source's credentials; replaces those in use. Raises OSError or ValueError."""
        configuration = await _load(self._source)
        configuration.connection_pool_maxsize = self._connections
        old, old_rest = self._configuration, self._rest
        if old is None or _tls(old) != _tls(configuration):
            self._rest = _pool(configuration)
            if old_rest is not None:
                await old_rest.close()
        self._configuration = configuration
        self._generation += 1

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        timeouts: Timeouts,
        body: object = None,
        content_type: str = "application/json",
    ) -> Answer:
        generation = self._generation
        answer = await self._once(method, path, query, timeouts, body, content_type)
        if answer.status != 401 or not await self._renewed(generation):
            return answer
        # 401 is decided before anything is done, so the request may be repeated, once, with new credentials.
        return await self._once(method, path, query, timeouts, body, content_type)

    async def lines(self, path: str, *, query: Mapping[str, str], timeouts: Timeouts) -> AsyncIterator[Answer | bytes]:
        with _failures():
            response = await self._open("GET", path, query, timeouts, None, "application/json")
        try:
            if response.status != 200:
                with _failures():
                    yield await _answer(response)
                return
            pending = bytearray()
            while True:
                with _failures():
                    chunk = await response.content.readany()
                if not chunk:
                    return
                *complete, rest = bytes(pending + chunk).split(b"\n")
                pending = bytearray(rest)
                if len(pending) > _MAX_EVENT_BYTES:
                    raise TransportError(f"a watch event exceeds {_MAX_EVENT_BYTES} bytes", sent=True)
                for line in complete:
                    if line:
                        yield line
        finally:
            # An unfinished stream is dropped at once: a TLS goodbye would outlive the caller, perhaps the event loop.
            if response.connection is not None and response.connection.transport is not None:
                response.connection.transport.abort()
            response.close()

    async def close(self) -> None:
        if self._rest is not None:
            await self._rest.close()
            # aiohttp closes TLS connections in callbacks; one turn lets them run before the loop may end.
            await asyncio.sleep(0)

    async def _once(
        self, method: str, path: str, query: Mapping[str, str], timeouts: Timeouts, body: object, content_type: str
    ) -> Answer:
        with _failures():
            response = await self._open(method, path, query, timeouts, body, content_type)
            try:
                return await _answer(response)
            finally:
                response.release()

    async def _open(
        self, method: str, path: str, query: Mapping[str, str], timeouts: Timeouts, body: object, content_type: str
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": self._user_agent}
        for setting in (await self._configuration.auth_settings()).values():
            if setting["in"] == "header" and setting["value"]:
                headers[setting["key"]] = setting["value"].strip()
        text = self._configuration.host + path + ("?" + urlencode(query) if query else "")
        url = yarl.URL(text, encoded=True)
        timeout = aiohttp.ClientTimeout(total=timeouts.total_s, connect=timeouts.connect_s)
        answer = await self._rest.request(method, url, headers=headers, body=body, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        return response

    async def _renewed(self, generation: int) -> bool:
        """Load credentials anew, unless another request just did; False if that is impossible or useless."""
        if isinstance(self._source, Explicit):
            return False
        async with self._renewing:
            if self._generation == generation:
                try:
                    await self.load()
                except (OSError, ValueError):
                    return False
        return True


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Turn aiohttp's errors into TransportError.

    Only errors in making the connection prove that nothing was sent; all others may have come after the server read
    the request.
    """
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
        raise TransportError(f"{type(error).__name__}: {error}", sent=False) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise TransportError(f"{type(error).__name__}: {error}", sent=True) from error


async def _answer(response: aiohttp.ClientResponse) -> Answer:
    retry_after = response.headers.get("Retry-After", "")
    return Answer(response.status, await response.read(), float(retry_after) if retry_after.isdecimal() else None)


class _Pool(RESTClientObject):  # type: ignore[misc]  # untyped base
    """The official pool with our idle time, and without aiohttp's silent second sending of DELETE and PUT.

    aiohttp repeats "idempotent" methods when a reused connection breaks; then "404" to a DELETE could mean "deleted
    by its first sending".
    """

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, keepalive_timeout=_KEEP_IDLE_S)

    def _create_pool_manager(self) -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = super()._create_pool_manager()
        session._retry_connection = False
        return session


def _pool(configuration: Any) -> Any:
    return _Pool(configuration)


def _tls(configuration: Any) -> tuple[object, ...]:
    """What the pool's TLS context was made of (file contents included, since files are rotated in place)."""
    files = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    contents = tuple(Path(file).read_bytes() if file else b"" for file in files)
    return (configuration.host, configuration.verify_ssl, configuration.ca_cert_data, *contents)


async def _load(source: Source) -> Any:
    configuration = Configuration()
    match source:
        case Explicit(url, token, ca_file):
            configuration.host = url.rstrip("/")
            configuration.ssl_ca_cert = ca_file or None
            if token:
                configuration.api_key["BearerToken"] = f"Bearer {token}"
        case InCluster(directory):
            with bare_packages(*_UMBRELLAS):
                from kubernetes.aio.config.config_exception import ConfigException
                from kubernetes.aio.config.incluster_config import InClusterConfigLoader
            try:
                InClusterConfigLoader(str(directory / "token"), str(directory / "ca.crt")).load_and_set(configuration)
            except ConfigException as error:
                raise ValueError(f"in-cluster credentials: {error}") from error
        case Kubeconfig(path, context):
            with bare_packages(*_UMBRELLAS):
                from kubernetes.aio.config.config_exception import ConfigException
                from kubernetes.aio.config.kube_config import load_kube_config
            try:
                await load_kube_config(path or None, context or None, configuration, persist_config=False)
            except ConfigException as error:
                raise ValueError(f"kubeconfig {path or '(default)'}: {error}") from error
    return configuration
