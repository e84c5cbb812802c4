"""Network links as a port. Only this module imports pyroute2, and of it only the asyncio rtnetlink socket (5 MiB instead of 10).

All calls read. The one exception is `link_in`: to see a pod's link without entering its namespace (which would need CAP_SYS_ADMIN), the kernel
must have a number for that namespace, and is asked to assign one (RTM_NEWNSID); the number goes with the namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from adapters.bareimport import bare_packages

with bare_packages("pyroute2", "pyroute2.iproute"):
    from pyroute2.iproute.linux import AsyncIPRoute
    from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
    from pyroute2.netlink.rtnl import RTMGRP_LINK

_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_NO_ID = 0xFFFFFFFF
_DUMP_ATTEMPTS = 5
_WATCH_BUFFER_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Link:
    """One link as the kernel reports it. `mac` is lower-case with colons, "" if the link has none; `parent` is an index, 0 if none.

    `up`: set up by somebody; `carrier`: up and the wire answers.
    """

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    carrier: bool
    kind: str = ""
    parent: int = 0


@dataclass(frozen=True, slots=True)
class LinkChange:
    """A link appeared or changed (`gone` False), or went away with the state that `link` has."""

    link: Link
    gone: bool


class NetlinkFailed(OSError):
    """The kernel refused or the socket overflowed; after an overflow of `changes`, list again."""


class Netlink(Protocol):
    async def link(self, name: str) -> Link | None:
        """The link of that name in this namespace; None if there is none. Raises NetlinkFailed."""

    async def links(self) -> tuple[Link, ...]:
        """All links of this namespace; their MACs are our own. Raises NetlinkFailed."""

    async def link_in(self, namespace: Path, name: str) -> Link | None:
        """The link of that name in the namespace at that path (CNI_NETNS); None if either is gone. Raises NetlinkFailed."""

    def changes(self) -> AsyncIterator[LinkChange]:
        """Changes of this namespace's links from the first `anext` on, without end. Raises NetlinkFailed."""

    async def close(self) -> None:
        """Close the sockets."""


class SystemNetlink:
    """`Netlink` on rtnetlink. The socket is opened by the first call, in the network namespace of the calling thread."""

    def __init__(self) -> None:
        self._socket: Any = None
        self._lock = asyncio.Lock()

    async def link(self, name: str) -> Link | None:
        return await self._get({"ifname": name})

    async def links(self) -> tuple[Link, ...]:
        with _failures():
            async with self._lock:
                for _ in range(_DUMP_ATTEMPTS):
                    try:
                        return tuple([_link(message) async for message in await self._open().link("dump")])
                    except NetlinkDumpInterrupted:
                        continue  # links changed under the dump: what it says may never have been true
        raise NetlinkFailed(errno.EBUSY, f"links changed during {_DUMP_ATTEMPTS} dumps in a row")

    async def link_in(self, namespace: Path, name: str) -> Link | None:
        try:
            descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            with _failures():
                async with self._lock:
                    number = await _number(self._open(), descriptor)
            return await self._get({"ifname": name, "IFLA_IF_NETNSID": number})
        finally:
            os.close(descriptor)

    async def changes(self) -> AsyncIterator[LinkChange]:
        with _failures():
            watching = AsyncIPRoute(rcvbuf=_WATCH_BUFFER_BYTES)
            try:
                await watching.bind(groups=RTMGRP_LINK)
                while True:
                    async for message in watching.get():
                        if message["event"] in ("RTM_NEWLINK", "RTM_DELLINK") and message.get("ifname"):
                            yield LinkChange(_link(message), message["event"] == "RTM_DELLINK")
            finally:
                watching.close()

    async def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _get(self, query: dict[str, object]) -> Link | None:
        with _failures():
            async with self._lock:
                try:
                    found = await self._open().link("get", **query)
                except NetlinkError as error:
                    if error.code == errno.ENODEV:
                        return None
                    raise
        return _link(found[0]) if found else None

    def _open(self) -> Any:
        if self._socket is None:
            self._socket = AsyncIPRoute()
        return self._socket


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except NetlinkFailed:
        raise
    except (NetlinkError, OSError) as error:
        number = getattr(error, "code", None) or getattr(error, "errno", None) or errno.EIO
        raise NetlinkFailed(number, f"rtnetlink: {error}") from error


async def _number(socket: Any, descriptor: int) -> int:
    """The kernel's number for a namespace, assigned if it has none. Another process may assign it first."""
    for _ in range(2):
        known = await socket.get_netnsid(fd=descriptor)
        if known is not None and known["nsid"] not in (None, _NO_ID):
            number: int = known["nsid"]
            return number
        with contextlib.suppress(NetlinkError):
            await socket.set_netnsid(fd=descriptor)
    raise NetlinkFailed(errno.EINVAL, "the kernel assigned no number to the namespace")


def _link(message: Any) -> Link:
    flags = message["flags"]
    return Link(
        index=message["index"],
        name=message.get("ifname") or "",
        mac=(message.get("address") or "").lower(),
        mtu=message.get("mtu") or 0,
        up=bool(flags & _IFF_UP),
        carrier=bool(flags & _IFF_UP) and bool(flags & _IFF_LOWER_UP),
        kind=message.get(("linkinfo", "kind")) or "",
        parent=message.get("link") or 0,
    )


class MemoryNetlink:
    """`Netlink` in memory: tests say which links there are with `put` and `drop`."""

    def __init__(self, links: Iterable[Link] = ()) -> None:
        self._links = {link.name: link for link in links}
        self._inside: dict[tuple[Path, str], Link] = {}
        self._watchers: list[asyncio.Queue[LinkChange | None]] = []

    def put(self, link: Link, namespace: Path | None = None) -> None:
        """The link appears or changes, in this namespace or in the one given."""
        if namespace is not None:
            self._inside[namespace, link.name] = link
            return
        self._links[link.name] = link
        self._tell(LinkChange(link, gone=False))

    def drop(self, name: str) -> None:
        """The link goes away."""
        self._tell(LinkChange(self._links.pop(name), gone=True))

    def overflow(self) -> None:
        """Open watches fail, as when the socket's buffer ran over."""
        self._tell(None)

    async def link(self, name: str) -> Link | None:
        return self._links.get(name)

    async def links(self) -> tuple[Link, ...]:
        return tuple(sorted(self._links.values(), key=lambda link: link.index))

    async def link_in(self, namespace: Path, name: str) -> Link | None:
        return self._inside.get((namespace, name))

    async def changes(self) -> AsyncIterator[LinkChange]:
        queue: asyncio.Queue[LinkChange | None] = asyncio.Queue()
        self._watchers.append(queue)
        try:
            while (change := await queue.get()) is not None:
                yield change
            raise NetlinkFailed(errno.ENOBUFS, "rtnetlink: buffer overflow")
        finally:
            self._watchers.remove(queue)

    async def close(self) -> None:
        return None

    def _tell(self, change: LinkChange | None) -> None:
        for queue in self._watchers:
            queue.put_nowait(change)
