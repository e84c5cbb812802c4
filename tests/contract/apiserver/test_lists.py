"""Lists: versions, pages that belong together, selectors, tables."""

from __future__ import annotations

import pytest

from tests.contract.apiserver.client import TABLE, Client
from tests.contract.apiserver.widgets import widget


def _names(body: dict[str, list[dict[str, dict[str, str]]]]) -> list[str]:
    return [item["metadata"]["name"] for item in body["items"]]


@pytest.fixture
async def five(server: Client, widgets: str) -> str:
    for number in range(5):
        await server.post(widgets, widget(f"w{number}", owner="even" if number % 2 == 0 else "odd"))
    return widgets


async def test_pages_show_one_moment(server: Client, five: str) -> None:
    first = await server.get(five, limit="2")
    assert first.body["metadata"]["remainingItemCount"] == 3
    await server.delete(f"{five}/w3")
    await server.post(five, widget("w1b"))
    second = await server.get(five, limit="2", **{"continue": first.body["metadata"]["continue"]})
    third = await server.get(five, limit="2", **{"continue": second.body["metadata"]["continue"]})
    assert _names(first.body) + _names(second.body) + _names(third.body) == ["w0", "w1", "w2", "w3", "w4"]
    assert not third.body["metadata"].get("continue")
    assert first.version == second.version == third.version


async def test_a_page_after_compaction_is_gone(server: Client, five: str, request: pytest.FixtureRequest) -> None:
    if "cluster" in request.node.name:
        pytest.skip("a real server compacts etcd every five minutes; the token's age cannot be hurried")
    first = await server.get(five, limit="2")
    await server.compacted_version(five)
    late = await server.get(five, limit="2", **{"continue": first.body["metadata"]["continue"]})
    assert (late.status, late.reason) == (410, "Expired")
    rest = await server.get(five, **{"continue": late.body["metadata"]["continue"]})
    assert _names(rest.body) == ["w2", "w3", "w4"]


async def test_a_list_at_an_exact_version_shows_the_past(server: Client, five: str) -> None:
    version = (await server.get(five)).version
    await server.delete(f"{five}/w0")
    past = await server.get(five, resourceVersion=version, resourceVersionMatch="Exact")
    assert (_names(past.body), past.version) == (["w0", "w1", "w2", "w3", "w4"], version)
    present = await server.get(five, resourceVersion=version, resourceVersionMatch="NotOlderThan")
    assert _names(present.body) == ["w1", "w2", "w3", "w4"]


@pytest.mark.parametrize(
    "query",
    [
        {"resourceVersionMatch": "Exact"},
        {"resourceVersion": "0", "resourceVersionMatch": "Exact"},
        {"resourceVersion": "x"},
        {"continue": "garbage!"},
        {"fieldSelector": "spec.size=1"},
        {"labelSelector": "a b"},
    ],
    ids=lambda query: "&".join(query),
)
async def test_senseless_list_options_are_bad_requests(server: Client, five: str, query: dict[str, str]) -> None:
    reply = await server.get(five, **query)
    assert reply.status in (400, 422), reply.body


async def test_field_selectors(server: Client, five: str) -> None:
    assert _names((await server.get(five, fieldSelector="metadata.name=w3")).body) == ["w3"]
    assert _names((await server.get(five, fieldSelector="spec.owner=odd")).body) == ["w1", "w3"]
    assert _names((await server.get(five, fieldSelector="spec.owner!=odd,metadata.name!=w0")).body) == ["w2", "w4"]


async def test_label_selectors(server: Client, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    for name, labels in {"a": {"x": "1"}, "b": {"x": "2", "y": ""}, "c": {}}.items():
        await server.post(path, {"metadata": {"name": name, "labels": {"mine": "yes", **labels}}})
    expected = {
        "x": ["a", "b"],
        "!x": ["c"],
        "x=1": ["a"],
        "x!=1": ["b", "c"],
        "x in (1,2),y": ["b"],
        "x notin (2)": ["a", "c"],
    }
    for selector, names in expected.items():
        assert _names((await server.get(path, labelSelector=f"mine=yes,{selector}")).body) == names, selector


async def test_pods_are_selected_by_node_and_phase(server: Client, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    for name, node in (("a", "no-such-node-1"), ("b", "no-such-node-2")):
        spec = {"nodeName": node, "containers": [{"name": "c", "image": "registry.invalid/none"}]}
        created = await server.post(path, {"metadata": {"name": name}, "spec": spec})
        assert created.status == 201, created.body
    assert _names((await server.get(path, fieldSelector="spec.nodeName=no-such-node-2")).body) == ["b"]
    assert _names((await server.get(path, fieldSelector="status.phase=Pending,spec.nodeName=no-such-node-1")).body) == [
        "a"
    ]
    for name in ("a", "b"):
        await server.delete(f"{path}/{name}", {"gracePeriodSeconds": 0})


async def test_tables_have_the_columns_of_the_definition(server: Client, widgets: str) -> None:
    first = widget("a", size=7, ips=["10.1.2.3", "10.1.2.4"])
    first["metadata"]["annotations"] = {"example.io/team": "red"}
    await server.post(widgets, first)
    await server.post(widgets, widget("b"))
    await server.patch(f"{widgets}/a/status", {"status": {"phase": "Ready"}})
    table = (await server.get(widgets, accept=TABLE)).body
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    columns = [(column["name"], column["priority"]) for column in table["columnDefinitions"]]
    assert columns == [("Name", 0), ("SIZE", 0), ("FIRST", 0), ("TEAM", 0), ("PHASE", 1)]
    assert [row["cells"] for row in table["rows"]] == [["a", 7, "10.1.2.3", "red", "Ready"], ["b", 1, None, None, None]]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


async def test_metadata_can_be_listed_alone(server: Client, five: str) -> None:
    accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
    listed = (await server.get(five, accept=accept)).body
    assert listed["kind"] == "PartialObjectMetadataList"
    assert _names(listed) == ["w0", "w1", "w2", "w3", "w4"]
    assert all("spec" not in item for item in listed["items"])


async def test_a_collection_is_deleted_by_selector(server: Client, five: str) -> None:
    reply = await server.request("DELETE", five, query={"fieldSelector": "spec.owner=odd"})
    assert reply.status == 200
    assert _names((await server.get(five)).body) == ["w0", "w2", "w4"]


async def test_a_version_from_the_future_is_not_served(server: Client, widgets: str) -> None:
    far = str(int((await server.get(widgets)).version) + 1_000_000)
    reply = await server.get(widgets, resourceVersion=far, resourceVersionMatch="NotOlderThan")
    assert (reply.status, reply.reason) == (504, "Timeout")
