"""Watches: what is delivered, from where they resume, and when they are refused."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.contract.apiserver.client import Client, Watch
from tests.contract.apiserver.widgets import widget


async def _events(watch: Watch, count: int) -> list[tuple[str, str]]:
    events = [await watch.next() for _ in range(count)]
    return [(event["type"], event["object"]["metadata"]["name"]) for event in events]


async def test_a_watch_resumes_after_the_version_it_names(server: Client, widgets: str) -> None:
    await server.post(widgets, widget("before"))
    version = (await server.get(widgets)).version
    await server.post(widgets, widget("after"))
    await server.patch(f"{widgets}/after", {"spec": {"size": 2}})
    await server.delete(f"{widgets}/before")
    async with server.watch(widgets, resourceVersion=version) as watch:
        assert await _events(watch, 3) == [("ADDED", "after"), ("MODIFIED", "after"), ("DELETED", "before")]


async def test_versions_of_events_grow_and_a_deletion_has_its_own(server: Client, widgets: str) -> None:
    version = (await server.get(widgets)).version
    created = await server.post(widgets, widget("a"))
    await server.delete(f"{widgets}/a")
    async with server.watch(widgets, resourceVersion=version) as watch:
        added, deleted = await watch.next(), await watch.next()
    assert added["object"]["metadata"]["resourceVersion"] == created.version
    assert int(deleted["object"]["metadata"]["resourceVersion"]) > int(created.version)


async def test_a_watch_without_a_version_starts_with_what_exists(server: Client, widgets: str) -> None:
    await server.post(widgets, widget("a"))
    async with server.watch(widgets) as watch:
        assert await _events(watch, 1) == [("ADDED", "a")]
        await server.post(widgets, widget("b"))
        assert await _events(watch, 1) == [("ADDED", "b")]


async def test_a_live_watch_delivers_in_order(server: Client, widgets: str) -> None:
    version = (await server.get(widgets)).version
    async with server.watch(widgets, resourceVersion=version) as watch:
        for number in range(20):
            await server.post(widgets, widget(f"w{number}"))
        assert await _events(watch, 20) == [("ADDED", f"w{number}") for number in range(20)]


async def _bookmark(server: Client, path: str, version: str) -> dict[str, Any]:
    """The first bookmark of a watch. A server need not send any, so a few watches are tried."""
    query = {"resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": "8"}
    for _ in range(4):
        async with server.watch(path, **query) as watch:
            try:
                while (event := await watch.next())["type"] != "BOOKMARK":
                    pass
            except EOFError:
                continue
            bookmark: dict[str, Any] = event["object"]
            return bookmark
    raise AssertionError("a watch that allows bookmarks gets one now and then")


async def test_bookmarks_carry_a_version_to_resume_from(server: Client, widgets: str) -> None:
    await server.post(widgets, widget("a"))
    version = (await server.get(widgets)).version
    last = await _bookmark(server, widgets, version)
    assert (last["kind"], int(last["metadata"]["resourceVersion"]) >= int(version)) == ("Widget", True)
    await server.post(widgets, widget("b"))
    async with server.watch(widgets, resourceVersion=last["metadata"]["resourceVersion"]) as watch:
        assert await _events(watch, 1) == [("ADDED", "b")]


async def test_no_bookmarks_unless_asked_for(server: Client, widgets: str) -> None:
    version = (await server.get(widgets)).version
    async with server.watch(widgets, resourceVersion=version, timeoutSeconds="3") as watch:
        assert await watch.rest() == []


async def test_a_watch_from_compacted_history_is_gone(server: Client, widgets: str) -> None:
    """410 comes as the status of the answer or as an ERROR event in it; the documentation allows for both."""
    old = await server.compacted_version(widgets)
    async with server.watch(widgets, resourceVersion=old, timeoutSeconds="5") as watch:
        event = await watch.next()
    status = event if watch.status == 410 else event["object"]
    assert (watch.status in (200, 410), status["code"], status["reason"]) == (True, 410, "Expired")


async def test_a_watch_from_the_present_survives_compaction(server: Client, widgets: str) -> None:
    await server.compacted_version(widgets)
    version = (await server.get(widgets)).version
    async with server.watch(widgets, resourceVersion=version) as watch:
        await server.post(widgets, widget("a"))
        assert await _events(watch, 1) == [("ADDED", "a")]


async def test_a_field_selector_makes_leaving_and_entering_visible(server: Client, widgets: str) -> None:
    version = (await server.get(widgets)).version
    async with server.watch(widgets, resourceVersion=version, fieldSelector="spec.owner=me") as watch:
        await server.post(widgets, widget("a", owner="you"))
        await server.patch(f"{widgets}/a", {"spec": {"owner": "me"}})
        await server.patch(f"{widgets}/a", {"spec": {"size": 2}})
        await server.patch(f"{widgets}/a", {"spec": {"owner": "you"}})
        assert await _events(watch, 3) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


async def test_a_label_selector_makes_leaving_visible(server: Client, widgets: str) -> None:
    labelled = widget("a")
    labelled["metadata"]["labels"] = {"tier": "x"}
    await server.post(widgets, labelled)
    version = (await server.get(widgets)).version
    async with server.watch(widgets, resourceVersion=version, labelSelector="tier in (x,y)") as watch:
        await server.patch(f"{widgets}/a", {"metadata": {"labels": {"tier": "z"}}})
        assert await _events(watch, 1) == [("DELETED", "a")]


async def test_a_watch_of_one_name_sees_only_that_object(server: Client, widgets: str) -> None:
    version = (await server.get(widgets)).version
    async with server.watch(widgets, resourceVersion=version, fieldSelector="metadata.name=b") as watch:
        for name in ("a", "b"):
            await server.post(widgets, widget(name))
        await server.delete(f"{widgets}/b")
        assert await _events(watch, 2) == [("ADDED", "b"), ("DELETED", "b")]


async def test_initial_events_end_with_a_marked_bookmark(server: Client, widgets: str) -> None:
    for name in ("a", "b"):
        await server.post(widgets, widget(name))
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with server.watch(widgets, **query) as watch:
        assert sorted(await _events(watch, 2)) == [("ADDED", "a"), ("ADDED", "b")]
        end = await watch.next()
    assert end["type"] == "BOOKMARK"
    assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_many_watchers_all_see_every_change(server: Client, widgets: str) -> None:
    version = (await server.get(widgets)).version

    async def follow() -> list[tuple[str, str]]:
        async with server.watch(widgets, resourceVersion=version) as watch:
            return await _events(watch, 10)

    followers = [asyncio.create_task(follow()) for _ in range(10)]
    for number in range(10):
        await server.post(widgets, widget(f"w{number}"))
    seen = await asyncio.gather(*followers)
    assert all(events == [("ADDED", f"w{number}") for number in range(10)] for events in seen)
