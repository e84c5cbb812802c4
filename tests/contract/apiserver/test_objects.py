"""The life of an object: names, generations, status, finalizers, owners, namespaces."""

from __future__ import annotations

from tests.contract.apiserver.client import JSON_PATCH, Client
from tests.contract.apiserver.widgets import widget


async def test_a_created_object_has_server_side_metadata(server: Client, widgets: str, namespace: str) -> None:
    created = await server.post(widgets, widget("a"))
    metadata = created.body["metadata"]
    assert created.status == 201
    assert (metadata["generation"], metadata["namespace"]) == (1, namespace)
    assert len(metadata["uid"]) == 36
    assert metadata["creationTimestamp"].endswith("Z")


async def test_generated_names_differ_and_keep_the_prefix(server: Client, widgets: str) -> None:
    template = widget("")
    template["metadata"] = {"generateName": "gen-"}
    names = {(await server.post(widgets, template)).body["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("gen-") and len(name) == 9 for name in names)


async def test_an_invalid_name_is_refused(server: Client, widgets: str) -> None:
    for name in ("Upper", "under_score", "-dash", "x" * 254):
        reply = await server.post(widgets, widget(name))
        assert (reply.status, reply.causes) == (422, {"metadata.name": "FieldValueInvalid"}), name


async def test_a_body_for_another_name_or_kind_is_refused(server: Client, widgets: str) -> None:
    created = (await server.post(widgets, widget("a"))).body
    other_name = {**created, "metadata": {**created["metadata"], "name": "b"}}
    assert (await server.put(f"{widgets}/a", other_name)).status == 400
    # Kubernetes 1.37 answers 422 (kind: Invalid value), the embedded server 400.
    assert (await server.post(widgets, {**widget("c"), "kind": "Gadget"})).status in (400, 422)


async def test_missing_things_are_not_found(server: Client, widgets: str) -> None:
    for method in ("GET", "DELETE"):
        reply = await server.request(method, f"{widgets}/none")
        assert (reply.status, reply.reason, reply.body["details"]["name"]) == (404, "NotFound", "none")
    assert (await server.patch(f"{widgets}/none", {"spec": {"size": 2}})).status == 404
    assert (await server.put(f"{widgets}/none", widget("none"))).status in (404, 422)
    assert (await server.get("/apis/contract.nephila.io/v1/gadgets")).status == 404


async def test_empty_strings_are_kept(server: Client, widgets: str) -> None:
    assert (await server.post(widgets, widget("a", owner=""))).body["spec"]["owner"] == ""
    assert (await server.get(f"{widgets}/a")).body["spec"]["owner"] == ""


async def test_generation_grows_with_the_spec_only(server: Client, widgets: str) -> None:
    await server.post(widgets, widget("a"))
    labelled = await server.patch(f"{widgets}/a", {"metadata": {"labels": {"x": "y"}}})
    status = await server.patch(f"{widgets}/a/status", {"status": {"phase": "Ready"}})
    spec = await server.patch(f"{widgets}/a", {"spec": {"size": 2}})
    assert [reply.body["metadata"]["generation"] for reply in (labelled, status, spec)] == [1, 1, 2]


async def test_status_is_written_only_through_its_subresource(server: Client, widgets: str) -> None:
    created = await server.post(widgets, {**widget("a"), "status": {"phase": "Forged"}})
    assert "status" not in created.body
    through_main = await server.patch(f"{widgets}/a", {"status": {"phase": "Forged"}})
    assert "status" not in through_main.body
    proper = await server.patch(f"{widgets}/a/status", {"status": {"phase": "Ready"}, "spec": {"size": 9}})
    assert (proper.body["status"], proper.body["spec"]["size"]) == ({"phase": "Ready"}, 1)
    replaced = {**proper.body, "status": {"phase": "Later"}, "spec": {**proper.body["spec"], "size": 9}}
    put = await server.put(f"{widgets}/a/status", replaced)
    assert (put.body["status"], put.body["spec"]["size"]) == ({"phase": "Later"}, 1)
    after_main = await server.put(f"{widgets}/a", {**put.body, "status": {"phase": "Forged"}})
    assert after_main.body["status"] == {"phase": "Later"}


async def test_a_stale_status_write_is_refused(server: Client, widgets: str) -> None:
    created = await server.post(widgets, widget("a"))
    await server.patch(f"{widgets}/a", {"spec": {"size": 2}})
    stale = {"metadata": {"resourceVersion": created.version}, "status": {"phase": "Ready"}}
    assert (await server.patch(f"{widgets}/a/status", stale)).status == 409


async def test_a_finalizer_holds_an_object_until_it_is_taken_off(server: Client, widgets: str) -> None:
    held = widget("a")
    held["metadata"]["finalizers"] = ["nephila.io/test"]
    await server.post(widgets, held)
    version = (await server.get(widgets)).version
    deleted = await server.delete(f"{widgets}/a")
    assert deleted.status == 200
    waiting = await server.get(f"{widgets}/a")
    assert waiting.body["metadata"]["deletionTimestamp"]
    more = await server.patch(f"{widgets}/a", {"metadata": {"finalizers": ["nephila.io/test", "nephila.io/more"]}})
    assert more.status == 422, "an object that is going away takes no new finalizers"
    taken_off = [{"op": "remove", "path": "/metadata/finalizers"}]
    assert (await server.patch(f"{widgets}/a", taken_off, JSON_PATCH)).status == 200
    assert (await server.get(f"{widgets}/a")).status == 404
    async with server.watch(widgets, resourceVersion=version) as watch:
        assert [(await watch.next())["type"] for _ in range(2)] == ["MODIFIED", "DELETED"]


async def test_a_second_delete_of_a_held_object_changes_nothing(server: Client, widgets: str) -> None:
    held = widget("a")
    held["metadata"]["finalizers"] = ["nephila.io/test"]
    await server.post(widgets, held)
    await server.delete(f"{widgets}/a")
    before = (await server.get(f"{widgets}/a")).version
    assert (await server.delete(f"{widgets}/a")).status == 200
    assert (await server.get(f"{widgets}/a")).version == before
    await server.patch(f"{widgets}/a", {"metadata": {"finalizers": None}})


async def test_dependents_go_when_their_owner_goes(server: Client, widgets: str, namespace: str) -> None:
    owner = (await server.post(widgets, widget("owner"))).body
    reference = {key: owner[key] for key in ("apiVersion", "kind")}
    reference |= {"name": "owner", "uid": owner["metadata"]["uid"]}
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    await server.post(path, {"metadata": {"name": "dependent", "ownerReferences": [reference]}})
    await server.post(path, {"metadata": {"name": "bystander"}})
    await server.delete(f"{widgets}/owner")
    await server.gone(f"{path}/dependent")
    assert (await server.get(f"{path}/bystander")).status == 200


async def test_a_namespace_takes_its_contents_with_it(server: Client, unique: str) -> None:
    created = await server.post("/api/v1/namespaces", {"metadata": {"name": unique}})
    assert created.body["metadata"]["labels"]["kubernetes.io/metadata.name"] == unique
    inside = f"/api/v1/namespaces/{unique}/configmaps"
    held = {"metadata": {"name": "a", "finalizers": ["nephila.io/test"]}}
    assert (await server.post(inside, held)).status == 201
    assert (await server.delete(f"/api/v1/namespaces/{unique}")).status == 200
    terminating = await server.get(f"/api/v1/namespaces/{unique}")
    assert terminating.body["status"]["phase"] == "Terminating"
    refused = await server.post(inside, {"metadata": {"name": "late"}})
    assert (refused.status, refused.reason) == (403, "Forbidden")
    await server.until(f"{inside}/a", lambda reply: "deletionTimestamp" in reply.body["metadata"])
    await server.patch(f"{inside}/a", {"metadata": {"finalizers": None}})
    await server.gone(f"/api/v1/namespaces/{unique}")


async def test_nothing_is_created_in_a_namespace_that_is_not_there(server: Client, unique: str) -> None:
    reply = await server.post(f"/api/v1/namespaces/{unique}/configmaps", {"metadata": {"name": "a"}})
    assert (reply.status, reply.body["details"]["kind"]) == (404, "namespaces")


async def test_a_dry_run_stores_nothing(server: Client, widgets: str) -> None:
    created = await server.post(widgets, widget("a"), dryRun="All")
    assert (created.status, created.body["spec"]["mode"]) == (201, "Safe")
    assert (await server.get(f"{widgets}/a")).status == 404
    assert (await server.post(widgets, widget("b", size=-1), dryRun="All")).status == 422


async def test_unknown_media_types_are_refused(server: Client, widgets: str) -> None:
    body = b"k8s\x00"
    reply = await server.request("POST", widgets, body, content_type="text/plain")
    assert reply.status == 415
    assert (await server.get(widgets, accept="image/png")).status == 406
    assert (await server.patch(widgets + "/a", {}, "application/strategic-merge-patch+json")).status in (404, 415)


async def test_yaml_is_read(server: Client, widgets: str) -> None:
    text = "apiVersion: contract.nephila.io/v1\nkind: Widget\nmetadata: {name: a}\nspec: {size: 4, owner: 2026-01-01}\n"
    reply = await server.request("POST", widgets, text.encode(), content_type="application/yaml")
    assert (reply.status, reply.body["spec"]["owner"]) == (201, "2026-01-01")
