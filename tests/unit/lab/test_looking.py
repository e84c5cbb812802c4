"""What the lab reads of running programs: the agents' metrics, and the page of whoever leads."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from e2e.lab import netns, outcomes, page
from e2e.lab.api import Api, ApiError
from tests.unit.nodeagent.harness import Lab, eventually
from tests.unit.observability.exposed import AgentScrape


class Lock:
    """The LeaderLock, as the API has it."""

    def __init__(self) -> None:
        self.holder = ""

    async def get(self, kind: str, name: str) -> dict[str, Any]:
        if not self.holder:
            raise ApiError(404, "NotFound", "nobody led yet")
        return {"spec": {"holder": f"{self.holder}-abc", "term": 1}}


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The namespaces that were entered; what was done there is done here."""
    seen: list[str] = []

    def run_in(name: str, action: Callable[[], Any]) -> Any:
        seen.append(name)
        return action()

    monkeypatch.setattr(netns, "run_in", run_in)
    return seen


async def ask(address: str) -> bytes:
    port = int(address.rstrip("/").rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


async def test_the_page_is_that_of_the_node_that_leads(monkeypatch: pytest.MonkeyPatch, entered: list[str]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nthe page")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, family=socket.AF_INET)
    monkeypatch.setattr(page, "PAGE_PORT", server.sockets[0].getsockname()[1])
    lock = Lock()
    async with page.opened(cast(Api, lock), lambda node: f"ns-{node}") as address:
        assert b"nobody leads yet" in await ask(address)
        lock.holder = "node-2"
        assert (await ask(address)).endswith(b"the page")
    assert entered == ["ns-node-2"]
    server.close()


async def test_addresses_that_are_held_ready_are_read_from_the_agents_metrics(tmp_path: Path) -> None:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/16", "10.6.0.10-10.6.3.250", default=True)
    async with lab.agent("n1") as agent:
        await eventually(
            lambda: agent.refill.targets.get("v4", 0) > 0 and len(agent.stock) >= agent.refill.targets["v4"]
        )
        assert outcomes.ready_of(AgentScrape(agent, tmp_path).text()) == {"v4": len(agent.stock)}
