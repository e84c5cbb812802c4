"""A minimal JSON client for the cluster's own readiness, checks and tests; the product's client is adapters.kube.

Built on http.client in a thread, and not on aiohttp: an asyncio TLS handshake that is given up (a paused server)
leaks its transport in Python 3.11.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` 0 means that no answer came; `body` is the decoded JSON, or `{"message": text}` if it was none."""

    status: int
    body: Mapping[str, Any]

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))


class JsonClient:
    """Opens one connection per request, so that it works from any event loop and over restarts of the server."""

    def __init__(self, url: str, *, ca_file: Path | None = None, token: str = "") -> None:
        self._url = urlsplit(url)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._tls = ssl.create_default_context(cafile=ca_file) if ca_file else None

    async def get(self, path: str, *, timeout_s: float = 5.0) -> Answer:
        return await self.request("GET", path, timeout_s=timeout_s)

    async def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        return await self.request("POST", path, body)

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
        timeout_s: float = 10.0,
    ) -> Answer:
        """Never raises for a refused, cut or late connection: those are status 0. `timeout_s` bounds each socket wait."""
        headers = dict(self._headers) | ({"Content-Type": content_type} if body is not None else {})
        data = None if body is None else json.dumps(body)
        return await asyncio.to_thread(self._exchange, method, path, data, headers, timeout_s)

    def _exchange(
        self, method: str, path: str, data: str | None, headers: Mapping[str, str], timeout_s: float
    ) -> Answer:
        with closing(self._connection(timeout_s)) as connection:
            try:
                connection.request(method, path, body=data, headers=headers)
                with connection.getresponse() as response:
                    return Answer(response.status, _decode(response.read().decode(errors="replace")))
            except (HTTPException, OSError) as error:
                return Answer(0, {"message": f"{type(error).__name__}: {error}"})

    def _connection(self, timeout_s: float) -> HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._tls is not None:
            return HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)
        return HTTPConnection(host, port, timeout=timeout_s)


def _decode(text: str) -> Mapping[str, Any]:
    try:
        body = json.loads(text)
    except ValueError:
        return {"message": text}
    return body if isinstance(body, dict) else {"message": text}
