"""The verbs that read: get, list with its resourceVersion rules and pages, and watch."""

from __future__ import annotations

import base64
import binascii
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import msgspec

from e2e.apiserver.errors import ApiError, Obj, bad_request, too_old
from e2e.apiserver.negotiation import Answer, Form
from e2e.apiserver.operations import Cluster, Target
from e2e.apiserver.resources import Resource
from e2e.apiserver.selectors import Selector, parse_fields, parse_labels
from e2e.apiserver.storage import Collection, Delivery, Key, Record, Watcher
from e2e.apiserver.tables import partial, table

_encode = msgspec.json.Encoder().encode
INITIAL_EVENTS_END = "k8s.io/initial-events-end"
BOOKMARK_LEAD_S = 2.0
DEFAULT_WATCH_S = 1800


@dataclass(frozen=True, slots=True)
class Timing:
    """How often a watch that allows bookmarks gets one."""

    bookmark_interval_s: float = 5.0


def selector_of(target: Target, query: Mapping[str, str]) -> Selector:
    """The selector of a list or watch; a name in the path selects that object."""
    fields = parse_fields(query.get("fieldSelector", ""), target.resource.selectable)
    if target.name:
        fields += parse_fields(f"metadata.name={target.name}", target.resource.selectable)
    return Selector(parse_labels(query.get("labelSelector", "")), fields)


def encode_object(resource: Resource, record: Record, answer: Answer) -> bytes:
    if answer.form is Form.TABLE:
        metadata = {"resourceVersion": record.obj["metadata"]["resourceVersion"]}
        return _encode(table(resource, [record.obj], metadata, "Metadata"))
    if answer.form is Form.PARTIAL:
        return record.encoded("partial", partial)
    return record.encoded(resource.representation, resource.from_storage)


# list


@dataclass(frozen=True, slots=True)
class Page:
    records: list[Record]
    metadata: Obj


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name) or "0"
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        problem = f'Invalid value: "{text}": must be a non-negative integer'
        raise ApiError(400, "BadRequest", f"{name}: {problem}")
    return value


def _token(revision: int, last: Key) -> str:
    return base64.urlsafe_b64encode(_encode({"v": 1, "rv": revision, "after": last})).decode().rstrip("=")


def _from_token(text: str) -> tuple[int, Key]:
    try:
        fields = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return int(fields["rv"]), (fields["after"][0], fields["after"][1])
    except (
        binascii.Error,
        msgspec.DecodeError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        UnicodeDecodeError,
    ) as exc:
        raise bad_request(f"continue key is not valid: {exc}") from exc


def _forbid(field: str, why: str) -> ApiError:
    return bad_request(f"{field}: Forbidden: {why}")


def _revision_of_list(cluster: Cluster, query: Mapping[str, str], limit: int) -> int | None:
    """The exact revision to list at, or None for the most recent one."""
    text, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
    if match not in ("", "Exact", "NotOlderThan"):
        raise bad_request(
            f'resourceVersionMatch: Unsupported value: "{match}": supported values: "Exact", "NotOlderThan"'
        )
    if match and not text:
        raise _forbid("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided")
    if match == "Exact" and text == "0":
        raise _forbid("resourceVersionMatch", 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
    wanted = _number(query, "resourceVersion")
    if wanted == 0:
        return None
    cluster.store.check_not_future(wanted)
    return wanted if match == "Exact" or (not match and limit) else None


def list_page(cluster: Cluster, target: Target, query: Mapping[str, str]) -> Page:
    """One page, consistent with the pages before it. Raises 400, 410 (compacted since), 504 (from the future)."""
    limit = _number(query, "limit")
    collection = cluster.collection(target.resource)
    after: Key | None = None
    if token := query.get("continue", ""):
        if query.get("resourceVersion", "") not in ("", "0"):
            raise bad_request("specifying resource version is not allowed when using continue")
        revision, after = _from_token(token)
        if revision < 0:
            revision = cluster.store.revision
        elif revision < collection.floor:
            raise _expired_token(collection, revision, after)
    else:
        revision = _revision_of_list(cluster, query, limit) or cluster.store.revision
    keys, records = collection.snapshot(revision)
    return _cut(keys, records, target, query, limit, revision, after)


def _expired_token(collection: Collection, revision: int, after: Key) -> ApiError:
    """410 with a token that goes on from the same place in the present, for clients that accept inconsistency."""
    refused = too_old(revision, collection.floor)
    refused.message = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the "
        "continue parameter, or use the continue token in this response to retrieve the remainder of the results."
    )
    refused.metadata = {"continue": _token(-1, after)}
    return refused


def _cut(
    keys: list[Key],
    records: dict[Key, Record],
    target: Target,
    query: Mapping[str, str],
    limit: int,
    revision: int,
    after: Key | None,
) -> Page:
    selector = selector_of(target, query)
    start = bisect_right(keys, after) if after is not None else 0
    found: list[Record] = []
    metadata: Obj = {"resourceVersion": str(revision)}
    selective = bool(selector.labels or selector.fields)
    for position in range(start, len(keys)):
        key = keys[position]
        if target.namespace and key[0] != target.namespace:
            continue
        record = records[key]
        if selective and not selector.matches(record.obj):
            continue
        if limit and len(found) == limit:
            last = found[-1].obj["metadata"]
            metadata["continue"] = _token(revision, (last.get("namespace", ""), last["name"]))
            if not selective:
                rest = keys[position:]
                metadata["remainingItemCount"] = sum(not target.namespace or key[0] == target.namespace for key in rest)
            break
        found.append(record)
    return Page(found, metadata)


def encode_list(resource: Resource, page: Page, answer: Answer, include: str) -> bytes:
    """The list; items are the bytes that were serialised when they were first read."""
    if answer.form is Form.TABLE:
        return _encode(table(resource, (record.obj for record in page.records), page.metadata, include or "Metadata"))
    kind, api_version = resource.kind_of_list, resource.api_version
    if answer.form in (Form.PARTIAL, Form.PARTIAL_LIST):
        kind, api_version = "PartialObjectMetadataList", "meta.k8s.io/v1"
        items = [record.encoded("partial", partial) for record in page.records]
    else:
        items = [record.encoded(resource.representation, resource.from_storage) for record in page.records]
    head = _encode({"kind": kind, "apiVersion": api_version, "metadata": page.metadata})
    return head[:-1] + b',"items":[' + b",".join(items) + b"]}"


# watch


class Stream:
    """One watch: a synchronous start (it raises before anything is sent), then frames until the time is over."""

    def __init__(
        self, cluster: Cluster, target: Target, query: Mapping[str, str], answer: Answer, timing: Timing
    ) -> None:
        self._cluster = cluster
        self._resource = target.resource
        self._collection = cluster.collection(target.resource)
        self._answer = answer
        self._include = query.get("includeObject", "Metadata")
        self._headed = True
        self._bookmarks = query.get("allowWatchBookmarks", "") in ("true", "1")
        self._timing = timing
        self._deadline = time.monotonic() + (_number(query, "timeoutSeconds") or DEFAULT_WATCH_S)
        self._watcher = Watcher(target.namespace, selector_of(target, query))
        self._first: list[bytes] = []
        self._begin(query)
        self._collection.subscribe(self._watcher)

    def _begin(self, query: Mapping[str, str]) -> None:
        """Queues what the client must see first: the present state, or the changes since its resourceVersion."""
        initial, match = query.get("sendInitialEvents", ""), query.get("resourceVersionMatch", "")
        revision = _number(query, "resourceVersion")
        if initial and match != "NotOlderThan":
            problem = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise _forbid("sendInitialEvents", problem)
        if match and not initial:
            raise _forbid(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )
        if initial == "true" and not self._bookmarks:
            raise _forbid("allowWatchBookmarks", "sendInitialEvents requires allowWatchBookmarks")
        self._cluster.store.check_not_future(revision)
        if initial == "true" or (not initial and revision == 0):
            for key in self._collection.sorted_keys():
                record = self._collection.records[key]
                if (
                    not self._watcher.namespace or key[0] == self._watcher.namespace
                ) and self._watcher.selector.matches(record.obj):
                    self._first.append(self._frame(("ADDED", record)))
            if initial == "true":
                self._first.append(self._bookmark({INITIAL_EVENTS_END: "true"}))
        elif revision:
            for change in self._collection.since(revision):
                self._watcher.offer(change)

    def _frame(self, delivery: Delivery) -> bytes:
        kind, record = delivery
        if self._answer.form is Form.TABLE:
            metadata = {"resourceVersion": str(record.revision)}
            body = _encode(table(self._resource, [record.obj], metadata, self._include, headed=self._headed))
            self._headed = False
        else:
            body = encode_object(self._resource, record, self._answer)
        return b'{"type":"' + kind.encode() + b'","object":' + body + b"}\n"

    def _bookmark(self, annotations: dict[str, str] | None = None) -> bytes:
        metadata: Obj = {"resourceVersion": str(self._cluster.store.revision), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        body: Obj = {"kind": self._resource.kind, "apiVersion": self._resource.api_version, "metadata": metadata}
        if self._answer.form is Form.TABLE:
            body = {
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "columnDefinitions": None,
                "rows": [],
            }
        elif self._answer.form is Form.PARTIAL:
            body |= {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
        return _encode({"type": "BOOKMARK", "object": body}) + b"\n"

    @property
    def _alive(self) -> bool:
        store = self._cluster.store
        return not store.closed and store.collections.get(self._collection.name) is self._collection

    async def frames(self) -> AsyncIterator[bytes]:
        """Batches of event lines."""
        try:
            if self._first:
                yield b"".join(self._first)
                self._first = []
            next_bookmark = time.monotonic() + self._timing.bookmark_interval_s
            last_bookmark_due = True
            while (left_s := self._deadline - time.monotonic()) > 0 and self._alive:
                queue = self._watcher.queue
                if queue:
                    batch = [self._frame(queue.popleft()) for _ in range(min(len(queue), 1000))]
                    yield b"".join(batch)
                    continue
                if self._watcher.overflowed:
                    return
                now = time.monotonic()
                closing = last_bookmark_due and left_s <= BOOKMARK_LEAD_S
                if self._bookmarks and (now >= next_bookmark or closing):
                    last_bookmark_due = last_bookmark_due and not closing
                    next_bookmark = now + self._timing.bookmark_interval_s
                    yield self._bookmark()
                    continue
                await self._watcher.wait(self._pause(left_s, next_bookmark - now, last=last_bookmark_due))
        finally:
            self.close()

    def _pause(self, left_s: float, to_bookmark_s: float, *, last: bool) -> float:
        if not self._bookmarks:
            return left_s
        until_last_s = left_s - BOOKMARK_LEAD_S if last and left_s > BOOKMARK_LEAD_S else left_s
        return max(0.001, min(left_s, to_bookmark_s, until_last_s))

    def close(self) -> None:
        self._collection.unsubscribe(self._watcher)


def expired_frame(refused: ApiError) -> bytes:
    """The ERROR event that a watch gets in place of the stream."""
    return _encode({"type": "ERROR", "object": refused.status()}) + b"\n"
