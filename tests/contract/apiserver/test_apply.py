"""Server-side apply: who owns a field, who may change it, and what goes when it is no longer stated."""

from __future__ import annotations

from typing import Any

from tests.contract.apiserver.client import Client
from tests.contract.apiserver.widgets import API_VERSION, widget


def _stated(name: str, **parts: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": "Widget", "metadata": {"name": name}, **parts}


def _managers(body: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(one["manager"], one["operation"], one.get("subresource", "")) for one in body["metadata"]["managedFields"]}


async def test_apply_creates_and_then_changes(server: Client, widgets: str) -> None:
    created = await server.apply(f"{widgets}/a", _stated("a", spec={"size": 1}), "alice")
    changed = await server.apply(f"{widgets}/a", _stated("a", spec={"size": 2}), "alice")
    assert (created.status, changed.status, changed.body["spec"]["size"]) == (201, 200, 2)
    assert _managers(changed.body) == {("alice", "Apply", "")}


async def test_apply_without_a_manager_is_refused(server: Client, widgets: str) -> None:
    body = _stated("a", spec={"size": 1})
    assert (await server.patch(f"{widgets}/a", body, "application/apply-patch+yaml")).status in (400, 422)


async def test_a_repeated_apply_keeps_the_version(server: Client, widgets: str) -> None:
    body = _stated("a", spec={"size": 1, "labels": {"x": "y"}})
    first = await server.apply(f"{widgets}/a", body, "alice")
    assert (await server.apply(f"{widgets}/a", body, "alice")).version == first.version


async def test_another_managers_field_is_a_conflict_unless_forced(server: Client, widgets: str) -> None:
    await server.apply(f"{widgets}/a", _stated("a", spec={"size": 1, "owner": "x"}), "alice")
    refused = await server.apply(f"{widgets}/a", _stated("a", spec={"size": 2}), "bob")
    assert (refused.status, refused.reason) == (409, "Conflict")
    assert refused.causes == {".spec.size": "FieldManagerConflict"}
    assert 'conflict with "alice"' in refused.body["message"]
    forced = await server.apply(f"{widgets}/a", _stated("a", spec={"size": 2}), "bob", force="true")
    assert (forced.status, forced.body["spec"]["size"], forced.body["spec"]["owner"]) == (200, 2, "x")
    back = await server.apply(f"{widgets}/a", _stated("a", spec={"size": 3, "owner": "x"}), "alice")
    assert (back.status, back.causes) == (409, {".spec.size": "FieldManagerConflict"})


async def test_the_same_value_is_shared_without_conflict(server: Client, widgets: str) -> None:
    await server.apply(f"{widgets}/a", _stated("a", spec={"size": 1}), "alice")
    shared = await server.apply(f"{widgets}/a", _stated("a", spec={"size": 1}), "bob")
    assert shared.status == 200
    assert _managers(shared.body) == {("alice", "Apply", ""), ("bob", "Apply", "")}


async def test_a_field_written_by_update_belongs_to_the_updater(server: Client, widgets: str) -> None:
    await server.post(widgets, widget("a", owner="me"), fieldManager="editor")
    refused = await server.apply(f"{widgets}/a", _stated("a", spec={"size": 1, "owner": "you"}), "alice")
    assert refused.causes == {".spec.owner": "FieldManagerConflict"}


async def test_what_is_no_longer_stated_goes_unless_others_state_it(server: Client, widgets: str) -> None:
    await server.apply(f"{widgets}/a", _stated("a", spec={"size": 1, "labels": {"x": "1", "y": "2"}}), "alice")
    await server.apply(f"{widgets}/a", _stated("a", spec={"size": 1, "labels": {"y": "2"}}), "bob")
    after = await server.apply(f"{widgets}/a", _stated("a", spec={"size": 1}), "alice")
    assert after.body["spec"]["labels"] == {"y": "2"}


async def test_list_elements_are_owned_by_their_key(server: Client, widgets: str) -> None:
    await server.apply(f"{widgets}/a", _stated("a", spec={"size": 1, "ports": [{"name": "x", "number": 1}]}), "alice")
    both = await server.apply(
        f"{widgets}/a", _stated("a", spec={"size": 1, "ports": [{"name": "y", "number": 2}]}), "bob"
    )
    assert {port["name"]: port["number"] for port in both.body["spec"]["ports"]} == {"x": 1, "y": 2}
    left = await server.apply(f"{widgets}/a", _stated("a", spec={"size": 1}), "alice")
    assert left.body["spec"]["ports"] == [{"name": "y", "number": 2}]


async def test_status_is_applied_by_its_own_managers(server: Client, widgets: str) -> None:
    """What our controllers do: two of them state different parts of one status, and neither touches the spec."""
    await server.post(widgets, widget("a"))
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "count": 3}
    first = await server.apply(f"{widgets}/a/status", _stated("a", status=ready), "counter")
    assert first.status == 200, first.body
    synced = {"conditions": [{"type": "Synced", "status": "False"}], "note": "n"}
    second = await server.apply(f"{widgets}/a/status", _stated("a", status=synced), "syncer")
    status = second.body["status"]
    assert {one["type"]: one["status"] for one in status["conditions"]} == {"Ready": "True", "Synced": "False"}
    assert (status["count"], status["note"], second.body["metadata"]["generation"]) == (3, "n", 1)
    assert {("counter", "Apply", "status"), ("syncer", "Apply", "status")} <= _managers(second.body)
    refused = await server.apply(f"{widgets}/a/status", _stated("a", status={"count": 4}), "syncer")
    assert refused.causes == {".status.count": "FieldManagerConflict"}


async def test_apply_with_a_stale_version_is_refused(server: Client, widgets: str) -> None:
    old = (await server.post(widgets, widget("a"))).version
    await server.patch(f"{widgets}/a", {"spec": {"owner": "x"}})
    body = _stated("a", status={"count": 1})
    body["metadata"]["resourceVersion"] = old
    assert (await server.apply(f"{widgets}/a/status", body, "counter")).status == 409


async def test_an_applied_object_is_validated(server: Client, widgets: str) -> None:
    reply = await server.apply(f"{widgets}/a", _stated("a", spec={"size": -1}), "alice")
    assert (reply.status, reply.causes) == (422, {"spec.size": "FieldValueInvalid"})
