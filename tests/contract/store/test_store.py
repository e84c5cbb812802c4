"""What every `Store` guarantees. Assertions are about results, never about how they came to be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from adapters.kube.memory import MemoryStore
from adapters.kube.store import (
    Conflict,
    Deleted,
    EventType,
    Exists,
    Gone,
    Missing,
    Refused,
    Rejected,
    Store,
    Stored,
    WatchEvent,
    close_stream,
)
from crds.meta import ObjectMeta
from tests.contract.store.conftest import Subject
from tests.contract.store.widgets import ABSENT, GADGET, GAUGE, PART, Gadget, GadgetSpec, Gauge, Part

BLOCK = "ip4-10-6-0-64"
A, B = "default", "kube-system"


def block(
    name: str = BLOCK,
    *,
    epoch: int = 1,
    labels: dict[str, str] | None = None,
    finalizers: tuple[str, ...] | None = None,
) -> Gadget:
    metadata = ObjectMeta(name=name, labels=labels, finalizers=finalizers)
    return Gadget(metadata=metadata, spec=GadgetSpec(page="10.6.0.64/26", epoch=epoch))


async def stored(store: Store, new: Gadget) -> Gadget:
    outcome = await store.create(GADGET, new)
    assert isinstance(outcome, Stored), outcome
    return outcome.object


def epoch(value: int) -> dict[str, object]:
    return {"spec": {"epoch": value}}


async def test_create_returns_the_object_as_the_server_keeps_it(store: Store) -> None:
    made = await stored(store, block())
    assert made.uid
    assert made.resource_version
    assert made.metadata.generation == 1
    assert made.metadata.creation_timestamp is not None
    assert await store.get(GADGET, BLOCK) == made


async def test_a_second_create_finds_the_first(store: Store) -> None:
    made = await stored(store, block())
    assert await store.create(GADGET, block(epoch=9)) == Exists()
    assert await store.get(GADGET, BLOCK) == made


async def test_get_of_nothing_is_none(store: Store) -> None:
    assert await store.get(GADGET, "ip4-10-6-0-0") is None


async def test_a_patch_with_the_current_version_is_applied_and_raises_version_and_generation(store: Store) -> None:
    made = await stored(store, block())
    outcome = await store.patch(GADGET, BLOCK, epoch(2), resource_version=made.resource_version)
    assert isinstance(outcome, Stored)
    assert outcome.object.spec.epoch == 2
    assert outcome.object.spec.page == made.spec.page
    assert outcome.object.uid == made.uid
    assert outcome.object.metadata.generation == 2
    assert int(outcome.object.resource_version) > int(made.resource_version)
    assert await store.get(GADGET, BLOCK) == outcome.object


async def test_a_patch_with_an_old_version_changes_nothing(store: Store) -> None:
    made = await stored(store, block())
    await store.patch(GADGET, BLOCK, epoch(2), resource_version=made.resource_version)
    outcome = await store.patch(GADGET, BLOCK, epoch(7), resource_version=made.resource_version)
    assert isinstance(outcome, Conflict)
    now = await store.get(GADGET, BLOCK)
    assert now is not None
    assert now.spec.epoch == 2


async def test_of_many_writers_with_one_version_exactly_one_wins(store: Store) -> None:
    made = await stored(store, block())
    outcomes = await asyncio.gather(
        *(store.patch(GADGET, BLOCK, epoch(10 + i), resource_version=made.resource_version) for i in range(16))
    )
    assert sum(isinstance(outcome, Stored) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 15


async def test_a_patch_that_changes_nothing_keeps_the_version(store: Store) -> None:
    made = await stored(store, block())
    outcome = await store.patch(GADGET, BLOCK, epoch(1), resource_version=made.resource_version)
    assert outcome == Stored(made)


async def test_null_in_a_patch_removes_a_field_and_lists_are_replaced_whole(store: Store) -> None:
    entry = {"node": "n1", "slots": "0-3"}
    await stored(store, block(labels={"a": "1", "b": "2"}))
    await store.patch(GADGET, BLOCK, {"spec": {"shares": [entry, {**entry, "node": "n2"}], "suspect": "9"}})
    outcome = await store.patch(
        GADGET,
        BLOCK,
        {"metadata": {"labels": {"a": None}}, "spec": {"shares": [{**entry, "node": "n3"}], "suspect": None}},
    )
    assert isinstance(outcome, Stored)
    assert [share.node for share in outcome.object.spec.shares] == ["n3"]
    assert outcome.object.spec.suspect == ""
    assert outcome.object.labels == {"b": "2"}


async def test_a_change_of_labels_is_not_a_new_generation(store: Store) -> None:
    made = await stored(store, block())
    outcome = await store.patch(GADGET, BLOCK, {"metadata": {"labels": {"a": "1"}}})
    assert isinstance(outcome, Stored)
    assert outcome.object.metadata.generation == made.metadata.generation
    assert outcome.object.resource_version != made.resource_version


async def test_patch_and_delete_of_nothing_are_missing(store: Store) -> None:
    assert await store.patch(GADGET, BLOCK, epoch(2)) == Missing()
    assert await store.patch(GADGET, BLOCK, epoch(2), resource_version="5") == Missing()
    assert await store.delete(GADGET, BLOCK) == Missing()


async def test_a_patch_that_the_schema_forbids_is_refused(store: Store) -> None:
    made = await stored(store, block())
    outcome = await store.patch(GADGET, BLOCK, {"spec": {"epoch": "many"}})
    assert isinstance(outcome, Refused)
    assert outcome.status == 422
    assert await store.get(GADGET, BLOCK) == made


async def test_the_wrong_name_in_a_patch_is_refused(store: Store) -> None:
    await stored(store, block())
    outcome = await store.patch(GADGET, BLOCK, {"metadata": {"name": "ip4-10-6-0-0"}})
    assert isinstance(outcome, Refused)


async def test_delete_removes_and_the_name_is_free_with_a_new_uid(store: Store) -> None:
    first = await stored(store, block())
    assert await store.delete(GADGET, BLOCK) == Deleted()
    assert await store.get(GADGET, BLOCK) is None
    second = await stored(store, block())
    assert second.uid != first.uid
    assert int(second.resource_version) > int(first.resource_version)


async def test_delete_preconditions_protect_what_was_not_seen(store: Store) -> None:
    made = await stored(store, block())
    changed = await store.patch(GADGET, BLOCK, epoch(2))
    assert isinstance(changed, Stored)
    by_version = await store.delete(GADGET, BLOCK, resource_version=made.resource_version)
    by_uid = await store.delete(GADGET, BLOCK, uid="00000000-0000-0000-0000-000000000000")
    assert isinstance(by_version, Conflict)
    assert isinstance(by_uid, Conflict)
    assert await store.get(GADGET, BLOCK) == changed.object
    now = changed.object
    assert await store.delete(GADGET, BLOCK, uid=now.uid, resource_version=now.resource_version) == Deleted()


async def test_an_object_with_finalizers_is_marked_then_goes_with_the_last_of_them(store: Store) -> None:
    await stored(store, block(finalizers=("nephila.io/hold",)))
    marked = await store.delete(GADGET, BLOCK)
    assert isinstance(marked, Stored)
    assert marked.object.deleting
    assert await store.create(GADGET, block()) == Exists()
    refused = await store.patch(GADGET, BLOCK, {"metadata": {"finalizers": ["nephila.io/hold", "nephila.io/more"]}})
    assert isinstance(refused, Refused)
    released = await store.patch(GADGET, BLOCK, {"metadata": {"finalizers": None}})
    assert isinstance(released, Stored)
    assert await store.get(GADGET, BLOCK) is None


async def test_status_and_spec_are_written_apart(store: Store) -> None:
    made = await store.create(GAUGE, Gauge(metadata=ObjectMeta(name="n1")))
    assert isinstance(made, Stored)
    ignored = await store.patch(GAUGE, "n1", {"status": {"version": "9"}})
    assert ignored == Stored(made.object)
    written = await store.patch(
        GAUGE, "n1", {"status": {"version": "1"}, "metadata": {"labels": {"a": "1"}}}, subresource="status"
    )
    assert isinstance(written, Stored)
    assert written.object.metadata.generation == made.object.metadata.generation
    now = await store.get(GAUGE, "n1")
    assert now is not None
    assert getattr(now.status, "version", None) == "1"
    stale = await store.patch(
        GAUGE,
        "n1",
        {"status": {"version": "2"}},
        resource_version=made.object.resource_version,
        subresource="status",
    )
    assert isinstance(stale, Conflict)


async def test_a_kind_without_status_has_no_status_to_write(store: Store) -> None:
    made = await stored(store, block())
    outcome = await store.patch(GADGET, BLOCK, {"status": {}}, subresource="status")
    assert outcome == Missing() or (isinstance(outcome, Refused) and outcome.status == 404)
    assert await store.get(GADGET, BLOCK) == made


async def test_lists_select_by_namespace_label_and_field(store: Store) -> None:
    for namespace, name, app in ((A, "p1", "web"), (A, "p2", "db"), (B, "p1", "web")):
        new = Part(metadata=ObjectMeta(namespace=namespace, name=name, labels={"app": app}))
        assert isinstance(await store.create(PART, new), Stored)

    async def keys(**selection: str) -> list[tuple[str, str]]:
        listing = await store.list(PART, **selection)
        return sorted((item.namespace, item.name) for item in listing.items)

    assert await keys() == [(A, "p1"), (A, "p2"), (B, "p1")]
    assert await keys(namespace=A) == [(A, "p1"), (A, "p2")]
    assert await keys(labels="app=web") == [(A, "p1"), (B, "p1")]
    assert await keys(labels="app!=web") == [(A, "p2")]
    assert await keys(labels="app in (web, db),!other", namespace=B) == [(B, "p1")]
    assert await keys(labels="app notin (web)") == [(A, "p2")]
    assert await keys(fields="metadata.name=p1") == [(A, "p1"), (B, "p1")]
    assert await keys(fields="metadata.name=p1", namespace=B) == [(B, "p1")]
    assert await keys(fields="metadata.name=none") == []


async def test_long_lists_are_complete_and_of_one_version(store: Store) -> None:
    for at in range(0, 1_100, 100):
        await asyncio.gather(*(stored(store, block(f"ip4-{at + i}")) for i in range(100)))
    listing = await store.list(GADGET)
    assert len({item.name for item in listing.items}) == len(listing.items) == 1_100
    assert int(listing.resource_version) >= max(int(item.resource_version) for item in listing.items)


async def test_a_malformed_selector_is_rejected(store: Store) -> None:
    with pytest.raises(Rejected):
        await store.list(GADGET, labels="=,=")


async def test_a_kind_that_the_server_does_not_have_is_an_error_and_not_an_empty_world(store: Store) -> None:
    if isinstance(store, MemoryStore):
        return  # it has every kind
    with pytest.raises(Rejected):
        await store.get(ABSENT, "x")
    with pytest.raises(Rejected):
        await store.list(ABSENT)
    for outcome in (await store.patch(ABSENT, "x", {}), await store.delete(ABSENT, "x")):
        assert isinstance(outcome, Refused)


async def taken(events: AsyncIterator[WatchEvent[Gadget]], count: int) -> list[tuple[EventType, str, int]]:
    """The next `count` events that are not bookmarks, as (type, name, epoch)."""
    found: list[tuple[EventType, str, int]] = []
    async with asyncio.timeout(10):
        async for event in events:
            if event.type is not EventType.BOOKMARK:
                assert event.object is not None
                assert event.key == (event.object.namespace, event.object.name)
                found.append((event.type, event.object.name, event.object.spec.epoch))
            if len(found) == count:
                break
    await close_stream(events)
    return found


async def test_a_watch_tells_everything_after_its_version_in_order(store: Store) -> None:
    await stored(store, block("before"))
    since = (await store.list(GADGET)).resource_version
    await stored(store, block("a"))
    await store.patch(GADGET, "a", epoch(2))
    await store.patch(GADGET, "a", epoch(2))
    await store.delete(GADGET, "a")
    await stored(store, block("a", epoch=5))
    events = store.watch(GADGET, resource_version=since, timeout_s=30)
    assert await taken(events, 4) == [
        (EventType.ADDED, "a", 1),
        (EventType.MODIFIED, "a", 2),
        (EventType.DELETED, "a", 2),
        (EventType.ADDED, "a", 5),
    ]


async def test_a_watch_tells_what_happens_while_it_is_open(store: Store) -> None:
    since = (await store.list(GADGET)).resource_version
    waiting = asyncio.create_task(taken(store.watch(GADGET, resource_version=since, timeout_s=30), 2))
    await asyncio.sleep(0.05)
    await stored(store, block("a"))
    await store.patch(GADGET, "a", epoch(2))
    assert await waiting == [(EventType.ADDED, "a", 1), (EventType.MODIFIED, "a", 2)]


async def test_a_watch_goes_on_from_any_version_it_has_told(store: Store) -> None:
    since = (await store.list(GADGET)).resource_version
    made = await stored(store, block("a"))
    await store.delete(GADGET, "a")
    events = store.watch(GADGET, resource_version=made.resource_version, timeout_s=30)
    assert await taken(events, 1) == [(EventType.DELETED, "a", 1)]
    events = store.watch(GADGET, resource_version=since, timeout_s=30)
    assert len(await taken(events, 2)) == 2


async def test_through_a_selector_objects_come_and_go_as_they_match(store: Store) -> None:
    since = (await store.list(GADGET)).resource_version
    await stored(store, block("a"))
    await store.patch(GADGET, "a", {"metadata": {"labels": {"see": "me"}}})
    await store.patch(GADGET, "a", epoch(2))
    await store.patch(GADGET, "a", {"metadata": {"labels": {"see": None}}})
    events = store.watch(GADGET, labels="see=me", resource_version=since, timeout_s=30)
    assert [type_ for type_, _, _ in await taken(events, 3)] == [
        EventType.ADDED,
        EventType.MODIFIED,
        EventType.DELETED,
    ]


async def test_a_watch_of_one_name_sees_only_that(store: Store) -> None:
    since = (await store.list(GADGET)).resource_version
    waiting = asyncio.create_task(
        taken(store.watch(GADGET, fields="metadata.name=b", resource_version=since, timeout_s=30), 2)
    )
    await asyncio.sleep(0.05)
    for name in ("a", "b", "c"):
        await stored(store, block(name))
    await store.delete(GADGET, "a")
    await store.delete(GADGET, "b")
    assert await waiting == [(EventType.ADDED, "b", 1), (EventType.DELETED, "b", 1)]


async def test_deletion_by_finalizer_is_told_as_changed_and_then_gone(store: Store) -> None:
    since = (await store.list(GADGET)).resource_version
    await stored(store, block("a", finalizers=("nephila.io/hold",)))
    await store.delete(GADGET, "a")
    await store.patch(GADGET, "a", {"metadata": {"finalizers": None}})
    events = store.watch(GADGET, resource_version=since, timeout_s=30)
    assert [type_ for type_, _, _ in await taken(events, 3)] == [
        EventType.ADDED,
        EventType.MODIFIED,
        EventType.DELETED,
    ]


async def test_a_watch_ends_by_itself(store: Store) -> None:
    since = (await store.list(GADGET)).resource_version
    async with asyncio.timeout(10):
        seen = [event async for event in store.watch(GADGET, resource_version=since, timeout_s=1)]
    assert all(event.type is EventType.BOOKMARK for event in seen)


async def test_a_watch_from_a_forgotten_version_is_gone(subject: Subject) -> None:
    store = subject.store
    made = await stored(store, block())
    await store.delete(GADGET, BLOCK)
    forgotten = subject.forget(made.resource_version)
    with pytest.raises(Gone):
        await taken(store.watch(GADGET, resource_version=forgotten, timeout_s=5), 1)
    since = (await store.list(GADGET)).resource_version
    await stored(store, block("a"))
    assert await taken(store.watch(GADGET, resource_version=since, timeout_s=30), 1) == [(EventType.ADDED, "a", 1)]
