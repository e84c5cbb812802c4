"""`KubeStore`: the API store over HTTP. What each answer proves is in `answers.py`."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec
import tenacity

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.kube.answers import (
    Status,
    answered,
    conflict,
    decode_named,
    decode_status,
    error_of,
    exists_or_conflict,
    is_missing_object,
    key_of,
    may_repeat_read,
    may_repeat_write,
    raise_unless_ok,
    status_of,
    turned_away,
)
from adapters.kube.store import (
    Conflict,
    Deleted,
    EventType,
    Exists,
    Gone,
    Key,
    Listing,
    Missing,
    Outcome,
    Refused,
    Rejected,
    Stored,
    Unknown,
    Unreachable,
    WatchEvent,
    close_stream,
)
from adapters.kube.transport import Answer, Timeouts, Transport, TransportError
from crds.meta import Kind, KubeObject, ObjectList, WireStruct

T = TypeVar("T", bound=KubeObject)
OnUnreadable: TypeAlias = Callable[[Kind[Any], Key, Exception], None]
OnRequest: TypeAlias = Callable[[str, Kind[Any], int, float], None]
"""Told of each request: method, kind, HTTP status (0 = no answer), seconds."""

_PAGE = 500
_ATTEMPTS = 5
_RETRY_AFTER_CAP_S = 10.0
_LIST_RESTARTS = 3
_MERGE_PATCH = "application/merge-patch+json"


class _Event(WireStruct):
    type: str
    object: msgspec.Raw


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_list = msgspec.json.Decoder(ObjectList).decode


class KubeStore:
    """`Store` over a `Transport`.

    `retry_budget_s` bounds the time spent repeating a request that was certainly not processed. `on_unreadable` is
    told of objects that do not decode; they never fail a list or a watch.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        entropy: Entropy,
        *,
        timeouts: Timeouts | None = None,
        list_timeouts: Timeouts | None = None,
        retry_budget_s: float = 8.0,
        on_unreadable: OnUnreadable | None = None,
        on_request: OnRequest | None = None,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._entropy = entropy
        self._timeouts = timeouts or Timeouts()
        self._list_timeouts = list_timeouts or Timeouts(total_s=60.0)
        self._retry_budget_s = retry_budget_s
        self._on_unreadable = on_unreadable
        self._on_request = on_request

    async def get(self, kind: Kind[T], name: str, namespace: str = "") -> T | None:
        answer = answered(await self._repeat(may_repeat_read, "GET", kind, kind.path(namespace, name), {}))
        if answer.status == 404 and is_missing_object(answer, name):
            return None
        raise_unless_ok(answer)
        try:
            return kind.decode(answer.body)
        except msgspec.MsgspecError as error:
            self._report_unreadable(kind, (namespace, name), error)
            raise Rejected(200, "Unreadable", f"{kind.kind} {name!r}: {error}") from error

    async def list(self, kind: Kind[T], *, namespace: str = "", labels: str = "", fields: str = "") -> Listing[T]:
        base = _selection(labels, fields)
        path = kind.path(namespace)
        for _ in range(_LIST_RESTARTS):
            try:
                return await self._pages(kind, path, base | {"limit": str(_PAGE)})
            except Gone:
                continue  # A continue token outlived the server's history (about 5 min): begin anew.
        return await self._pages(kind, path, base)

    async def _pages(self, kind: Kind[T], path: str, query: Mapping[str, str]) -> Listing[T]:
        items: builtins.list[T] = []
        unreadable: builtins.list[Key] = []
        token = ""
        while True:
            asked = {**query, "continue": token} if token else dict(query)
            result = await self._repeat(may_repeat_read, "GET", kind, path, asked, timeouts=self._list_timeouts)
            answer = answered(result)
            raise_unless_ok(answer)
            try:
                page = _decode_list(answer.body)
            except msgspec.MsgspecError as error:
                raise Rejected(200, "Unreadable", f"list of {kind.plural}: {error}") from error
            for raw in page.items or ():
                try:
                    items.append(kind.decode(raw))
                except msgspec.MsgspecError as error:
                    key = key_of(raw)
                    unreadable.append(key)
                    self._report_unreadable(kind, key, error)
            token = page.metadata.continue_
            if not token:
                return Listing(tuple(items), page.metadata.resource_version, tuple(unreadable))

    async def create(self, kind: Kind[T], new: T) -> Outcome[T]:
        answer = await self._repeat(
            may_repeat_write, "POST", kind, kind.path(new.namespace), {}, body=msgspec.to_builtins(new)
        )
        return self._outcome(kind, answer, new.name, refused_as=exists_or_conflict)

    async def patch(
        self,
        kind: Kind[T],
        name: str,
        changes: Mapping[str, object],
        *,
        namespace: str = "",
        resource_version: str = "",
        subresource: str = "",
    ) -> Outcome[T]:
        body: dict[str, Any] = msgspec.to_builtins(changes)
        if resource_version:
            body = {**body, "metadata": {**(body.get("metadata") or {}), "resourceVersion": resource_version}}
        path = kind.path(namespace, name, subresource)
        answer = await self._repeat(may_repeat_write, "PATCH", kind, path, {}, body=body, content_type=_MERGE_PATCH)
        return self._outcome(kind, answer, name, refused_as=conflict)

    async def delete(
        self, kind: Kind[T], name: str, *, namespace: str = "", uid: str = "", resource_version: str = ""
    ) -> Outcome[T]:
        wanted = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {field: value for field, value in wanted.items() if value}
        body: dict[str, object] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if preconditions:
            body["preconditions"] = preconditions
        answer = await self._repeat(may_repeat_write, "DELETE", kind, kind.path(namespace, name), {}, body=body)
        if isinstance(answer, Answer) and 200 <= answer.status < 300:
            return self._deletion(kind, answer)
        return self._outcome(kind, answer, name, refused_as=conflict)

    async def watch(
        self,
        kind: Kind[T],
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        resource_version: str,
        timeout_s: float,
    ) -> AsyncIterator[WatchEvent[T]]:
        query = _selection(labels, fields) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, round(timeout_s))),
        }
        timeouts = Timeouts(self._timeouts.connect_s, timeout_s + 30.0)
        lines = self._transport.lines(kind.path(namespace), query=query, timeouts=timeouts)
        began = self._clock.now()
        status = 0
        try:
            async for line in lines:
                if isinstance(line, Answer):
                    status = line.status
                    raise_unless_ok(line)
                    continue
                status = 200
                yield self._event(kind, line)
        except TransportError as error:
            raise Unreachable(str(error)) from error
        finally:
            await close_stream(lines)
            self._told("WATCH", kind, status, began)

    def _event(self, kind: Kind[T], line: bytes) -> WatchEvent[T]:
        try:
            event = _decode_event(line)
            if event.type == "ERROR":
                raise error_of(decode_status(event.object))
            type_ = EventType(event.type)
        except (msgspec.MsgspecError, ValueError) as error:
            raise Rejected(200, "Unreadable", f"watch of {kind.plural}: {error}") from error
        if type_ is not EventType.BOOKMARK:
            try:
                decoded = kind.decode(event.object)
                metadata = decoded.metadata
                return WatchEvent(type_, decoded, metadata.resource_version, (metadata.namespace, metadata.name))
            except msgspec.MsgspecError as error:
                self._report_unreadable(kind, key_of(event.object), error)
        try:
            metadata = decode_named(event.object).metadata
        except msgspec.MsgspecError as error:
            raise Rejected(200, "Unreadable", f"watch of {kind.plural}: {error}") from error
        return WatchEvent(type_, None, metadata.resource_version, (metadata.namespace, metadata.name))

    def _outcome(
        self,
        kind: Kind[T],
        answer: Answer | TransportError,
        name: str,
        *,
        refused_as: Callable[[Status], Conflict | Exists],
    ) -> Outcome[T]:
        if isinstance(answer, TransportError):
            return Unknown(str(answer)) if answer.sent else Refused(0, "NotSent", str(answer))
        if 200 <= answer.status < 300:
            try:
                return Stored(kind.decode(answer.body))
            except msgspec.MsgspecError as error:
                self._report_unreadable(kind, key_of(answer.body), error)
                return Unknown(f"applied, but the answer does not decode: {error}")
        status = status_of(answer)
        if answer.status == 409:
            return refused_as(status)
        if answer.status == 404 and is_missing_object(answer, name):
            return Missing()
        if answer.status >= 500 and not turned_away(answer):
            return Unknown(f"{answer.status} {status.reason}: {status.message}")
        return Refused(answer.status, status.reason, status.message)

    def _deletion(self, kind: Kind[T], answer: Answer) -> Outcome[T]:
        """A Status means gone; an object means gone too, unless it waits for finalizers or a grace period."""
        try:
            named = decode_named(answer.body)
            waits = named.metadata.finalizers or named.metadata.deletion_grace_period_seconds
            if named.kind == "Status" or not named.metadata.deletion_timestamp or not waits:
                return Deleted()
            return Stored(kind.decode(answer.body))
        except msgspec.MsgspecError as error:
            return Unknown(f"applied, but the answer does not decode: {error}")

    async def _repeat(
        self,
        again: Callable[[Answer | TransportError], bool],
        method: str,
        kind: Kind[Any],
        path: str,
        query: Mapping[str, str],
        *,
        body: object = None,
        content_type: str = "application/json",
        timeouts: Timeouts | None = None,
    ) -> Answer | TransportError:
        """The first result that `again` accepts as final, or the last one when attempts or budget are used up."""

        async def attempt() -> Answer | TransportError:
            began = self._clock.now()
            result: Answer | TransportError
            try:
                result = await self._transport.request(
                    method,
                    path,
                    query=query,
                    timeouts=timeouts or self._timeouts,
                    body=body,
                    content_type=content_type,
                )
            except TransportError as error:
                result = error
            self._told(method, kind, result.status if isinstance(result, Answer) else 0, began)
            return result

        deadline = self._clock.now() + self._retry_budget_s

        def spent(state: tenacity.RetryCallState) -> bool:
            return state.attempt_number >= _ATTEMPTS or self._clock.now() + state.upcoming_sleep > deadline

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_result(again),
            wait=self._wait,
            stop=spent,
            sleep=self._clock.sleep,
            retry_error_callback=_last_result,
        )
        result: Answer | TransportError = await retrying(attempt)
        return result

    def _wait(self, state: tenacity.RetryCallState) -> float:
        backoff = 0.1 * 2.0**state.attempt_number
        result = None if state.outcome is None else state.outcome.result()
        asked = (result.retry_after_s or 0.0) if isinstance(result, Answer) else 0.0
        return min(asked, _RETRY_AFTER_CAP_S) + self._entropy.uniform(0.0, backoff)

    def _told(self, method: str, kind: Kind[Any], status: int, began: float) -> None:
        if self._on_request is not None:
            self._on_request(method, kind, status, self._clock.now() - began)

    def _report_unreadable(self, kind: Kind[Any], key: Key, error: Exception) -> None:
        if self._on_unreadable is not None:
            self._on_unreadable(kind, key, error)


def _last_result(state: tenacity.RetryCallState) -> object:
    return None if state.outcome is None else state.outcome.result()


def _selection(labels: str, fields: str) -> dict[str, str]:
    query = {"labelSelector": labels, "fieldSelector": fields}
    return {name: value for name, value in query.items() if value}
