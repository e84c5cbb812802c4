"""The store: one monotonic revision, the current objects, and a bounded history of changes per collection.

Stored objects are never mutated: a change puts a new dictionary. Everything here runs on one event loop without awaiting, so a read
followed by a write is atomic as long as the caller does not await between them. A snapshot at an older revision is the present with the
history undone, so pages of a list need no copies. Cost of a write: the object itself plus the watchers that it concerns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from e2e.apiserver.errors import Obj, too_large, too_old
from e2e.apiserver.selectors import Selector, field_text

Key = tuple[str, str]  # (namespace or "", name)
Renderer = Callable[[Obj], Obj]

_encode = msgspec.json.Encoder().encode
WATCH_QUEUE_LIMIT = 20_000
INITIAL_REVISION = 1


class Record:
    """One version of one object, with its JSON cached per representation so that it is serialised once for all readers."""

    __slots__ = ("_encoded", "obj", "revision")

    def __init__(self, obj: Obj, revision: int) -> None:
        self.obj = obj
        self.revision = revision
        self._encoded: dict[str, bytes] = {}

    def encoded(self, representation: str, render: Renderer | None) -> bytes:
        """JSON of the object; `representation` names what `render` makes of it."""
        data = self._encoded.get(representation)
        if data is None:
            data = _encode(self.obj if render is None else render(self.obj))
            self._encoded[representation] = data
        return data


class Change:
    """A committed write. `record` is the new version, or for a deletion the last one under the deletion's revision."""

    __slots__ = ("_departed", "before", "deleted", "key", "record", "revision")

    def __init__(self, key: Key, before: Record | None, record: Record, *, deleted: bool) -> None:
        self.key = key
        self.before = before
        self.record = record
        self.deleted = deleted
        self.revision = record.revision
        self._departed: Record | None = None

    def seen_through(self, selector: Selector) -> tuple[str, Record] | None:
        """The event that a watcher with this selector gets: entering a selection is ADDED, leaving it is DELETED."""
        was = self.before is not None and selector.matches(self.before.obj)
        if self.deleted:
            return ("DELETED", self.record) if was else None
        if selector.matches(self.record.obj):
            return ("MODIFIED" if was else "ADDED"), self.record
        if not was or self.before is None:
            return None
        if self._departed is None:
            self._departed = Record(with_revision(self.before.obj, self.revision), self.revision)
        return "DELETED", self._departed


Delivery = tuple[str, Record]


class Watcher:
    """A subscription. A watcher that does not drain its queue is ended rather than allowed to hold memory."""

    __slots__ = ("_waiter", "namespace", "overflowed", "queue", "selector")

    def __init__(self, namespace: str, selector: Selector) -> None:
        self.namespace = namespace
        self.selector = selector
        self.queue: deque[Delivery] = deque()
        self.overflowed = False
        self._waiter: asyncio.Future[None] | None = None

    def offer(self, change: Change) -> None:
        if self.namespace and change.key[0] != self.namespace:
            return
        delivery = change.seen_through(self.selector)
        if delivery is None:
            return
        if len(self.queue) >= WATCH_QUEUE_LIMIT:
            self.overflowed = True
        else:
            self.queue.append(delivery)
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, timeout_s: float) -> None:
        """Returns when something was delivered or the time has passed, whichever is first."""
        if self.queue or self.overflowed:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiter = waiter
        timer = loop.call_later(timeout_s, self.wake)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None


class Collection:
    """All objects of one resource."""

    def __init__(self, name: str, history_limit: int, floor: int) -> None:
        self.name = name
        self.records: dict[Key, Record] = {}
        self.by_namespace: dict[str, dict[str, Record]] = {}
        self.history: deque[Change] = deque()
        self.floor = floor  # changes up to this revision may be forgotten
        self._history_limit = history_limit
        self._watchers: dict[Watcher, None] = {}
        self._pinned: dict[tuple[str, ...], dict[str, dict[Watcher, None]]] = {}
        self._sorted: tuple[int, list[Key]] = (-1, [])
        self._shape = 0

    def get(self, key: Key) -> Record | None:
        return self.records.get(key)

    def commit(self, change: Change) -> None:
        namespace, name = change.key
        if change.deleted:
            del self.records[change.key]
            members = self.by_namespace[namespace]
            del members[name]
            if not members:
                del self.by_namespace[namespace]
            self._shape += 1
        else:
            if change.before is None:
                self._shape += 1
            self.records[change.key] = change.record
            self.by_namespace.setdefault(namespace, {})[name] = change.record
        self.history.append(change)
        if len(self.history) > self._history_limit:
            self.floor = self.history.popleft().revision
        for watcher in self._concerned(change):
            watcher.offer(change)

    def _concerned(self, change: Change) -> Iterator[Watcher]:
        yield from tuple(self._watchers)
        for path, by_value in self._pinned.items():
            values = {field_text(change.record.obj, path)}
            if change.before is not None:
                values.add(field_text(change.before.obj, path))
            for value in values:
                yield from tuple(by_value.get(value, ()))

    def compact(self, revision: int) -> None:
        """Forgets changes up to and including `revision`."""
        while self.history and self.history[0].revision <= revision:
            self.history.popleft()
        self.floor = max(self.floor, revision)

    def sorted_keys(self) -> list[Key]:
        """Keys in list order; re-sorted only after objects came or went."""
        shape, keys = self._sorted
        if shape != self._shape:
            keys = sorted(self.records)
            self._sorted = (self._shape, keys)
        return keys

    def snapshot(self, revision: int) -> tuple[list[Key], dict[Key, Record]]:
        """Keys in order and the records as they were at `revision`; raises 410 when that is compacted."""
        if revision < self.floor:
            raise too_old(revision, self.floor)
        if not self.history or self.history[-1].revision <= revision:
            return self.sorted_keys(), self.records
        records = dict(self.records)
        for change in reversed(self.history):
            if change.revision <= revision:
                break
            if change.before is None:
                records.pop(change.key, None)
            else:
                records[change.key] = change.before
        return sorted(records), records

    def since(self, revision: int) -> Iterator[Change]:
        """Changes after `revision`, oldest first; raises 410 when some of them are compacted."""
        if revision < self.floor:
            raise too_old(revision, self.floor)
        tail: list[Change] = []
        for change in reversed(self.history):
            if change.revision <= revision:
                break
            tail.append(change)
        return reversed(tail)

    def subscribe(self, watcher: Watcher) -> None:
        self._home(watcher)[watcher] = None

    def unsubscribe(self, watcher: Watcher) -> None:
        self._home(watcher).pop(watcher, None)
        pin = watcher.selector.pinned
        if pin is not None and not self._pinned[pin.path][pin.value]:
            del self._pinned[pin.path][pin.value]

    def _home(self, watcher: Watcher) -> dict[Watcher, None]:
        pin = watcher.selector.pinned
        if pin is None:
            return self._watchers
        return self._pinned.setdefault(pin.path, {}).setdefault(pin.value, {})

    def wake_all(self) -> None:
        """Ends every wait, so that watchers notice that the server is going away or the resource is gone."""
        for watcher in tuple(self._watchers):
            watcher.wake()
        for by_value in self._pinned.values():
            for watchers in tuple(by_value.values()):
                for watcher in tuple(watchers):
                    watcher.wake()


class Store:
    """The revision counter and the collections. `observers` are called after each commit, in the same step."""

    def __init__(self, history_limit: int = 20_000) -> None:
        self.revision = INITIAL_REVISION
        self.collections: dict[str, Collection] = {}
        self.observers: list[Callable[[Collection, Change], None]] = []
        self._history_limit = history_limit
        self._compacted = INITIAL_REVISION + 1
        self.closed = False
        self._dropped: dict[str, int] = {}

    def collection(self, name: str) -> Collection:
        found = self.collections.get(name)
        if found is None:
            floor = max(self._compacted, self._dropped.get(name, 0))
            found = self.collections[name] = Collection(name, self._history_limit, floor)
        return found

    def drop(self, name: str) -> None:
        """Forgets an empty collection whose resource is gone; its watchers wake up and end."""
        gone = self.collections.pop(name, None)
        if gone is not None:
            self._dropped[name] = self.revision
            gone.wake_all()

    def close(self) -> None:
        """Ends all watches. The objects stay."""
        self.closed = True
        for collection in self.collections.values():
            collection.wake_all()

    def put(self, collection: Collection, key: Key, obj: Obj) -> Record:
        """Commits a new version. `obj` is owned by the store from here on; its resourceVersion is set."""
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        record = Record(obj, self.revision)
        self._commit(collection, Change(key, collection.get(key), record, deleted=False))
        return record

    def remove(self, collection: Collection, key: Key, last: Obj | None = None) -> Record:
        """Commits a deletion; `last` replaces the final state that watchers see. Raises KeyError for an absent key."""
        before = collection.records[key]
        self.revision += 1
        record = Record(with_revision(before.obj if last is None else last, self.revision), self.revision)
        self._commit(collection, Change(key, before, record, deleted=True))
        return record

    def _commit(self, collection: Collection, change: Change) -> None:
        collection.commit(change)
        for observer in self.observers:
            observer(collection, change)

    def compact(self) -> int:
        """Forgets all history up to now, in every collection; returns the revision."""
        for collection in self.collections.values():
            collection.compact(self.revision)
        self._compacted = self.revision
        return self.revision

    def check_not_future(self, revision: int) -> None:
        if revision > self.revision:
            raise too_large(revision, self.revision)


def with_revision(obj: Obj, revision: int) -> Obj:
    """A copy of the object that carries `revision`; shares everything but the metadata map."""
    metadata: dict[str, Any] = dict(obj["metadata"])
    metadata["resourceVersion"] = str(revision)
    return {**obj, "metadata": metadata}
