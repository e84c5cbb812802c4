"""Links, as the kernel has them and as the fake says: one suite for both."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from adapters.netlink import Link, LinkChange, MemoryNetlink, Netlink, NetlinkFailed, SystemNetlink

pytestmark = pytest.mark.netns
_numbers = itertools.count()


class Machine(Protocol):
    """Changes the links that `netlink` sees."""

    netlink: Netlink
    parent: str
    namespace: Path

    def add_parent(self, mac: str) -> None: ...
    def add_child(self, mac: str) -> None: ...
    def raise_parent(self) -> None: ...
    def remove_parent(self) -> None: ...


class Kernel:
    """A veth as parent, and a namespace with a macvlan child of it called eth0."""

    def __init__(self) -> None:
        number = f"{os.getpid() % 10_000}{next(_numbers)}"
        self.netlink: Netlink = SystemNetlink()
        self.parent, self._peer, self._name = f"nlp{number}", f"nlq{number}", f"nephila-nl{number}"
        self.namespace = Path("/run/netns") / self._name
        self._ip("netns", "add", self._name)

    def add_parent(self, mac: str) -> None:
        self._ip("link", "add", self.parent, "address", mac, "mtu", "1400", "type", "veth", "peer", "name", self._peer)

    def add_child(self, mac: str) -> None:
        self._ip(
            "link",
            "add",
            "link",
            self.parent,
            "name",
            "eth0",
            "address",
            mac,
            "netns",
            self._name,
            "type",
            "macvlan",
            "mode",
            "bridge",
        )

    def raise_parent(self) -> None:
        self._ip("link", "set", self._peer, "up")
        self._ip("link", "set", self.parent, "up")

    def remove_parent(self) -> None:
        self._ip("link", "del", self.parent)

    def close(self) -> None:
        subprocess.run(["ip", "link", "del", self.parent], check=False, capture_output=True)
        self._ip("netns", "del", self._name)

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Pretended:
    """The same on the fake."""

    def __init__(self) -> None:
        self.fake = MemoryNetlink([Link(1, "lo", "00:00:00:00:00:00", 65536, up=True, carrier=True)])
        self.netlink: Netlink = self.fake
        self.parent, self.namespace = "p0", Path("/run/netns/x")
        self._link = Link(7, self.parent, "", 1400, up=False, carrier=False, kind="veth", parent=6)

    def add_parent(self, mac: str) -> None:
        self._link = replace(self._link, mac=mac)
        self.fake.put(self._link)

    def add_child(self, mac: str) -> None:
        self.fake.put(Link(2, "eth0", mac, 1400, up=False, carrier=False, kind="macvlan", parent=7), self.namespace)

    def raise_parent(self) -> None:
        self.fake.put(replace(self._link, up=True, carrier=True))

    def remove_parent(self) -> None:
        self.fake.drop(self.parent)

    def close(self) -> None:
        pass


@pytest.fixture(params=[Kernel, Pretended])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture
async def netlink(machine: Machine) -> AsyncIterator[Netlink]:
    yield machine.netlink
    await machine.netlink.close()


async def test_a_link_is_described_by_name(machine: Machine, netlink: Netlink) -> None:
    assert await netlink.link(machine.parent) is None
    machine.add_parent("02:00:00:00:aa:01")
    link = await netlink.link(machine.parent)
    assert link is not None
    assert (link.name, link.mac, link.mtu, link.kind) == (machine.parent, "02:00:00:00:aa:01", 1400, "veth")
    assert (link.up, link.carrier) == (False, False)
    machine.raise_parent()
    link = await netlink.link(machine.parent)
    assert link is not None
    assert (link.up, link.carrier) == (True, True)


async def test_all_links_of_the_namespace_are_listed(machine: Machine, netlink: Netlink) -> None:
    machine.add_parent("02:00:00:00:aa:02")
    links = await netlink.links()
    assert {"lo", machine.parent} <= {link.name for link in links}
    assert "02:00:00:00:aa:02" in {link.mac for link in links}
    assert await netlink.link(machine.parent) in links


async def test_a_pods_link_is_seen_without_entering_its_namespace(machine: Machine, netlink: Netlink) -> None:
    machine.add_parent("02:00:00:00:aa:03")
    assert await netlink.link_in(machine.namespace, "eth0") is None
    machine.add_child("02:00:00:00:bb:03")
    child = await netlink.link_in(machine.namespace, "eth0")
    assert child is not None
    assert (child.mac, child.kind) == ("02:00:00:00:bb:03", "macvlan")
    assert await netlink.link_in(machine.namespace, "eth0") == child
    parent = await netlink.link(machine.parent)
    assert parent is not None
    assert child.parent == parent.index
    assert await netlink.link("eth0") != child
    assert await netlink.link_in(machine.namespace.with_name("none"), "eth0") is None


async def test_changes_tell_what_appears_changes_and_goes(machine: Machine, netlink: Netlink) -> None:
    seen: list[LinkChange] = []

    async def watch() -> None:
        async with contextlib.aclosing(netlink.changes()) as changes:  # type: ignore[type-var]  # both are async generators
            async for change in changes:
                if change.link.name == machine.parent:
                    seen.append(change)
                    if change.gone:
                        return

    watching = asyncio.ensure_future(watch())
    await asyncio.sleep(0.1)
    machine.add_parent("02:00:00:00:aa:04")
    machine.raise_parent()
    machine.remove_parent()
    async with asyncio.timeout(5):
        await watching
    assert (seen[0].gone, seen[0].link.mac, seen[0].link.up) == (False, "02:00:00:00:aa:04", False)
    assert any(change.link.carrier for change in seen)


async def test_many_questions_at_once_get_their_own_answers(machine: Machine, netlink: Netlink) -> None:
    machine.add_parent("02:00:00:00:aa:05")
    answers = await asyncio.gather(*(netlink.link(("lo", machine.parent)[i % 2]) for i in range(40)))
    assert [link and link.name for link in answers] == ["lo", machine.parent] * 20


async def test_an_overflown_watch_fails_so_that_its_owner_lists_again() -> None:
    fake = MemoryNetlink()
    watching = asyncio.ensure_future(anext(aiter(fake.changes())))
    await asyncio.sleep(0)
    fake.overflow()
    with pytest.raises(NetlinkFailed):
        await watching
