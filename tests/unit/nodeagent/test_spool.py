"""Replay of the DELs that the shim spooled: in order, once durable, and nothing broken stops the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapters.clock import SystemClock
from nodeagent.spool import Spool
from tests.unit.nodeagent.harness import Lab, add, http


def spooled(directory: Path, name: str, container: str) -> None:
    request = http("DEL", container)
    head = "POST /cni HTTP/1.1\r\nHost: nephila\r\nNephila-Shim: 1\r\n"
    head += "".join(f"Cni-{key.capitalize()}: {value}\r\n" for key, value in request.headers.items())
    head += f"Content-Length: {len(request.body)}\r\n\r\n"
    (directory / name).write_bytes(head.encode() + request.body)


@pytest.fixture
async def lab() -> Lab:
    lab = Lab()
    await lab.namespace()
    await lab.node("n1")
    await lab.pool("v4", "10.6.0.0/24", "10.6.0.10-10.6.0.50", default=True)
    return lab


async def test_spooled_deletes_free_what_they_name_and_then_vanish(lab: Lab, tmp_path: Path) -> None:
    async with lab.agent("n1") as agent:
        await add(agent, "c1", await lab.pod("p", "n1"))
        spooled(tmp_path, "00000000000000000001-7.del", "c1")
        spool = Spool(tmp_path, agent.verbs.delete, SystemClock())
        assert spool.depth == 1
        assert await spool.replay() == 1
        assert agent.allocator.all() == ()
        assert list(tmp_path.iterdir()) == []


async def test_a_broken_entry_is_set_aside_and_the_next_is_served(lab: Lab, tmp_path: Path) -> None:
    async with lab.agent("n1") as agent:
        await add(agent, "c2", await lab.pod("p", "n1"))
        (tmp_path / "00000000000000000001-7.del").write_bytes(b"not http")
        (tmp_path / "00000000000000000002-7.del").write_bytes(b"POST /cni HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf")
        spooled(tmp_path, "00000000000000000003-7.del", "c2")
        assert await Spool(tmp_path, agent.verbs.delete, SystemClock()).replay() == 1
        assert agent.allocator.all() == ()
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".refused", ".refused"]


async def test_half_written_files_are_left_alone_until_they_are_old(lab: Lab, tmp_path: Path) -> None:
    async with lab.agent("n1") as agent:
        young, old = tmp_path / ".00000000000000000001-7.tmp", tmp_path / ".00000000000000000000-7.tmp"
        for path in (young, old):
            path.write_bytes(b"POST")
        os.utime(old, (1.0, 1.0))
        spool = Spool(tmp_path, agent.verbs.delete, SystemClock())
        assert await spool.replay() == 0
        spool.tidy()
        assert (young.exists(), old.exists()) == (True, False)


async def test_a_file_that_its_shim_finishes_during_the_look_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last step renames it, between our finding the name and our asking for its age."""
    writing, written = tmp_path / ".00000000000000000001-7.del.tmp", tmp_path / "00000000000000000001-7.del"
    writing.write_bytes(b"POST")
    stat = Path.stat

    def finished_first(path: Path, **given: bool) -> os.stat_result:
        if path == writing and writing in tmp_path.iterdir():
            writing.rename(written)
        return stat(path, **given)

    monkeypatch.setattr(Path, "stat", finished_first)
    Spool(tmp_path, lambda request: request, SystemClock()).tidy()
    assert list(tmp_path.iterdir()) == [written]
