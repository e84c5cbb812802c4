"""A minimal JSON client for the cluster's own readiness, checks and tests; the product's client is adapters.kube."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

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
        self._url = url
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
        """Never raises for a refused, cut or late connection: those are status 0."""
        headers = dict(self._headers) | ({"Content-Type": content_type} if body is not None else {})
        data = None if body is None else json.dumps(body)
        connector = aiohttp.TCPConnector(ssl=self._tls or True, force_close=True)
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            try:
                async with session.request(method, self._url + path, data=data, headers=headers) as answer:
                    return Answer(answer.status, _decode(await answer.text()))
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                return Answer(0, {"message": f"{type(error).__name__}: {error}"})


def _decode(text: str) -> Mapping[str, Any]:
    try:
        body = json.loads(text)
    except ValueError:
        return {"message": text}
    return body if isinstance(body, dict) else {"message": text}
