"""What only the embedded server has: counters, the compaction hook, its command line, webhooks over plain HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from e2e.apiserver.server import EmbeddedServer, Options
from tests.contract.apiserver.client import Client
from tests.contract.apiserver.widgets import GROUP, PLURAL, definition, widget

PATH = f"/apis/{GROUP}/v1/namespaces/default/{PLURAL}"


@pytest.fixture
async def embedded() -> AsyncIterator[EmbeddedServer]:
    server = EmbeddedServer(Options(history_limit=10))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(embedded: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http:
        client = Client(http, embedded.url, tmp_path / "kubeconfig", {}, compaction="hook")
        await client.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition())
        yield client


async def test_requests_are_counted_by_who_did_what(client: Client) -> None:
    await client.request("DELETE", "/debug/requests")
    await client.post(PATH, widget("a"))
    await client.patch(f"{PATH}/a/status", {"status": {"phase": "x"}})
    await client.get(f"{PATH}/a")
    await client.get(PATH)
    rows = (await client.get("/debug/requests")).body["requests"]
    name = f"{PLURAL}.{GROUP}"
    assert {(row["verb"], row["resource"], row["subresource"], row["count"]) for row in rows} == {
        ("create", name, "", 1),
        ("patch", name, "status", 1),
        ("get", name, "", 1),
        ("list", name, "", 1),
    }
    assert {row["userAgent"] for row in rows} == {"nephila-contract/1"}
    await client.request("DELETE", "/debug/requests")
    assert (await client.get("/debug/requests")).body["requests"] == []


async def test_history_is_bounded(client: Client) -> None:
    old = (await client.get(PATH)).version
    for number in range(12):
        await client.post(PATH, widget(f"w{number}"))
    async with client.watch(PATH, resourceVersion=old) as watch:
        assert (await watch.next())["object"]["code"] == 410


async def test_stopping_ends_watches_and_keeps_the_objects(embedded: EmbeddedServer, client: Client) -> None:
    await client.post(PATH, widget("a"))
    async with client.watch(PATH) as watch:
        assert (await watch.next())["type"] == "ADDED"
        stopping = asyncio.create_task(embedded.stop())
        assert await watch.rest(timeout_s=5) == []
        await stopping
    client.url = await embedded.start()
    assert (await client.get(f"{PATH}/a")).status == 200


async def test_a_listening_socket_can_be_handed_over(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = EmbeddedServer()
        url = await server.start(sock=listening)
        assert url.endswith(f":{listening.getsockname()[1]}")
        async with aiohttp.ClientSession() as http, http.get(f"{url}/readyz") as response:
            assert await response.text() == "ok"
        await server.stop()


async def _answer(request: web.Request) -> web.Response:
    """A webhook that names the owner of every widget and refuses those of size 13."""
    review = json.loads(await request.read())
    asked = review["request"]
    response: dict[str, Any] = {"uid": asked["uid"], "allowed": asked["object"]["spec"]["size"] != 13}
    if not response["allowed"]:
        response["status"] = {"message": "thirteen is unlucky", "code": 403}
    elif request.path == "/mutate":
        patch = [{"op": "replace", "path": "/spec/owner", "value": "webhook"}]
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
    return web.json_response({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})


@pytest.fixture
async def webhooks(client: Client) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_post("/{what}", _answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    rule = {"operations": ["CREATE", "UPDATE"], "apiGroups": [GROUP], "apiVersions": ["*"], "resources": [PLURAL]}
    for plural, what in (("mutatingwebhookconfigurations", "mutate"), ("validatingwebhookconfigurations", "validate")):
        hook = {
            "name": f"{what}.nephila.io",
            "clientConfig": {"url": f"http://{host}:{port}/{what}"},
            "rules": [rule],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        body = {"metadata": {"name": what}, "webhooks": [hook]}
        reply = await client.post(f"/apis/admissionregistration.k8s.io/v1/{plural}", body)
        assert reply.status == 201, reply.body
    yield
    await runner.cleanup()


async def test_webhooks_change_and_refuse(client: Client, webhooks: None) -> None:
    created = await client.post(PATH, widget("a"))
    assert (created.status, created.body["spec"]["owner"]) == (201, "webhook")
    changed = await client.patch(f"{PATH}/a", {"spec": {"owner": "me", "size": 2}})
    assert (changed.body["spec"]["owner"], changed.body["spec"]["size"]) == ("webhook", 2)
    for refused in (
        await client.post(PATH, widget("b", size=13)),
        await client.patch(f"{PATH}/a", {"spec": {"size": 13}}),
    ):
        assert (refused.status, "thirteen is unlucky" in refused.body["message"]) == (403, True)
    assert (await client.get(f"{PATH}/b")).status == 404


async def test_the_command_line_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    crds, kubeconfig = tmp_path / "crds", tmp_path / "kubeconfig"
    crds.mkdir()
    (crds / "widgets.yaml").write_text(json.dumps(definition()))
    arguments = ("--port", "0", "--kubeconfig", str(kubeconfig), "--crds", str(crds))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "e2e.apiserver", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        url = (await process.stdout.readline()).decode().strip()
        async with aiohttp.ClientSession() as http, http.get(url + PATH) as response:
            assert response.status == 200
        assert url in kubeconfig.read_text()
        process.terminate()
        assert await process.wait() == 0
