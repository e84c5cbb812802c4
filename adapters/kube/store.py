"""The Kubernetes API as a compare-and-swap store: the port.

Reads raise `StoreError`; they may be repeated freely. Writes never raise it: they return an `Outcome`, because for a
write the caller must tell "refused" from "nobody knows" and decide. In particular `Unknown` (the request left, no
usable answer came) must be followed by a read and a comparison, never by an assumption in either direction.

Errors:

    StoreError                the API gave no usable answer to a read or a watch
    ├── Unreachable           no answer: refused, timed out, cut
    ├── Rejected              an answer that says no (403, 404 of the kind itself, 5xx after the retry budget)
    └── Gone                  410: the resourceVersion is too old; list again
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeAlias, TypeVar

from crds.meta import Kind, KubeObject

T = TypeVar("T", bound=KubeObject)
Key: TypeAlias = tuple[str, str]
"""(namespace, name); the namespace is empty for cluster-scoped kinds."""


class StoreError(Exception):
    """The API gave no usable answer."""


class Unreachable(StoreError):
    """No answer came: connection refused, timed out or cut."""


class Rejected(StoreError):
    """The API answered no."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Gone(StoreError):
    """410: the asked resourceVersion is no longer in the server's history. Only a new list helps."""


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """The write was applied; this is the object as it now is (for a DELETE: marked, and waiting for finalizers)."""

    object: T


@dataclass(frozen=True, slots=True)
class Deleted:
    """The object was removed by this request."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """409: the given resourceVersion or uid is not the object's. Nothing was written: read again and decide again."""

    message: str


@dataclass(frozen=True, slots=True)
class Exists:
    """409 to a create: an object of that name is there. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Missing:
    """404: no object of that name. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was written.

    `status` 0: the request never left this machine; 422: validation (schema, CEL) refused it.
    """

    status: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The request may or may not have been applied, now or later. Read and compare; never assume."""

    cause: str


Outcome: TypeAlias = Stored[T] | Deleted | Conflict | Exists | Missing | Refused | Unknown


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """One consistent list; `resource_version` is where a watch goes on from.

    `unreadable` names the objects that exist but do not decode: they are neither in `items` nor gone.
    """

    items: tuple[T, ...]
    resource_version: str
    unreadable: tuple[Key, ...] = ()


class EventType(Enum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[T]):
    """One watch event. `object` is None for a bookmark and for an object that does not decode (then `key` names it).

    `resource_version` is always set: it is where a new watch may go on from once this event is dealt with.
    """

    type: EventType
    object: T | None
    resource_version: str
    key: Key = ("", "")


class Store(Protocol):
    """What Nephila asks of the Kubernetes API. `KubeStore` (real) and `MemoryStore` (fake) pass one contract suite."""

    async def get(self, kind: Kind[T], name: str, namespace: str = "") -> T | None:
        """A quorum read; None if the object does not exist. Raises StoreError."""

    async def list(self, kind: Kind[T], *, namespace: str = "", labels: str = "", fields: str = "") -> Listing[T]:
        """All objects (of all namespaces if `namespace` is empty), paged inside, consistent. Raises StoreError."""

    async def create(self, kind: Kind[T], new: T) -> Outcome[T]:
        """Stored, Exists, Refused or Unknown."""

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
        """JSON merge patch (RFC 7386); compare-and-swap on the whole object if `resource_version` is given.

        Fields that this program does not know stay as they are. `subresource` is "" or "status". A patch that changes
        nothing is not a write: the resourceVersion stays. Stored, Conflict, Missing, Refused or Unknown.
        """

    async def delete(
        self, kind: Kind[T], name: str, *, namespace: str = "", uid: str = "", resource_version: str = ""
    ) -> Outcome[T]:
        """Delete if `uid` and `resource_version`, where given, are the object's.

        Deleted, Stored (marked, waits for finalizers), Conflict, Missing, Refused or Unknown.
        """

    def watch(
        self,
        kind: Kind[T],
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        resource_version: str,
        timeout_s: float,
    ) -> AsyncIterator[WatchEvent[T]]:
        """Changes after `resource_version`, with bookmarks; ends without error after about `timeout_s`.

        `resource_version` is one that a list or an earlier event gave, and not empty. Raises Gone, StoreError.
        """


async def close_stream(stream: AsyncIterator[object]) -> None:
    """Close a watch now, not whenever the garbage collector finds it.

    Does nothing for an iterator that cannot be closed.
    """
    closing = getattr(stream, "aclose", None)
    if closing is not None:
        await closing()
