"""Where credentials come from, that they are renewed, and that TLS is checked."""

from __future__ import annotations

import asyncio
import json
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from adapters.kube.transport import Explicit, InCluster, Kubeconfig, Timeouts, TransportError, connect, default_source

QUICK = Timeouts(1.0, 2.0)


class Guard:
    """An HTTPS server that wants a token and says who called."""

    def __init__(self, folder: Path) -> None:
        self.accepted = {"t1"}
        self.seen: list[str] = []
        self.connections = 0
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=guard "
            "-addext subjectAltName=IP:127.0.0.1 -addext keyUsage=critical,digitalSignature,keyCertSign"
        )
        files = ["-keyout", str(self.key), "-out", str(self.certificate)]
        subprocess.run([*command.split(), *files], check=True, capture_output=True)

    async def start(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while line := (await reader.readline()).decode():
                del line
                token = ""
                while (header := (await reader.readline()).decode().strip()) != "":
                    if header.lower().startswith("authorization:"):
                        token = header.split()[-1]
                self.seen.append(token)
                status = 200 if token in self.accepted else 401
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n{{}}".encode())
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def guard(tmp_path: Path) -> AsyncIterator[Guard]:
    made = Guard(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def status(source: Explicit | InCluster | Kubeconfig, times: int = 1) -> list[int]:
    transport = await connect(source, component="test", version="0")
    try:
        return [(await transport.request("GET", "/version", query={}, timeouts=QUICK)).status for _ in range(times)]
    finally:
        await transport.close()


async def test_a_server_with_an_unknown_certificate_gets_no_request(guard: Guard) -> None:
    with pytest.raises(TransportError, match="ertificate") as caught:
        await status(Explicit(guard.url, token="t1"))
    assert not caught.value.sent
    assert guard.seen == []


async def test_explicit_url_token_and_authority_reuse_one_connection(guard: Guard) -> None:
    assert await status(Explicit(guard.url, "t1", str(guard.certificate)), times=3) == [200, 200, 200]
    assert guard.connections == 1


def service_account(guard: Guard, folder: Path, monkeypatch: pytest.MonkeyPatch) -> InCluster:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(guard.port))
    (folder / "token").write_text("t1\n")
    (folder / "ca.crt").write_bytes(guard.certificate.read_bytes())
    return InCluster(folder)


async def test_in_cluster_a_rotated_token_is_taken_up_after_401(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = await connect(service_account(guard, tmp_path, monkeypatch), component="test", version="0")
    assert (await transport.request("GET", "/", query={}, timeouts=QUICK)).status == 200
    (tmp_path / "token").write_text("t2")
    guard.accepted = {"t2"}
    both = await asyncio.gather(*(transport.request("GET", "/", query={}, timeouts=QUICK) for _ in range(2)))
    assert [answer.status for answer in both] == [200, 200]
    guard.accepted = set()
    assert (await transport.request("GET", "/", query={}, timeouts=QUICK)).status == 401
    await transport.close()


async def test_in_cluster_without_files_is_a_clear_error(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = service_account(guard, tmp_path, monkeypatch)
    (tmp_path / "token").unlink()
    with pytest.raises(ValueError, match="token"):
        await status(source)


def kubeconfig(guard: Guard, path: Path, user: dict[str, object]) -> Kubeconfig:
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {"name": "c", "cluster": {"server": guard.url, "certificate-authority": str(guard.certificate)}}
                ],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "",
            }
        )
    )
    return Kubeconfig(str(path), "x")


async def test_a_kubeconfig_with_a_token(guard: Guard, tmp_path: Path) -> None:
    assert await status(kubeconfig(guard, tmp_path / "config", {"token": "t1"})) == [200]


async def test_an_exec_plugin_is_run_again_when_its_token_is_no_longer_accepted(guard: Guard, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "TOKEN"}}
    plugin.write_text(
        f"#!/bin/sh\necho run >> {tmp_path}/runs\necho '{json.dumps(answer)}' | sed s/TOKEN/$(cat {tmp_path}/now)/\n"
    )
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "now").write_text("t1")
    user: dict[str, object] = {
        "exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
    }
    transport = await connect(kubeconfig(guard, tmp_path / "config", user), component="test", version="0")
    assert (await transport.request("GET", "/", query={}, timeouts=QUICK)).status == 200
    (tmp_path / "now").write_text("t2")
    guard.accepted = {"t2"}
    assert (await transport.request("GET", "/", query={}, timeouts=QUICK)).status == 200
    await transport.close()
    assert (tmp_path / "runs").read_text().count("run") == 2


async def test_a_kubeconfig_that_is_missing_or_lacks_the_context_is_a_clear_error(guard: Guard, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kubeconfig"):
        await status(Kubeconfig(str(tmp_path / "none")))
    source = kubeconfig(guard, tmp_path / "config", {"token": "t1"})
    with pytest.raises(ValueError, match="other"):
        await status(Kubeconfig(source.path, "other"))


def test_outside_a_pod_the_kubeconfig_is_the_default() -> None:
    assert default_source({}) == Kubeconfig()


def test_timeouts_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="connect_s"):
        Timeouts(5.0, 5.0)


def test_importing_the_client_leaves_the_official_package_whole_and_its_models_out() -> None:
    program = (
        "import sys; from adapters.kube import kubestore; light = 'pydantic' in sys.modules; "
        "import kubernetes.client, kubernetes.aio; print(light, kubernetes.client.V1Pod.__name__, kubernetes.aio.watch.Watch.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "V1Pod", "Watch"]
