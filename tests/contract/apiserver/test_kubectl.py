"""The real kubectl against the server: what users and the end-to-end tests do all day."""

from __future__ import annotations

import json
from pathlib import Path

from tests.contract.apiserver.client import Client

MANIFEST = """
apiVersion: contract.nephila.io/v1
kind: Widget
metadata:
  name: a
  annotations: {example.io/team: red}
spec: {size: %d, ips: [10.0.0.1]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {key: value}
"""


async def _run(server: Client, namespace: str, *arguments: str, stdin: str | None = None) -> str:
    status, out, err = await server.kubectl(f"--namespace={namespace}", *arguments, stdin=stdin)
    assert status == 0, (arguments, err)
    return out


async def test_apply_twice_then_change(server: Client, widgets: str, namespace: str) -> None:
    created = await _run(server, namespace, "apply", "-f", "-", stdin=MANIFEST % 3)
    assert "widget.contract.nephila.io/a created" in created
    assert (await _run(server, namespace, "apply", "-f", "-", stdin=MANIFEST % 3)).count("unchanged") == 2
    assert "configured" in await _run(server, namespace, "apply", "-f", "-", stdin=MANIFEST % 4)
    assert (await server.get(f"{widgets}/a")).body["spec"]["size"] == 4


async def test_apply_tells_why_it_was_refused(server: Client, widgets: str, namespace: str) -> None:
    await _run(server, namespace, "apply", "-f", "-", stdin=MANIFEST % 3)
    status, _, err = await server.kubectl(f"--namespace={namespace}", "apply", "-f", "-", stdin=MANIFEST % 2)
    assert status != 0
    assert "a Safe widget may not shrink" in err
    status, _, err = await server.kubectl(
        f"--namespace={namespace}", "apply", "-f", "-", stdin=(MANIFEST % 3).replace("size:", "sise: 1, size:")
    )
    assert status != 0
    assert 'unknown field "spec.sise"' in err


async def test_apply_server_side(server: Client, widgets: str, namespace: str) -> None:
    out = await _run(server, namespace, "apply", "--server-side", "-f", "-", stdin=MANIFEST % 3)
    assert "widget.contract.nephila.io/a serverside-applied" in out
    other = ("apply", "--server-side", "--field-manager=other", "-f", "-")
    status, _, err = await server.kubectl(f"--namespace={namespace}", *other, stdin=MANIFEST % 5)
    assert (status != 0, ".spec.size" in err) == (True, True)
    await _run(server, namespace, *other, "--force-conflicts", stdin=MANIFEST % 5)
    assert (await server.get(f"{widgets}/a")).body["spec"]["size"] == 5


async def test_get_prints_the_columns(server: Client, widgets: str, namespace: str) -> None:
    await _run(server, namespace, "apply", "-f", "-", stdin=MANIFEST % 3)
    assert (await _run(server, namespace, "get", "wdg")).split() == [
        "NAME",
        "SIZE",
        "FIRST",
        "TEAM",
        "a",
        "3",
        "10.0.0.1",
        "red",
    ]
    wide = (await _run(server, namespace, "get", "toys", "-o", "wide")).split()
    assert wide == ["NAME", "SIZE", "FIRST", "TEAM", "PHASE", "a", "3", "10.0.0.1", "red"]
    several = await _run(server, namespace, "get", "wdg,cm")
    assert "widget.contract.nephila.io/a" in several
    assert "configmap/settings" in several
    custom = await _run(
        server, namespace, "get", "wdg", "-o", "custom-columns=N:.metadata.name,S:.spec.size", "--no-headers"
    )
    assert custom.split() == ["a", "3"]
    assert json.loads(await _run(server, namespace, "get", "widget", "a", "-o", "json"))["spec"]["size"] == 3


async def test_patch_wait_and_delete(server: Client, widgets: str, namespace: str) -> None:
    await _run(server, namespace, "apply", "-f", "-", stdin=MANIFEST % 3)
    status = '{"status":{"conditions":[{"type":"Ready","status":"True"}]}}'
    await _run(server, namespace, "patch", "wdg", "a", "--type=merge", "--subresource=status", "-p", status)
    await _run(server, namespace, "wait", "--for=condition=Ready", "wdg/a", "--timeout=10s")
    await _run(server, namespace, "wait", "--for=jsonpath={.spec.size}=3", "wdg/a", "--timeout=10s")
    await _run(server, namespace, "label", "wdg", "a", "tier=x")
    await _run(server, namespace, "annotate", "cm", "settings", "note=y")
    assert "a" in await _run(server, namespace, "get", "wdg", "-l", "tier=x", "-o", "name")
    await _run(server, namespace, "delete", "wdg", "a", "--timeout=10s")
    await _run(server, namespace, "wait", "--for=delete", "wdg/a", "--timeout=10s")
    assert (await server.get(f"{widgets}/a")).status == 404


async def test_strategic_patch_of_a_workload(server: Client, namespace: str) -> None:
    manifest = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: main, image: registry.invalid/a}
      - {name: side, image: registry.invalid/b}
"""
    await _run(server, namespace, "apply", "-f", "-", stdin=manifest)
    await _run(server, namespace, "apply", "-f", "-", stdin=manifest.replace("/b}", "/c}"))
    await _run(server, namespace, "set", "image", "deploy/web", "main=registry.invalid/d")
    images = await _run(
        server, namespace, "get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[*].image}"
    )
    assert images == "registry.invalid/d registry.invalid/c"
    await _run(server, namespace, "scale", "deploy", "web", "--replicas=0")
    removed = manifest.replace("      - {name: side, image: registry.invalid/b}\n", "").replace("/a}", "/d}")
    await _run(server, namespace, "apply", "-f", "-", stdin=removed)
    names = await _run(
        server, namespace, "get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[*].name}"
    )
    assert names == "main"


async def test_our_kinds_are_found_by_their_short_names(server: Client, namespace: str) -> None:
    ours = Path(__file__).resolve().parents[3] / "crds" / "yaml"
    await _run(server, namespace, "apply", "--server-side", "-f", str(ours))
    await _run(server, namespace, "wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
    status, out, err = await server.kubectl(f"--namespace={namespace}", "get", "sp,se")
    assert (status, out, "No resources found" in err) == (0, "", True)


async def test_imperative_commands(server: Client, namespace: str, unique: str) -> None:
    """These send protobuf, or patches that depend on what the server says of itself."""
    await _run(server, namespace, "create", "configmap", "c", "--from-literal=a=b")
    await _run(server, namespace, "create", "secret", "generic", "s", "--from-literal=p=q")
    await _run(server, namespace, "create", "serviceaccount", "agent")
    assert (await server.get(f"/api/v1/namespaces/{namespace}/configmaps/c")).body["data"] == {"a": "b"}
    assert (await server.get(f"/api/v1/namespaces/{namespace}/secrets/s")).body["data"] == {"p": "cQ=="}
    assert (await _run(server, namespace, "create", "token", "agent")).strip()
    await _run(server, namespace, "create", "namespace", f"{unique}-b")
    await _run(server, namespace, "delete", "namespace", f"{unique}-b", "--timeout=20s")


async def test_a_node_is_cordoned_and_drained(server: Client, namespace: str, unique: str) -> None:
    await server.post("/api/v1/nodes", {"metadata": {"name": unique}})
    pod = {
        "nodeName": unique,
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "x.invalid/x"}],
    }
    path = f"/api/v1/namespaces/{namespace}/pods"
    await server.post(path, {"metadata": {"name": "a"}, "spec": pod})
    await _run(server, namespace, "drain", unique, "--force", "--timeout=20s")
    assert (await server.get(f"{path}/a")).status == 404
    assert (await server.get(f"/api/v1/nodes/{unique}")).body["spec"]["unschedulable"] is True
    await _run(server, namespace, "uncordon", unique)
    await server.delete(f"/api/v1/nodes/{unique}")


async def test_events_and_describe(server: Client, widgets: str, namespace: str) -> None:
    await _run(server, namespace, "apply", "-f", "-", stdin=MANIFEST % 3)
    uid = (await server.get(f"{widgets}/a")).body["metadata"]["uid"]
    about = {"kind": "Widget", "apiVersion": "contract.nephila.io/v1", "namespace": namespace, "name": "a", "uid": uid}
    event = {
        "metadata": {"name": "a.1"},
        "involvedObject": about,
        "reason": "Tried",
        "message": "it went well",
        "type": "Normal",
        "count": 1,
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    assert (await server.post(f"/api/v1/namespaces/{namespace}/events", event)).status == 201
    assert "it went well" in await _run(server, namespace, "describe", "wdg", "a")
    assert "Tried" in await _run(server, namespace, "get", "events")
