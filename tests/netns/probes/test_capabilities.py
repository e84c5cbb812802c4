"""The chart gives the agent three capabilities: with exactly these everything it does works, and without each of them something fails."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.netns.probes.lan import Host, Lan

pytestmark = [pytest.mark.netns, pytest.mark.ebpf, pytest.mark.usefixtures("_bpf")]

ALL = {"net_admin", "net_raw", "bpf"}
# What the agent does with the kernel, each by its own adapter; prints the names of what works.
SCRIPT = """
import asyncio, sys
from pathlib import Path
from adapters.clock import SystemClock
from adapters.frames import FrameSocket
from adapters.netlink import SystemNetlink
from probes.ebpf.watcher import open_kernel_watcher

async def frames():
    port = FrameSocket("eth0")
    port.subscribe(print)()
    port.close()

async def pods_mac():  # the MAC of a pod's interface, without entering its namespace
    netlink = SystemNetlink()
    if await netlink.link_in(Path(sys.argv[1]), "eth0") is None:
        raise OSError("not seen")
    await netlink.close()

async def ebpf():
    watcher = await open_kernel_watcher("eth0", SystemClock(), print)
    watcher.start(print)
    await watcher.close()

async def main():
    for step in (frames, pods_mac, ebpf):
        try:
            await step()
            print(step.__name__)
        except Exception as error:  # whatever refuses it is the answer: the test reads it
            print(step.__name__, type(error).__name__, error, file=sys.stderr)

asyncio.run(main())
"""


async def works_with(host: Host, pod: Host, capabilities: set[str]) -> tuple[set[str], str]:
    """With a BPF file system of its own: what an earlier run pinned would need no loading."""
    bounded = ",".join(["-all", *(f"+{name}" for name in sorted(capabilities))])
    limited = ["setpriv", f"--bounding-set={bounded}", "--inh-caps=-all", "--no-new-privs", "--"]
    command = [*limited, sys.executable, "-c", SCRIPT, f"/run/netns/{pod.namespace}"]
    done = await asyncio.to_thread(
        subprocess.run,
        [
            "ip",
            "netns",
            "exec",
            host.namespace,
            "sh",
            "-c",
            'mount -t bpf bpf /sys/fs/bpf && exec "$@"',
            "sh",
            *command,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    return set(done.stdout.split()), done.stderr


async def test_with_the_charts_capabilities_everything_works(net: Lan, host: Host) -> None:
    works, said = await works_with(host, net.host(), ALL)
    assert works == {"frames", "pods_mac", "ebpf"}, said


@pytest.mark.parametrize(
    ("without", "fails"),
    [("net_raw", {"frames"}), ("net_admin", {"pods_mac", "ebpf"}), ("bpf", {"ebpf"})],
)
async def test_none_of_them_is_spare(net: Lan, host: Host, without: str, fails: set[str]) -> None:
    works, said = await works_with(host, net.host(), ALL - {without})
    assert {"frames", "pods_mac", "ebpf"} - works == fails, said
