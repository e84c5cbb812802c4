"""The program as users start it: quick to help, its options anywhere, completion, and every command against a real HTTP API."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from adapters.clock import SystemClock
from adapters.entropy import SystemEntropy
from adapters.kube.kubestore import KubeStore
from adapters.kube.store import Stored
from adapters.kube.transport import Explicit, connect
from cli.connection import Options, default_namespace
from cli.failures import CliError
from cli.main import app, hoisted
from cli.running import chosen_format
from crds.core import NODE
from crds.meta import Kind, KubeObject, constant
from crds.nephila import IP_BLOCK, IP_NODE
from crds.spiderpool import ENDPOINT, IP_POOL
from e2e.apiserver.server import EmbeddedServer

CRDS = Path(__file__).parents[3] / "crds" / "yaml"
HEAVY = ("aiohttp", "kubernetes", "msgspec", "rich", "yaml", "tenacity", "adapters", "crds", "ipam", "cli.commands")


def modules_of(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split("MODULES ")[1].split())


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
sys.argv = ["nephila", "--help"]
from cli.main import main
try:
    main()
except SystemExit:
    pass
print("MODULES", *sys.modules)
"""
    loaded = modules_of(code)
    assert "cli.main" in loaded
    assert [name for name in HEAVY if name in loaded] == []


@pytest.mark.parametrize("shim", ["console", "script"])
def test_kubectl_completes_our_commands(shim: str, tmp_path: Path) -> None:
    program = tmp_path / "nephila"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cli "$@"\n')
    program.chmod(0o755)
    arguments = [str(CRDS.parents[1] / "cli" / "kubectl_complete-nephila"), "tr"]
    if shim == "console":
        arguments = [sys.executable, "-c", "from cli.main import kubectl_complete; kubectl_complete()", "tr"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False, cwd=CRDS.parents[1])
    assert done.stdout.split() == ["trace", ":4"], done.stderr


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        ("pools --context c -o json", "--context c pools -o json"),
        ("trace pod -n shop web --server=http://x", "-n shop --server=http://x trace pod web"),
        ("--kubeconfig k status", "--kubeconfig k status"),
        ("lab shell node-1 kubectl -n x get pods", "lab shell node-1 kubectl -n x get pods"),
        ("--context c lab shell a -n x", "--context c lab shell a -n x"),
        ("release -- --context x", "release -- --context x"),
        ("status --context", "status --context"),
    ],
)
def test_connection_options_may_stand_anywhere(typed: str, parsed: str) -> None:
    assert hoisted(typed.split()) == parsed.split()


def test_the_namespace_is_that_of_the_context(tmp_path: Path) -> None:
    config = tmp_path / "config"
    contexts = [{"name": "a", "context": {"namespace": "shop"}}, {"name": "b", "context": {}}]
    config.write_text(json.dumps({"current-context": "a", "contexts": contexts}))
    environ = {"KUBECONFIG": f"{tmp_path}/absent{os.pathsep}{config}"}
    assert default_namespace(Options(), environ) == "shop"
    assert default_namespace(Options(context="b"), environ) == "default"
    assert default_namespace(Options(server="http://x"), environ) == "default"


def test_a_format_that_does_not_exist_is_named() -> None:
    with pytest.raises(CliError, match="-o table: no such format"):
        chosen_format("table")


@dataclass
class Running:
    """The embedded API server with our CRDs, and the program started against it."""

    server: EmbeddedServer
    kubeconfig: Path
    store: KubeStore

    async def nephila(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """(exit code, stdout, stderr). In a thread with an event loop of its own: the server answers from this one."""
        environment = {"KUBECONFIG": str(self.kubeconfig)}
        done = await asyncio.to_thread(
            CliRunner().invoke, app, hoisted(list(arguments)), input=stdin, env=environment, catch_exceptions=False
        )
        return done.exit_code, done.stdout, done.stderr


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    server = EmbeddedServer()
    await server.start()
    server.install_crds(CRDS)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(server.kubeconfig())
    transport = await connect(Explicit(server.url, token="test"), component="test", version="0")
    yield Running(server, kubeconfig, KubeStore(transport, SystemClock(), SystemEntropy()))
    await transport.close()
    await server.stop()


class PodAsWritten(KubeObject):
    """A pod with its containers, which the API server insists on."""

    api_version: str = constant("v1")
    kind: str = constant("Pod")
    spec: dict[str, Any]


POD_AS_WRITTEN = Kind("", "v1", "Pod", "pods", "pod", True, PodAsWritten)


async def make(running: Running, kind: Kind[Any], wire: dict[str, Any]) -> Any:
    outcome = await running.store.create(kind, kind.from_builtins(wire))
    assert isinstance(outcome, Stored), outcome
    return outcome.object


async def populate(running: Running) -> None:
    """One node, one pool of three addresses, one pod with one of them, and a leftover of a pod that is gone."""
    node = await make(running, NODE, {"metadata": {"name": "node-1"}})
    await make(running, IP_NODE, {"metadata": {"name": "node-1"}})
    pool = {"subnet": "10.1.0.0/24", "ips": ["10.1.0.1-10.1.0.3"], "default": True}
    await make(running, IP_POOL, {"metadata": {"name": "p"}, "spec": pool})
    spec: dict[str, Any] = {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]}
    pod = await make(running, POD_AS_WRITTEN, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    lease = {"node": "node-1", "nodeUID": node.uid, "slots": "1-2", "epoch": 6}
    spec = {"page": "10.1.0.0/26", "domain": "", "epoch": 6, "term": 0, "leases": [lease]}
    await make(running, IP_BLOCK, {"metadata": {"name": "ip4-10-1-0-0"}, "spec": spec})
    for name, uid, ip in (("web", pod.uid, "10.1.0.1/24"), ("gone", "dead", "10.1.0.3/24")):
        status = {
            "current": {"uid": uid, "node": "node-1", "ips": [{"interface": "eth0", "ipv4": ip, "ipv4Pool": "p"}]},
            "ownerControllerType": "Pod",
            "ownerControllerName": name,
        }
        await make(running, ENDPOINT, {"metadata": {"name": name, "namespace": "default"}, "status": status})


async def test_the_commands_over_http(running: Running) -> None:
    await populate(running)
    status, out, err = await running.nephila("pools", "-o", "json")
    assert (status, err) == (0, "")
    assert [(row["name"], row["used"], row["free"]) for row in msgspec.json.decode(out)] == [("p", 2, 1)]
    status, out, _ = await running.nephila("status")
    assert status == 0
    assert "1 node whose agent never beat: node-1" in out
    status, out, _ = await running.nephila("trace", "pod", "web", "--context", "embedded")
    assert (status, out.splitlines()[0]) == (0, "10.1.0.1: allocated")
    status, out, _ = await running.nephila("free", "p")
    assert (status, out.splitlines()[:2]) == (0, ["p: 1 free address", "  10.1.0.2"])
    status, out, _ = await running.nephila("fsck", "--settle", "0", "-o", "yaml")
    assert (status, "violations: []" in out) == (0, True)
    status, out, _ = await running.nephila("explain", "pod", "default/web")
    assert (status, "has its addresses already" in out) == (0, True)
    manifest = '{kind: Pod, metadata: {name: x, annotations: {ipam.spidernet.io/ippool: "{\\"ipv4\\": [\\"q\\"]}"}}}'
    status, out, _ = await running.nephila("explain", "--dry-run", "-f", "-", stdin=manifest)
    assert (status, "IPPool 'q'" in out) == (1, True)
    status, out, _ = await running.nephila("migrate", "from-spiderpool")
    assert (status, "adopt 0 addresses" in out) == (0, True)


PLANNED = """
apiVersion: v1
kind: Pod
metadata:
  name: planned
  annotations:
    ipam.spidernet.io/ippool: '{"ipv4": ["%s"]}'
spec:
  containers: [{name: c, image: i}]
"""


async def test_a_pod_is_explained_from_its_file_before_it_exists(running: Running, tmp_path: Path) -> None:
    await populate(running)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    node = await running.store.get(NODE, "node-1")
    assert node is not None
    beat = {"sequence": 1, "bootID": "b", "nodeUID": node.uid, "renewTime": now}
    await running.store.patch(IP_NODE, "node-1", {"status": {"heartbeat": beat}}, subresource="status")
    file = tmp_path / "pod.yaml"
    file.write_text(PLANNED % "p")
    status, out, err = await running.nephila("explain", "pod", "--dry-run", "-f", str(file))
    assert (status, err) == (0, ""), out
    assert "default/planned" in out and "1. p: 1 of 3 addresses free" in out
    await running.store.patch(IP_POOL, "p", {"spec": {"disable": True}})
    status, out, _ = await running.nephila("explain", "pod", "--dry-run", "-f", str(file))
    assert (status, "NO ADDRESS: " in out, "p: it is disabled" in out) == (1, True, True), out
    file.write_text(PLANNED % "q")
    status, out, _ = await running.nephila("explain", "pod", "--dry-run", "-f", str(file), "-o", "json")
    (eth0,) = msgspec.json.decode(out)["interfaces"]
    assert (status, "IPPool 'q'" in eth0["cause"], "create it, or correct the name" in eth0["fix"]) == (1, True, True)


async def test_changes_over_http_are_guarded(running: Running) -> None:
    await populate(running)
    status, _, err = await running.nephila("release", "10.1.0.3")
    assert (status, "--confirm" in err) == (2, True)
    status, out, _ = await running.nephila("release", "10.1.0.3", "--confirm")
    assert (status, out) == (0, "SpiderEndpoint default/gone deleted: its pod is gone\n")
    status, _, err = await running.nephila("release", "10.1.0.1", "--confirm")
    assert (status, "pod default/web (eth0) on node-1 has it" in err) == (4, True)
    status, _, err = await running.nephila("node", "fence", "node-1")
    assert (status, "powered off" in err) == (2, True)
    status, _, err = await running.nephila("node", "fence", "node-1", "--confirm")
    assert (status, "no fence mark stands" in err) == (4, True)
    mark = {"spec": {"fence": {"id": "1-a", "term": 1, "since": "2026-07-25T12:00:00Z"}}}
    await running.store.patch(IP_NODE, "node-1", mark)
    status, _, err = await running.nephila("node", "fence", "node-1", "--confirm")
    assert (status, err) == (0, "")
    mailbox = await running.store.get(IP_NODE, "node-1")
    assert mailbox is not None
    assert mailbox.annotations == {"nephila.io/reclaim-confirmed": "1-a"}


async def test_a_spiderpool_cluster_is_adopted_over_http(running: Running) -> None:
    await populate(running)
    await running.store.delete(IP_BLOCK, "ip4-10-1-0-0")
    status, out, err = await running.nephila("migrate", "from-spiderpool", "--apply")
    assert (status, err) == (0, "written: 1 block\n")
    assert "adopt   10.1.0.1  p  default/web eth0 on node-1, as Pod default/web" in out
    block = await running.store.get(IP_BLOCK, "ip4-10-1-0-0")
    assert block is not None
    assert [(pin.slot, pin.owner.name) for pin in block.spec.pins] == [(1, "web")]
    status, out, _ = await running.nephila("trace", "ip", "10.1.0.1")
    assert "pin          Pod default/web eth0 (held by pod UID" in out


async def test_doctor_judges_a_cluster(running: Running, tmp_path: Path) -> None:
    status, out, _ = await running.nephila("doctor", "--host-root", str(tmp_path), "-o", "json")
    lines = {line["what"]: line["level"] for line in msgspec.json.decode(out)}
    assert lines["CRDs"] == "ok"
    assert lines["API server"] == "ok"
    assert status == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("pools", "-o", "csv"), 2, "-o csv: no such format"),
        (("trace", "ip", "10.1"), 2, "'10.1' is not an IP address"),
        (("free", "none"), 1, "SpiderIPPool 'none' does not exist"),
        (("trace", "pod", "default/none"), 1, "pod default/none does not exist"),
        (("trace", "mac", "02:00:00:00:00:01"), 1, "nobody is known with MAC"),
        (("explain", "pod", "a/b/c"), 2, "write NAMESPACE/NAME"),
        (("explain", "--dry-run", "-f", "/absent"), 2, "-f /absent: cannot be read"),
        (("explain", "pod", "--dry-run", "-f", "/absent"), 2, "-f /absent: cannot be read"),
        (("pools", "--server", "http://127.0.0.1:1"), 3, "the API server does not answer"),
        (("pools", "--kubeconfig", "/absent"), 3, "--kubeconfig /absent: no such file"),
    ],
)
async def test_an_error_is_one_line_and_an_exit_code(
    running: Running, arguments: tuple[str, ...], code: int, says: str
) -> None:
    status, out, err = await running.nephila(*arguments)
    assert (status, out, err.count("\n")) == (code, "", 1), err
    assert says in err
    assert err.startswith("error: ")


async def test_a_cluster_without_our_crds_is_told_what_to_install(tmp_path: Path) -> None:
    server = EmbeddedServer()
    await server.start()
    try:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(server.kubeconfig())
        transport = await connect(Explicit(server.url, token="test"), component="test", version="0")
        bare = Running(server, kubeconfig, KubeStore(transport, SystemClock(), SystemEntropy()))
        status, _, err = await bare.nephila("status")
        assert (status, "install Nephila's CRDs" in err) == (3, True)
        await transport.close()
    finally:
        await server.stop()


async def test_what_is_asked_after_says_which_command_is_meant(running: Running) -> None:
    await populate(running)
    for short, whole in (
        (("trace", "10.1.0.1"), ("trace", "ip", "10.1.0.1")),
        (("trace", "default/web"), ("trace", "pod", "default/web")),
        (("explain", "default/web"), ("explain", "pod", "default/web")),
    ):
        assert await running.nephila(*short) == await running.nephila(*whole)
        assert (await running.nephila(*short))[0] == 0
    status, _, err = await running.nephila("trace", "02:00:00:00:00:99")
    assert status == 1 and "nobody is known with MAC" in err
    status, _, err = await running.nephila("trace", "lobster")
    assert status == 2 and "No such command 'lobster'" in err
