"""`EventRecorder`: Kubernetes Events that people read with `kubectl describe`, sent aside and in moderation.

Guaranteed: `record` never blocks and never raises for reasons of the API. Not guaranteed: delivery. Events are dropped, and counted in `dropped`,
when the queue is full or an object has had its share; nothing may depend on them.

The same story (object, reason, type, action) within `series_s` becomes one Event whose series counts up, as client-go does: the first is
created at once, repetitions are written at most every `series_write_s`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.kube.store import Missing, Store, Stored
from crds.core import EVENT, Event, ObjectReference
from crds.meta import Kind, ObjectMeta

_Story: TypeAlias = tuple[str, str, str, str, str, str, str]
_NOTE_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class EventLimits:
    """Bounds. `burst` events of one object at once, then one every `refill_s`."""

    queue: int = 256
    stories: int = 1024
    burst: int = 25
    refill_s: float = 300.0
    series_s: float = 360.0
    series_write_s: float = 30.0


@dataclass(slots=True)
class _Telling:
    """One story being told."""

    event: Event
    count: int
    last_seen: float
    stored: bool = False
    queued: bool = False
    last_write: float = 0.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class EventRecorder:
    """Run `run()` as a task; call `record` from anywhere on its event loop.

    `controller` is the reporting controller (`nephila.io/agent`), `instance` who exactly (the node or pod name).
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        entropy: Entropy,
        *,
        controller: str,
        instance: str,
        limits: EventLimits | None = None,
        on_failure: Callable[[object], None] | None = None,
    ) -> None:
        self.dropped = 0
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._controller = controller
        self._instance = instance
        self._limits = limits or EventLimits()
        self._on_failure = on_failure
        self._stories: OrderedDict[_Story, _Telling] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._queue: asyncio.Queue[_Telling] = asyncio.Queue(self._limits.queue)

    def warning(self, regarding: ObjectReference, reason: str, action: str, note: str) -> None:
        """Record something somebody should look at. `reason`: CamelCase, why; `action`: CamelCase, what was being done."""
        self._record(regarding, "Warning", reason, action, note)

    def normal(self, regarding: ObjectReference, reason: str, action: str, note: str) -> None:
        """Record something worth knowing."""
        self._record(regarding, "Normal", reason, action, note)

    async def run(self) -> None:
        """Write what was recorded, one at a time, until cancelled."""
        while True:
            telling = await self._queue.get()
            telling.queued = False
            await self._write(telling)

    def _record(self, regarding: ObjectReference, type_: str, reason: str, action: str, note: str) -> None:
        now = self._clock.now()
        story = (regarding.kind, regarding.namespace, regarding.name, regarding.uid, type_, reason, action)
        telling = self._stories.get(story)
        if telling is not None and now - telling.last_seen < self._limits.series_s:
            telling.count += 1
            telling.last_seen = now
            self._stories.move_to_end(story)
            if now - telling.last_write >= self._limits.series_write_s:
                self._enqueue(telling)
            return
        if not self._admitted(":".join(story[:4]), now):
            self.dropped += 1
            return
        telling = _Telling(self._event(regarding, type_, reason, action, note), 1, now)
        self._stories[story] = telling
        self._stories.move_to_end(story)
        while len(self._stories) > self._limits.stories:
            self._stories.popitem(last=False)
        self._enqueue(telling)

    def _enqueue(self, telling: _Telling) -> None:
        if telling.queued:
            return
        try:
            self._queue.put_nowait(telling)
            telling.queued = True
        except asyncio.QueueFull:
            self.dropped += 1

    def _admitted(self, about: str, now: float) -> bool:
        """A token bucket per object."""
        bucket = self._buckets.pop(about, None) or _Bucket(self._limits.burst, now)
        bucket.tokens = min(bucket.tokens + (now - bucket.filled_at) / self._limits.refill_s, self._limits.burst)
        bucket.filled_at = now
        self._buckets[about] = bucket
        while len(self._buckets) > self._limits.stories:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _event(self, regarding: ObjectReference, type_: str, reason: str, action: str, note: str) -> Event:
        # Events about cluster-scoped objects live in "default", as the API server demands.
        return Event(
            metadata=ObjectMeta(
                name=f"{regarding.name or 'nephila'}.{self._entropy.bits(64):016x}",
                namespace=regarding.namespace or "default",
            ),
            event_time=self._microtime(),
            reporting_controller=self._controller,
            reporting_instance=self._instance[:128],
            action=action[:128],
            reason=reason[:128],
            type=type_,
            note=note if len(note) <= _NOTE_LIMIT else note[: _NOTE_LIMIT - 1] + "…",
            regarding=regarding,
        )

    async def _write(self, telling: _Telling) -> None:
        telling.last_write = self._clock.now()
        metadata = telling.event.metadata
        if telling.stored:
            series = {"series": {"count": telling.count, "lastObservedTime": self._microtime()}}
            outcome = await self._store.patch(EVENT, metadata.name, series, namespace=metadata.namespace)
            if not isinstance(outcome, Missing):
                self._told(outcome)
                return
        # Not yet written, or expired on the server (events live about an hour): tell it anew.
        outcome = await self._store.create(EVENT, telling.event)
        telling.stored = isinstance(outcome, Stored)
        self._told(outcome)

    def _told(self, outcome: object) -> None:
        if not isinstance(outcome, Stored):
            self.dropped += 1
            if self._on_failure is not None:
                self._on_failure(outcome)

    def _microtime(self) -> str:
        return datetime.fromtimestamp(self._clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def reference(kind: Kind[Any], name: str, namespace: str = "", uid: str = "") -> ObjectReference:
    """What an Event is about."""
    return ObjectReference(api_version=kind.api_version, kind=kind.kind, namespace=namespace, name=name, uid=uid)
