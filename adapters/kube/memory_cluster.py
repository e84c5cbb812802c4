"""The state behind `MemoryStore`: objects, versions, history and watchers of one API server, in memory.

Everything here is synchronous and deterministic: one call is one transaction, versions come from one counter, uids
from another. What is modelled is what Nephila relies on: compare-and-swap, merge patches, preconditions, finalizers,
generation, the split between spec and status, watches with history and 410. Not modelled: namespaces' existence,
garbage collection by owner, graceful pod deletion, quotas.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

import msgspec

from adapters.clock import Clock
from adapters.kube.query import Query, Wire
from adapters.kube.store import Conflict, Deleted, EventType, Exists, Gone, Key, Missing, Refused, Stored, WatchEvent
from crds.meta import Kind, KubeObject

T = TypeVar("T", bound=KubeObject)

Object: TypeAlias = KubeObject
AnyKind: TypeAlias = Kind[Any]
Validate: TypeAlias = Callable[[AnyKind, Object | None, Object], str | None]
"""Rules beyond the schema (CEL, admission): given (kind, old or None, new), the reason for a refusal, or None."""
Result: TypeAlias = Stored[Any] | Deleted | Conflict | Exists | Missing | Refused

_KEPT_METADATA = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "resourceVersion",
)
_NO_GENERATION = frozenset({"metadata", "status", "apiVersion", "kind"})
_QUEUE_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of an object: its JSON (never changed in place) and the struct that readers share."""

    wire: Wire
    object: Object
    version: int
    views: dict[type[Object], Object] = field(default_factory=dict, compare=False)

    def seen_as(self, kind: Kind[T]) -> T:
        """As the reader's kind has it: several structs may stand for one kind of object, each with the fields that it needs."""
        if type(self.object) is kind.struct:
            return self.object
        if kind.struct not in self.views:
            self.views[kind.struct] = kind.from_builtins(self.wire)
        return self.views[kind.struct]  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Change:
    version: int
    old: Entry | None
    new: Entry
    removed: bool


class Watcher:
    """One open watch: events wait in `queue`; `wake` is called when there is something to look at."""

    def __init__(self, kind: AnyKind, query: Query, wake: Callable[[], None]) -> None:
        self.query = query
        self._kind = kind
        self.queue: deque[WatchEvent[Any]] = deque()
        self.overflowed = False
        self._wake = wake

    def offer(self, change: Change) -> None:
        event = _seen_through(self.query, self._kind, change)
        if event is None:
            return
        if len(self.queue) >= _QUEUE_LIMIT:
            self.overflowed = True
        else:
            self.queue.append(event)
        self._wake()


@dataclass(slots=True)
class _Shelf:
    """All objects of one kind."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    history: deque[Change] = field(default_factory=deque)
    compacted: int = 0
    watchers: dict[Watcher, None] = field(default_factory=dict)
    watchers_by_name: dict[str, dict[Watcher, None]] = field(default_factory=dict)


class MemoryCluster:
    """One API server's objects, shared by any number of `MemoryStore` clients.

    `history_limit` bounds the changes kept per kind; a watch from before them gets 410, as after etcd's compaction.
    """

    def __init__(self, clock: Clock, *, validate: Validate | None = None, history_limit: int = 100_000) -> None:
        self.clock = clock
        self.validate = validate
        self.version = 1
        self._history_limit = history_limit
        self._uids = 0
        self._compacted = 0
        self._shelves: dict[tuple[str, str], _Shelf] = {}

    def _shelf(self, kind: AnyKind) -> _Shelf:
        key = (kind.group, kind.plural)
        shelf = self._shelves.get(key)
        if shelf is None:
            shelf = self._shelves[key] = _Shelf()
        return shelf

    # Reads

    def read(self, kind: AnyKind, key: Key) -> Entry | None:
        return self._shelf(kind).entries.get(key)

    def select(self, kind: AnyKind, query: Query) -> list[Entry]:
        """Matching entries, ordered by namespace and name as etcd does."""
        entries = self._shelf(kind).entries
        if query.name and (query.namespace or not kind.namespaced):
            one = entries.get((query.namespace, query.name))
            return [one] if one is not None and query.matches(one.wire) else []
        if not query.namespace and not query.tests:
            return [entries[key] for key in sorted(entries)]
        return [entries[key] for key in sorted(entries) if query.matches(entries[key].wire)]

    # Writes

    def create(self, kind: AnyKind, new: Object) -> Result:
        wire = as_wire(new)
        metadata = wire.setdefault("metadata", {})
        if metadata.get("resourceVersion"):
            return Refused(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                return Refused(422, "Invalid", "metadata.name: Required value: name or generateName is required")
            metadata["name"] = f"{metadata['generateName']}{self._uids + 1:05d}"
        if kind.namespaced and not metadata.get("namespace"):
            return Refused(400, "BadRequest", "metadata.namespace: an object of this kind needs a namespace")
        key = (metadata.get("namespace", ""), metadata["name"])
        if key in self._shelf(kind).entries:
            return Exists()
        self._uids += 1
        for server_owned in ("deletionTimestamp", "deletionGracePeriodSeconds"):
            metadata.pop(server_owned, None)
        metadata["uid"] = f"00000000-0000-4000-8000-{self._uids:012x}"
        metadata["creationTimestamp"] = self._timestamp()
        metadata["generation"] = 1
        if kind.has_status:
            wire.pop("status", None)
        return self._write(kind, key, None, wire)

    def patch(
        self, kind: AnyKind, key: Key, changes: Mapping[str, object], *, resource_version: str, subresource: str
    ) -> Result:
        if subresource and not (subresource == "status" and kind.has_status):
            return Missing()  # what a real API server says, in words that do not tell it from a missing object
        old = self.read(kind, key)
        if old is None:
            return Missing()
        patch = as_wire(changes)
        metadata = patch.get("metadata")
        wanted = resource_version or (metadata or {}).get("resourceVersion") or ""
        if wanted and wanted != old.wire["metadata"]["resourceVersion"]:
            return Conflict(f"{kind.plural} {key[1]!r}: the object has been modified; resourceVersion {wanted} is old")
        if metadata and metadata.get("name", key[1]) != key[1]:
            return Refused(400, "BadRequest", "the name of the object does not match the name on the URL")
        new = _patched(kind, old.wire, patch, subresource)
        if new == old.wire:
            return Stored(old.object)
        if new["metadata"].get("deletionTimestamp"):
            added = set(new["metadata"].get("finalizers") or ()) - set(old.wire["metadata"].get("finalizers") or ())
            if added:
                return Refused(422, "Invalid", "metadata.finalizers: no new finalizers while the object is deleted")
            if not new["metadata"].get("finalizers"):
                return self._remove(kind, key, old, new)
        return self._write(kind, key, old, new)

    def delete(self, kind: AnyKind, key: Key, *, uid: str, resource_version: str) -> Result:
        old = self.read(kind, key)
        if old is None:
            return Missing()
        metadata = old.wire["metadata"]
        if uid and uid != metadata["uid"]:
            return Conflict(f"precondition failed: uid {uid} is not that of {kind.plural} {key[1]!r}")
        if resource_version and resource_version != metadata["resourceVersion"]:
            return Conflict(f"precondition failed: resourceVersion {resource_version} of {key[1]!r} is old")
        if not metadata.get("finalizers"):
            removed = self._remove(kind, key, old, old.wire)
            return Deleted() if isinstance(removed, Stored) else removed
        if metadata.get("deletionTimestamp"):
            return Stored(old.object)
        marked = {
            **metadata,
            "deletionTimestamp": self._timestamp(),
            "deletionGracePeriodSeconds": 0,
            "generation": metadata.get("generation", 0) + 1,
        }
        return self._commit(kind, key, old, self._entry(kind, {**old.wire, "metadata": marked}))

    def compact(self) -> None:
        """Forget all history: a watch from any earlier version gets 410."""
        for shelf in self._shelves.values():
            shelf.history.clear()
        self._compacted = self.version

    # Watches

    def open_watch(self, kind: AnyKind, query: Query, resource_version: str, wake: Callable[[], None]) -> Watcher:
        """A watcher that holds what came after `resource_version`. Raises Gone."""
        shelf = self._shelf(kind)
        since = int(resource_version)
        oldest = max(shelf.compacted, self._compacted)
        if since < oldest:
            raise Gone(f"too old resource version: {since} ({oldest})")
        watcher = Watcher(kind, query, wake)
        for change in shelf.history:
            if change.version > since:
                watcher.offer(change)
        if query.name:
            shelf.watchers_by_name.setdefault(query.name, {})[watcher] = None
        else:
            shelf.watchers[watcher] = None
        return watcher

    def close_watch(self, kind: AnyKind, watcher: Watcher) -> None:
        shelf = self._shelf(kind)
        shelf.watchers.pop(watcher, None)
        if (named := shelf.watchers_by_name.get(watcher.query.name)) is not None:
            named.pop(watcher, None)
            if not named:
                del shelf.watchers_by_name[watcher.query.name]

    # The one place where state changes

    def _write(self, kind: AnyKind, key: Key, old: Entry | None, wire: dict[str, Any]) -> Result:
        try:
            new = self._entry(kind, wire)
        except msgspec.ValidationError as error:
            return Refused(422, "Invalid", str(error))
        if self.validate is not None:
            refusal = self.validate(kind, None if old is None else old.object, new.object)
            if refusal is not None:
                return Refused(422, "Invalid", refusal)
        return self._commit(kind, key, old, new)

    def _commit(self, kind: AnyKind, key: Key, old: Entry | None, new: Entry) -> Result:
        self.version = new.version
        self._shelf(kind).entries[key] = new
        self._record(kind, Change(new.version, old, new, removed=False))
        return Stored(new.object)

    def _remove(self, kind: AnyKind, key: Key, old: Entry, last: Wire) -> Result:
        gone = self._entry(kind, last)
        self.version = gone.version
        del self._shelf(kind).entries[key]
        self._record(kind, Change(gone.version, old, gone, removed=True))
        return Stored(gone.object)

    def _entry(self, kind: AnyKind, wire: Wire) -> Entry:
        """The object as it would be stored next. Raises ValidationError."""
        version = self.version + 1
        stamped = {**wire, "metadata": {**wire["metadata"], "resourceVersion": str(version)}}
        return Entry(stamped, kind.from_builtins(stamped), version)

    def _record(self, kind: AnyKind, change: Change) -> None:
        shelf = self._shelf(kind)
        shelf.history.append(change)
        while len(shelf.history) > self._history_limit:
            shelf.compacted = shelf.history.popleft().version
        named = shelf.watchers_by_name.get(change.new.object.metadata.name)
        for watcher in (*shelf.watchers, *(named or ())):
            watcher.offer(change)

    def _timestamp(self) -> str:
        return datetime.fromtimestamp(self.clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def as_wire(value: object) -> dict[str, Any]:
    """The JSON of a struct or mapping as fresh dictionaries and lists."""
    wire: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return wire


def merge(target: object, patch: Mapping[str, Any]) -> dict[str, Any]:
    """RFC 7386. Neither argument is changed; unchanged parts are shared with the result."""
    result: dict[str, Any] = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            result[name] = merge(result.get(name), value)
        else:
            result[name] = value
    return result


def _patched(kind: AnyKind, old: Wire, patch: Mapping[str, Any], subresource: str) -> dict[str, Any]:
    if subresource == "status":
        return merge(old, {"status": patch["status"]} if "status" in patch else {})
    if kind.has_status and "status" in patch:
        patch = {name: value for name, value in patch.items() if name != "status"}
    new = merge(old, patch)
    if "metadata" in patch:
        metadata = new["metadata"] = dict(new.get("metadata") or {})
        for name in _KEPT_METADATA:
            metadata.pop(name, None)
            if name in old["metadata"]:
                metadata[name] = old["metadata"][name]
    changed = {name for name in new.keys() | old.keys() if new.get(name) != old.get(name)}
    if changed - _NO_GENERATION or (not kind.has_status and "status" in changed):
        new["metadata"] = {**new["metadata"], "generation": new["metadata"].get("generation", 0) + 1}
    return new


def _seen_through(query: Query, kind: AnyKind, change: Change) -> WatchEvent[Any] | None:
    """What a watch with a selector sees: an object that stops matching is DELETED, one that begins to is ADDED."""
    before = change.old is not None and query.matches(change.old.wire)
    after = not change.removed and query.matches(change.new.wire)
    if not before and not after:
        return None
    metadata = change.new.object.metadata
    key, version = (metadata.namespace, metadata.name), metadata.resource_version
    if after:
        return WatchEvent(EventType.MODIFIED if before else EventType.ADDED, change.new.seen_as(kind), version, key)
    last = change.new.seen_as(kind)
    if not change.removed and change.old is not None:
        stamped = {**change.old.wire, "metadata": {**change.old.wire["metadata"], "resourceVersion": version}}
        last = kind.from_builtins(stamped)
    return WatchEvent(EventType.DELETED, last, version, key)
