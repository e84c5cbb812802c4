"""What only the kernel watcher has: a build in a child process, pins, restarts, and the way down to the other modes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.clock import SystemClock
from adapters.frames import FrameSocket
from ipam.addresses import Address
from probes import codec
from probes.acd import arp_announcement
from probes.ebpf import bpffs, loader, remove
from probes.ebpf.layout import pin_folder
from probes.ebpf.watcher import open_kernel_watcher
from probes.watcher import Intrusion, Mode
from probes.watching import open_watcher
from tests.netns.probes.lan import Host, Lan, inside, resident_kib, run

V4 = Address.parse("10.9.0.7")
STRANGER = "02:00:00:00:00:99"

pytestmark = [pytest.mark.netns, pytest.mark.ebpf, pytest.mark.usefixtures("_bpf")]


@pytest.fixture(name="stranger")
def _stranger(net: Lan, host: Host) -> Iterator[FrameSocket]:
    del host
    with inside(net.host().namespace):
        port = FrameSocket("eth0")
    yield port
    port.close()


async def hears(stranger: FrameSocket, events: list[Intrusion], most_s: float = 5.0) -> None:
    events.clear()
    async with asyncio.timeout(most_s):
        while not events:
            stranger.send([codec.encode(arp_announcement(V4, STRANGER))])
            await asyncio.sleep(0.02)


def filters(host: Host) -> str:
    return run("tc", "-n", host.namespace, "filter", "show", "dev", "eth0", "ingress")


async def test_both_directions_are_attached_first_and_hide_nothing_from_others(host: Host) -> None:
    watcher = await open_kernel_watcher("eth0", SystemClock(), lambda event: None)
    for direction in ("ingress", "egress"):
        shown = run("tc", "-n", host.namespace, "filter", "show", "dev", "eth0", direction)
        assert f"nephila_{direction}"[:15] in shown
        assert "pref 1 " in shown
        assert "direct-action" in shown
    await watcher.close()


async def test_traffic_passes_through_unharmed(net: Lan, host: Host) -> None:
    host.own("10.9.0.1/24", "fd09::1/64")
    net.host("10.9.0.2/24", "fd09::2/64")
    watcher = await open_kernel_watcher("eth0", SystemClock(), lambda event: None)
    for target in ("10.9.0.2", "fd09::2"):
        host.exec("ping", "-c", "3", "-i", "0.05", "-W", "2", target)
    await watcher.close()


async def test_the_agent_carries_no_llvm(host: Host) -> None:
    script = """
import asyncio, sys
from adapters.clock import SystemClock
from probes.ebpf.watcher import open_kernel_watcher
from ipam.addresses import Address, Family
async def main():
    watcher = await open_kernel_watcher("eth0", SystemClock(), print)
    for number in range(1000):
        watcher.watch(Address(Family.V4, number + 1))
    maps = open("/proc/self/maps").read()
    status = open("/proc/self/status").read()
    print("bcc" in sys.modules, "libbcc.so" in maps, "LLVM" in maps, "clang" in maps, status.split("VmRSS:")[1].split()[0])
    await watcher.close()
asyncio.run(main())
"""
    done = await asyncio.to_thread(
        subprocess.run,
        ["ip", "netns", "exec", host.namespace, sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    *flags, resident = done.stdout.split()
    assert flags == ["False"] * 4
    print("watcher_process_rss_kib", int(resident))
    assert int(resident) < 48 * 1024  # interpreter, asyncio, scapy's layers, libbpf


async def test_watching_costs_the_agent_little_memory(host: Host) -> None:
    del host
    before = resident_kib()
    watcher = await open_kernel_watcher("eth0", SystemClock(), lambda event: None)
    grown = resident_kib() - before
    print("rss_growth_kib", grown)
    assert grown < 8 * 1024
    await watcher.close()


async def test_a_restarted_agent_uses_the_pins_without_compiling_and_starts_clean(
    host: Host, stranger: FrameSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    del host
    first = await open_kernel_watcher("eth0", SystemClock(), lambda event: None)
    first.watch(V4)
    await first.close()

    async def never(folder: Path) -> None:
        raise AssertionError(f"compiled {folder} again")

    monkeypatch.setattr(loader, "_build", never)
    events: list[Intrusion] = []
    start = time.monotonic()
    second = await open_kernel_watcher("eth0", SystemClock(), events.append)
    assert time.monotonic() - start < 0.2
    stranger.send([codec.encode(arp_announcement(V4, STRANGER))] * 3)
    await asyncio.sleep(0.05)
    assert events == []  # what the first one watched is forgotten
    second.watch(V4)
    await hears(stranger, events)
    await second.close()


async def test_incomplete_pins_are_built_anew(host: Host) -> None:
    del host
    first = await open_kernel_watcher("eth0", SystemClock(), lambda event: None)
    await first.close()
    folder = pin_folder(bpffs.ensure(), "eth0")
    (folder / "watched").unlink()
    second = await open_kernel_watcher("eth0", SystemClock(), lambda event: None)
    assert loader.complete(folder)
    await second.close()


async def test_a_filter_that_somebody_removes_comes_back(host: Host, stranger: FrameSocket) -> None:
    events: list[Intrusion] = []
    watcher = await open_kernel_watcher("eth0", SystemClock(), events.append)
    watcher.watch(V4)
    run("tc", "-n", host.namespace, "qdisc", "del", "dev", "eth0", "clsact")
    assert "nephila" not in filters(host)
    await hears(stranger, events)
    assert "nephila" in filters(host)
    await watcher.close()


async def test_an_interface_created_anew_is_watched_again(net: Lan, host: Host, stranger: FrameSocket) -> None:
    events: list[Intrusion] = []
    watcher = await open_kernel_watcher("eth0", SystemClock(), events.append)
    watcher.watch(V4)
    host.ip("link", "delete", "eth0")
    await asyncio.sleep(2.5)
    assert "not attached" in watcher.reason
    host.ip("link", "add", "eth0", "type", "veth", "peer", "name", "anew0", "netns", net.hub)
    host.ip("link", "set", "eth0", "up")
    run("ip", "-n", net.hub, "link", "set", "anew0", "master", "br0", "up")
    await hears(stranger, events)
    assert watcher.reason == ""
    await watcher.close()


@pytest.mark.parametrize("priority", ["1", "4"])
async def test_other_filters_stay_when_ours_come_and_go(host: Host, priority: str) -> None:
    run("tc", "-n", host.namespace, "qdisc", "add", "dev", "eth0", "clsact")
    match = ("protocol", "ip", "u32", "match", "u32", "0", "0", "flowid", "1:1")
    run("tc", "-n", host.namespace, "filter", "add", "dev", "eth0", "ingress", "pref", priority, *match)
    watcher = await open_kernel_watcher("eth0", SystemClock(), lambda event: None)
    await watcher.close()
    assert "nephila" in filters(host)
    assert loader.detach_everywhere() == ["eth0"]
    assert "nephila" not in filters(host)
    assert f"pref {priority} u32" in filters(host)
    assert loader.detach_everywhere() == []


async def test_a_better_place_is_taken_when_it_becomes_free_and_the_old_one_left(host: Host) -> None:
    run("tc", "-n", host.namespace, "qdisc", "add", "dev", "eth0", "clsact")
    place = ("dev", "eth0", "ingress", "pref", "1")
    match = ("protocol", "ip", "u32", "match", "u32", "0", "0", "flowid", "1:1")
    run("tc", "-n", host.namespace, "filter", "add", *place, *match)
    first = await open_kernel_watcher("eth0", SystemClock(), lambda event: None)
    await first.close()
    assert "pref 2 bpf" in filters(host)
    run("tc", "-n", host.namespace, "filter", "del", *place)
    second = await open_kernel_watcher("eth0", SystemClock(), lambda event: None)
    assert "pref 1 bpf" in filters(host)
    assert "pref 2 " not in filters(host)
    await second.close()


async def test_removal_leaves_neither_filters_nor_pins(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    watcher = await open_kernel_watcher("eth0", SystemClock(), lambda event: None)
    await watcher.close()
    folder = pin_folder(bpffs.ensure(), "eth0")
    assert remove.main() == 0
    assert "detached from eth0" in capsys.readouterr().out
    assert not folder.exists()
    assert "nephila" not in filters(host)
    assert remove.main() == 0


async def test_a_build_that_fails_gives_way_to_the_packet_watcher_with_the_compilers_reason(
    host: Host, stranger: FrameSocket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del host
    (tmp_path / "bcc.py").write_text("raise ImportError('no bcc here')")
    monkeypatch.setattr(loader, "_ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    events: list[Intrusion] = []
    watcher = await open_watcher("eth0", SystemClock(), events.append)
    assert watcher.mode is Mode.PACKET
    assert "python3-bpfcc is not installed" in watcher.reason
    watcher.watch(V4)
    await hears(stranger, events)
    await watcher.close()


async def test_without_an_interface_nothing_is_watched_and_the_reason_says_so(host: Host) -> None:
    del host
    watcher = await open_watcher("nosuch0", SystemClock(), lambda event: None)
    assert watcher.mode is Mode.OFF
    assert "nosuch0" in watcher.reason
    watcher.watch(V4)
    watcher.unwatch(V4)
    assert watcher.last_seen(V4) is None
    await watcher.close()


async def test_switched_off_means_off(host: Host) -> None:
    del host
    watcher = await open_watcher("eth0", SystemClock(), lambda event: None, Mode.OFF)
    assert (watcher.mode, watcher.reason) == (Mode.OFF, "switched off by configuration")
    await watcher.close()
