"""`Reflector`: a local copy of one kind, kept by list and watch over any `Store`.

Guaranteed: each change is told once, in the order of the server, as (old, new): (None, new) added, (old, new)
changed, (old, None) gone. An object re-created under its name while nobody watched is told as gone and then added,
never as changed. A relist tells what vanished.

Not guaranteed: freshness. The copy may lag without bound while the API server is out of reach; `last_contact` says
since when. Decisions that must not act on an old copy read from the store.

After a failure the next attempt waits 0.8 s, then twice as long each time up to 30 s, each stretched by a random
factor of 1 to 2, and starts over at 0.8 s after two healthy minutes (the rules of client-go's reflector): thousands
of agents must not beat a sick API server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from adapters.clock import Clock
from adapters.entropy import Entropy
from adapters.kube.store import EventType, Gone, Key, Store, StoreError, Unreachable, close_stream
from adapters.waking import done_within
from crds.meta import Kind, KubeObject

T = TypeVar("T", bound=KubeObject)
R = TypeVar("R")
OnChange: TypeAlias = Callable[[T | None, T | None], None]
OnFailure: TypeAlias = Callable[[Exception], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """How a reflector waits, in seconds; `watch_low_s` to `watch_high_s`: how long the server shall keep one watch.

    A watch on which nothing came for `idle_s` (API servers send a bookmark about every minute) is taken for dead and
    opened anew.
    """

    backoff_s: float = 0.8
    backoff_max_s: float = 30.0
    healthy_s: float = 120.0
    watch_low_s: float = 300.0
    watch_high_s: float = 600.0
    idle_s: float = 150.0
    list_s: float = 120.0


class Reflector(Generic[T]):
    """Run `run()` as a task for as long as the copy is wanted. Not thread-safe: one event loop.

    `on_change` is called on the loop, synchronously, after the copy has changed. If it raises, `on_failure` gets the
    exception and the reflector goes on, because one bad object must not stop the view of all others. `on_failure`
    also gets every `StoreError`.
    """

    def __init__(
        self,
        store: Store,
        kind: Kind[T],
        clock: Clock,
        entropy: Entropy,
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        on_change: OnChange[T] | None = None,
        on_failure: OnFailure | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.kind = kind
        self.last_error: StoreError | None = None
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._listeners: list[OnChange[T]] = [] if on_change is None else [on_change]
        self._on_failure = on_failure
        self._pace = pace or Pace()
        self._objects: dict[Key, T] = {}
        self._version = ""
        self._last_contact: float | None = None
        self._synced = asyncio.Event()
        self._idle_from = 0.0
        self._events = 0
        self._failures = 0
        self._failed_at: float | None = None

    # The copy

    @property
    def has_synced(self) -> bool:
        """Whether one complete list has been taken in. Stays true while later contact is lost."""
        return self._synced.is_set()

    async def synced(self) -> None:
        """Return once `has_synced`."""
        await self._synced.wait()

    @property
    def last_contact(self) -> float | None:
        """When (`clock.now()`) the server last said anything about this kind; None if never."""
        return self._last_contact

    @property
    def resource_version(self) -> str:
        """The version up to which the copy is complete; empty before the first list and after 410."""
        return self._version

    def get(self, name: str, namespace: str = "") -> T | None:
        return self._objects.get((namespace, name))

    def __iter__(self) -> Iterator[T]:
        """The objects as of now; changes during iteration are not seen."""
        return iter(tuple(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def listen(self, on_change: OnChange[T]) -> None:
        """Tell `on_change` of changes from now on; what is already in the copy is told to it at once, as added."""
        self._listeners.append(on_change)
        for held in self:
            self._tell(on_change, None, held)

    # The loop

    async def run(self) -> None:
        """List, watch, and start over, until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._relist()
                await self._watch_once()
            except Gone as error:
                self._version = ""
                await self._failed(error)
            except StoreError as error:
                await self._failed(error)

    async def _relist(self) -> None:
        asked = self._store.list(self.kind, namespace=self._namespace, labels=self._labels, fields=self._fields)
        listing = await self._in_time(asked, self._pace.list_s)
        fresh = {(item.namespace, item.name): item for item in listing.items}
        kept = set(listing.unreadable)
        for key in [key for key in self._objects if key not in fresh and key not in kept]:
            self._apply(key, None)
        for key, item in fresh.items():
            self._apply(key, item)
        self._version = listing.resource_version
        self._contacted()
        self._synced.set()

    async def _watch_once(self) -> None:
        """One watch, from the known version, until the server ends it. Raises StoreError."""
        began = self._idle_from = self._clock.now()
        self._events = 0
        consumer = asyncio.ensure_future(self._consume())
        try:
            while not await done_within(self._clock, self._idle_from + self._pace.idle_s - self._clock.now(), consumer):
                if self._clock.now() - self._idle_from >= self._pace.idle_s:
                    raise Unreachable(f"the watch of {self.kind.plural} was silent for {self._pace.idle_s:.0f} s")
            consumer.result()
        finally:
            await _ended(consumer)
        if self._events == 0 and self._clock.now() - began < 1.0:
            raise Unreachable(f"the server ended the watch of {self.kind.plural} at once")

    async def _consume(self) -> None:
        events = self._store.watch(
            self.kind,
            namespace=self._namespace,
            labels=self._labels,
            fields=self._fields,
            resource_version=self._version,
            timeout_s=self._entropy.uniform(self._pace.watch_low_s, self._pace.watch_high_s),
        )
        try:
            async for event in events:
                self._events += 1
                self._contacted()
                if event.type is EventType.DELETED:
                    self._apply(event.key, None)
                elif event.object is not None:
                    self._apply(event.key, event.object)
                # An object that does not decode keeps its last readable state here; the store has reported it.
                if event.resource_version:
                    self._version = event.resource_version
        finally:
            await close_stream(events)

    async def _in_time(self, work: Coroutine[object, object, R], seconds: float) -> R:
        task = asyncio.ensure_future(work)
        try:
            if not await done_within(self._clock, seconds, task):
                raise Unreachable(f"no list of {self.kind.plural} within {seconds:.0f} s")
            return task.result()
        finally:
            await _ended(task)

    def _apply(self, key: Key, new: T | None) -> None:
        old = self._objects.get(key)
        if new is None:
            if old is not None:
                del self._objects[key]
                self._tell_all(old, None)
            return
        if old is not None and old.uid != new.uid:
            del self._objects[key]
            self._tell_all(old, None)
            old = None
        if old is not None and old.resource_version == new.resource_version:
            return
        self._objects[key] = new
        self._tell_all(old, new)

    def _tell_all(self, old: T | None, new: T | None) -> None:
        for listener in tuple(self._listeners):
            self._tell(listener, old, new)

    def _tell(self, listener: OnChange[T], old: T | None, new: T | None) -> None:
        try:
            listener(old, new)
        except Exception as error:  # noqa: BLE001  # one bad object must not end the view of all others
            self._report(error)

    def _report(self, error: Exception) -> None:
        if self._on_failure is not None:
            self._on_failure(error)

    def _contacted(self) -> None:
        self._last_contact = self._idle_from = self._clock.now()
        self.last_error = None

    async def _failed(self, error: StoreError) -> None:
        self.last_error = error
        self._report(error)
        now = self._clock.now()
        if self._failed_at is not None and now - self._failed_at >= self._pace.healthy_s:
            self._failures = 0
        delay = min(self._pace.backoff_s * 2.0 ** min(self._failures, 16), self._pace.backoff_max_s)
        self._failures += 1
        await self._clock.sleep(delay * self._entropy.uniform(1.0, 2.0))
        self._failed_at = self._clock.now()


async def _ended(task: asyncio.Future[R]) -> None:
    """Cancel the task if it still runs and wait until it has ended; its exception, if any, counts as seen."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
