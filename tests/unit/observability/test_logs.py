"""Log lines carry their request, and never what came on stdin."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from adapters.telemetry import configure_logging
from nodeagent.front import SHORT_ID, log_address_given
from nodeagent.wire import HttpRequest
from tests.unit.nodeagent.harness import Lab, add, delete, http

SECRET = "s3cr3t-canary"
CONTAINER = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    output = io.StringIO()
    configure_logging("debug", output=output)
    yield output
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.20", default=True)
    return lab


async def test_every_line_of_a_request_carries_its_number_verb_and_short_container(
    lab: Lab, output: io.StringIO
) -> None:
    async with lab.agent("n1") as agent:
        agent.adding.observers.append(log_address_given)
        pod = await lab.pod("p", "n1")
        address = (await add(agent, CONTAINER, pod))[0]
        await delete(agent, CONTAINER)
        await agent.serve(http("CHECK", CONTAINER, pod))
    given = next(line for line in lines(output) if line["event"] == "address_given")
    refused = next(line for line in lines(output) if line["event"] == "request_failed")
    assert given["addresses"] == [address] and given["pod"] == "default/p"
    assert (given["verb"], given["container"]) == ("ADD", CONTAINER[:SHORT_ID])
    assert (refused["verb"], refused["reason"]) == ("CHECK", "CheckFailed")
    assert refused["request"] > given["request"]


BODIES = (
    SECRET.encode(),
    b'{"name": "' + SECRET.encode(),
    json.dumps({"cniVersion": SECRET, "name": "n"}).encode(),
    json.dumps({"cniVersion": "1.0.0", "name": "n", "ipam": SECRET}).encode(),
    json.dumps({"cniVersion": "1.0.0", "name": "n", "ipam": {"clean_gateway": SECRET}}).encode(),
    json.dumps({"cniVersion": "1.0.0", "name": "n", "ipam": {}, "password": SECRET, "args": {"x": SECRET}}).encode(),
    json.dumps({"cniVersion": "1.0.0", "name": "n", "prevResult": {"ips": [{"address": SECRET}]}}).encode(),
    json.dumps(
        {"cniVersion": "1.0.0", "name": "n", "cni.dev/valid-attachments": [{"containerID": SECRET, "ifname": 1}]}
    ).encode(),
)


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
async def test_what_came_on_stdin_is_never_logged(lab: Lab, output: io.StringIO, verb: str, body: bytes) -> None:
    async with lab.agent("n1") as agent:
        agent.adding.observers.append(log_address_given)
        whole = http(verb, CONTAINER, await lab.pod("p", "n1"))
        await agent.serve(HttpRequest("POST", "/cni", whole.headers, body))
    assert SECRET not in output.getvalue()


async def test_a_crash_is_answered_and_logged_without_stdin(lab: Lab, output: io.StringIO) -> None:
    async with lab.agent("n1") as agent:
        agent.front._handlers = {}
        reply = await agent.serve(http("ADD", CONTAINER, await lab.pod("p", "n1"), conf={"password": SECRET}))
    assert reply.status == 500 and json.loads(reply.body)["code"] == 199
    assert any(line["event"] == "request_crashed" for line in lines(output))
    assert SECRET not in output.getvalue()
