"""`MemoryStore`: the API store in memory, with the real one's semantics and with faults on request.

It belongs to the product's tests and simulation. Many stores (one per client) share one `MemoryCluster`; each may
have its own fault callback, so that a partition of one node is one callback's business.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from adapters.kube.memory_cluster import MemoryCluster, Watcher
from adapters.kube.query import Query, parse_query
from adapters.kube.store import (
    Conflict,
    EventType,
    Gone,
    Listing,
    Outcome,
    Refused,
    Rejected,
    Unknown,
    Unreachable,
    WatchEvent,
)
from crds.meta import Kind, KubeObject

T = TypeVar("T", bound=KubeObject)


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as the fault callback sees it.

    `verb` is get, list, create, patch, delete, watch (its start) or event (one watch event before delivery).
    `subresource` is "" or "status".
    """

    verb: str
    kind: Kind[Any]
    namespace: str
    name: str
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class NotSent:
    """The connection was refused: nothing happened, and the caller knows."""


@dataclass(frozen=True, slots=True)
class RequestLost:
    """The request left but did not arrive.

    A write becomes Unknown and is not applied; a read is Unreachable; a watch is cut.
    """


@dataclass(frozen=True, slots=True)
class AnswerLost:
    """The request is applied, its answer does not come. A write becomes Unknown; a read is Unreachable."""


@dataclass(frozen=True, slots=True)
class AppliedLate:
    """The caller gives up (Unknown) while the write is still under way.

    `schedule` gets the function that applies it.
    """

    schedule: Callable[[Callable[[], object]], None]


@dataclass(frozen=True, slots=True)
class AnswerSlow:
    """The request is applied at once; its answer comes after `wait()`."""

    wait: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answered:
    """The server answers this and applies nothing.

    409, 410, 429, 500, 503 … (what is left after the client's own retries).
    """

    status: int
    reason: str = "Injected"


Fault: TypeAlias = NotSent | RequestLost | AnswerLost | AppliedLate | AnswerSlow | Answered
Inject: TypeAlias = Callable[[Call], Awaitable[Fault | None]]
"""Decides one request's fate.

It may also wait before it answers (a slow network) or raise whatever the client should see.
"""


class MemoryStore:
    """A client of a `MemoryCluster`. `calls` counts its requests by (verb, plural), watch events excluded."""

    def __init__(self, cluster: MemoryCluster, *, fault: Inject | None = None, bookmark_s: float = 60.0) -> None:
        self.cluster = cluster
        self.fault = fault
        self.calls: Counter[tuple[str, str]] = Counter()
        self._bookmark_s = bookmark_s

    async def get(self, kind: Kind[T], name: str, namespace: str = "") -> T | None:
        kind.path(namespace, name)
        await self._reading(Call("get", kind, namespace, name))
        entry = self.cluster.read(kind, (namespace, name))
        return None if entry is None else entry.seen_as(kind)

    async def list(self, kind: Kind[T], *, namespace: str = "", labels: str = "", fields: str = "") -> Listing[T]:
        query = _query(namespace, labels, fields)
        await self._reading(Call("list", kind, namespace, query.name))
        entries = self.cluster.select(kind, query)
        return Listing(tuple(entry.seen_as(kind) for entry in entries), str(self.cluster.version))

    async def create(self, kind: Kind[T], new: T) -> Outcome[T]:
        kind.path(new.namespace)
        call = Call("create", kind, new.namespace, new.name)
        return await self._writing(call, lambda: self.cluster.create(kind, new))

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
        kind.path(namespace, name)

        def apply() -> Outcome[T]:
            key = (namespace, name)
            return self.cluster.patch(kind, key, changes, resource_version=resource_version, subresource=subresource)

        return await self._writing(Call("patch", kind, namespace, name, subresource), apply)

    async def delete(
        self, kind: Kind[T], name: str, *, namespace: str = "", uid: str = "", resource_version: str = ""
    ) -> Outcome[T]:
        kind.path(namespace, name)

        def apply() -> Outcome[T]:
            return self.cluster.delete(kind, (namespace, name), uid=uid, resource_version=resource_version)

        return await self._writing(Call("delete", kind, namespace, name), apply)

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
        query = _query(namespace, labels, fields)
        await self._reading(Call("watch", kind, namespace, query.name))
        changed = asyncio.Event()
        watcher = self.cluster.open_watch(kind, query, resource_version, changed.set)
        ticker = asyncio.ensure_future(self._tick(watcher, changed, timeout_s))
        try:
            while True:
                while watcher.queue:
                    event = watcher.queue.popleft()
                    if self.fault is not None:
                        await self._delivering(kind, event)
                    yield event
                if watcher.overflowed:
                    raise Unreachable("the watch fell behind and was closed")
                if ticker.done():
                    return
                changed.clear()
                await changed.wait()
        finally:
            ticker.cancel()
            self.cluster.close_watch(kind, watcher)

    async def _tick(self, watcher: Watcher, changed: asyncio.Event, timeout_s: float) -> None:
        """Bookmarks every `bookmark_s` and one at the end, as API servers do."""
        clock = self.cluster.clock
        deadline = clock.now() + timeout_s
        while (left := deadline - clock.now()) > 0:
            await clock.sleep(min(self._bookmark_s, left))
            watcher.queue.append(WatchEvent(EventType.BOOKMARK, None, str(self.cluster.version)))
            changed.set()

    async def _delivering(self, kind: Kind[T], event: WatchEvent[T]) -> None:
        assert self.fault is not None
        if await self.fault(Call("event", kind, *event.key)) is not None:
            raise Unreachable("the watch was cut")

    async def _reading(self, call: Call) -> None:
        self.calls[call.verb, call.kind.plural] += 1
        if self.fault is None:
            return
        match await self.fault(call):
            case None:
                return
            case AnswerSlow(wait):
                await wait()
            case Answered(410, reason):
                raise Gone(reason)
            case Answered(status, reason):
                raise Rejected(status, reason, "injected")
            case fault:
                raise Unreachable(type(fault).__name__)

    async def _writing(self, call: Call, apply: Callable[[], Outcome[T]]) -> Outcome[T]:
        self.calls[call.verb, call.kind.plural] += 1
        if self.fault is None:
            return apply()
        match await self.fault(call):
            case None:
                return apply()
            case NotSent():
                return Refused(0, "NotSent", "connection refused")
            case RequestLost():
                return Unknown("request lost")
            case AnswerLost():
                apply()
                return Unknown("answer lost")
            case AppliedLate(schedule):
                schedule(apply)
                return Unknown("no answer in time")
            case AnswerSlow(wait):
                outcome = apply()
                await wait()
                return outcome
            case Answered(409, reason):
                return Conflict(reason)
            case Answered(status, reason) if status >= 500 and status != 503:
                return Unknown(f"{status} {reason}")
            case Answered(status, reason):
                return Refused(status, reason, "injected")


def _query(namespace: str, labels: str, fields: str) -> Query:
    try:
        return parse_query(namespace, labels, fields)
    except ValueError as error:
        raise Rejected(400, "BadRequest", str(error)) from error
