"""A plain HTTP client for the contract: no retries, no cleverness, every answer as it came."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

JSON = "application/json"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def reason(self) -> str:
        return str(self.body.get("reason", "")) if isinstance(self.body, dict) else ""

    @property
    def version(self) -> str:
        """resourceVersion of the object or list."""
        return str(self.body["metadata"]["resourceVersion"])

    @property
    def causes(self) -> dict[str, str]:
        """Field path → reason of a 422."""
        return {one["field"]: one["reason"] for one in self.body.get("details", {}).get("causes", [])}


class Watch:
    """An open watch. `next` waits for one event, `rest` reads until the server ends it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self._lines = response.content

    async def next(self, timeout_s: float = 10.0) -> Body:
        async with asyncio.timeout(timeout_s):
            line = await self._lines.readline()
        if not line:
            raise EOFError("the server ended the watch")
        event: Body = json.loads(line)
        return event

    async def rest(self, timeout_s: float = 30.0) -> list[Body]:
        events = []
        while True:
            try:
                events.append(await self.next(timeout_s))
            except EOFError:
                return events


class Client:
    def __init__(
        self, http: aiohttp.ClientSession, url: str, kubeconfig: Path, headers: Mapping[str, str], *, compaction: str
    ) -> None:
        self.url = url
        self.kubeconfig = kubeconfig
        self._http = http
        self._headers = headers
        self._compaction = compaction

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = JSON,
        accept: str = JSON,
        query: Mapping[str, str] | None = None,
    ) -> Reply:
        headers = {**self._headers, "Accept": accept, "User-Agent": "nephila-contract/1"}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers["Content-Type"] = content_type
        async with self._http.request(method, self.url + path, data=data, headers=headers, params=query) as response:
            raw = await response.read()
            try:
                parsed = json.loads(raw)
            except ValueError:
                parsed = raw
            return Reply(response.status, parsed, response.headers)

    async def get(self, path: str, *, accept: str = JSON, **query: str) -> Reply:
        return await self.request("GET", path, accept=accept, query=query)

    async def post(self, path: str, body: Any, **query: str) -> Reply:
        return await self.request("POST", path, body, query=query)

    async def put(self, path: str, body: Any) -> Reply:
        return await self.request("PUT", path, body)

    async def patch(self, path: str, body: Any, content_type: str = MERGE, **query: str) -> Reply:
        return await self.request("PATCH", path, body, content_type=content_type, query=query)

    async def apply(self, path: str, body: Any, manager: str, **query: str) -> Reply:
        return await self.patch(path, body, APPLY, fieldManager=manager, **query)

    async def delete(self, path: str, options: Body | None = None) -> Reply:
        return await self.request("DELETE", path, options)

    @asynccontextmanager
    async def watch(self, path: str, **query: str) -> AsyncIterator[Watch]:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        params = {"watch": "true", "timeoutSeconds": "30", **query}
        request = self._http.get(self.url + path, params=params, headers=dict(self._headers), timeout=timeout)
        async with request as response:
            yield Watch(response)

    async def compacted_version(self, path: str) -> str:
        """A resourceVersion whose history the server has forgotten.

        The embedded server is told to compact. A real one has long forgotten revision 1: its watch cache starts at its own start.
        """
        if self._compaction == "hook":
            before = (await self.get(path)).version
            await self.post("/api/v1/namespaces/default/configmaps", {"metadata": {"generateName": "compaction-"}})
            await self.request("POST", "/debug/compact")
            return before
        return "1"

    async def gone(self, path: str, timeout_s: float = 30.0) -> None:
        """Waits until the object does not exist."""
        await self.until(path, lambda reply: reply.status == 404, timeout_s)

    async def until(self, path: str, holds: Callable[[Reply], bool], timeout_s: float = 20.0) -> Reply:
        """Reads until the answer is as expected; returns it."""
        async with asyncio.timeout(timeout_s):
            while not holds(reply := await self.get(path)):
                await asyncio.sleep(0.05)
        return reply

    async def kubectl(self, *arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
        """(exit status, stdout, stderr) of the real kubectl."""
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("kubectl")),
            f"--kubeconfig={self.kubeconfig}",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(self.kubeconfig.parent)},
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate(stdin.encode() if stdin is not None else None)
        return process.returncode or 0, out.decode(), err.decode()
