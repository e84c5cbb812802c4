"""A list and a watch of one kind, kept as a dict. Enough of an informer for the lab's controllers."""

import asyncio
import contextlib
from collections.abc import Callable

import aiohttp

from e2e.lab.api import Api, ApiError
from e2e.lab.objects import Key, Object, key_of, uid_of, version_of

RELIST_DELAY_S = 0.2


class Cache:
    """`items` is what was last seen. `changed(old, new)` is called on the loop for every difference; None means absent."""

    def __init__(self, api: Api, kind: str, changed: Callable[[Object | None, Object | None], None]) -> None:
        self.kind = kind
        self.items: dict[Key, Object] = {}
        self.synced = asyncio.Event()
        self._api = api
        self._changed = changed
        self._gone: dict[str, None] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError, ValueError):
                items, version = await self._api.list(self.kind)
                self._replace(items)
                self.synced.set()
                async for event, thing in self._api.watch(self.kind, version):
                    if event == "DELETED":
                        self._drop(thing)
                    elif event != "BOOKMARK":
                        self.absorb(thing)
            await asyncio.sleep(RELIST_DELAY_S)

    def absorb(self, thing: Object) -> None:
        """Takes an object from the watch, or from the answer to a write of ours, unless it is older than what is known."""
        thing.setdefault("kind", self.kind)
        key = key_of(thing)
        old = self.items.get(key)
        same = old is not None and uid_of(old) == uid_of(thing)
        if uid_of(thing) in self._gone or (old is not None and same and version_of(old) >= version_of(thing)):
            return
        self.items[key] = thing
        self._changed(old, thing)

    def _drop(self, thing: Object) -> None:
        self._gone[uid_of(thing)] = None
        while len(self._gone) > 10_000:
            self._gone.pop(next(iter(self._gone)))
        old = self.items.get(key_of(thing))
        if old is not None and uid_of(old) == uid_of(thing):
            del self.items[key_of(thing)]
            self._changed(old, None)

    def _replace(self, items: list[Object]) -> None:
        uids = {uid_of(item) for item in items}
        for old in [item for item in self.items.values() if uid_of(item) not in uids]:
            self._drop(old)
        for item in items:
            self.absorb(item)
