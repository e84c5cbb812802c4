"""Network namespaces by name, without a process for each.

A name is a bind mount under `/run/netns`, so `ip -n NAME` and CNI plugins find it. Linux gives each *thread* its own network namespace;
every entry below happens on a thread that ends afterwards, so no other code of this process ever runs in the wrong namespace.
"""

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fcntl import ioctl
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH = 2
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def path_of(name: str) -> Path:
    return ROOT / name


def create(name: str) -> Path:
    """Makes a namespace with its loopback up. Raises FileExistsError if the name is taken, OSError if the kernel refuses."""
    path = path_of(name)
    ROOT.mkdir(mode=0o755, exist_ok=True)
    path.touch(mode=0o444, exist_ok=False)

    def make() -> None:
        _check(_libc.unshare(_CLONE_NEWNET), f"unshare for {name}")
        _check(_libc.mount(b"/proc/thread-self/ns/net", bytes(path), b"none", _MS_BIND, None), f"mount {path}")
        _raise_loopback()

    try:
        _on_own_thread(make)
    except BaseException:
        delete(name)
        raise
    return path


def delete(name: str) -> None:
    """Removes the name; the kernel drops the namespace with its links once no process or socket uses it. A missing name is fine."""
    path = path_of(name)
    _libc.umount2(bytes(path), _MNT_DETACH)  # fails only if it was never mounted
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def names(prefix: str) -> list[str]:
    """The named namespaces that begin with `prefix`, sorted."""
    return sorted(entry.name for entry in ROOT.glob(f"{prefix}*")) if ROOT.is_dir() else []


def run_in(name: str, action: Callable[[], T]) -> T:
    """Runs `action` inside the namespace, on a thread of its own, and returns its result or raises its error.

    Sockets and child processes made by `action` stay in that namespace for good.
    """

    def enter() -> T:
        handle = os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(handle, _CLONE_NEWNET), f"setns to {name}")
        finally:
            os.close(handle)
        return action()

    return _on_own_thread(enter)


def listen_in(name: str, host: str, port: int) -> socket.socket:
    """A TCP socket that listens inside the namespace and may be served from anywhere."""

    def make() -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
        return listener

    return run_in(name, make)


def processes_in(wanted: list[str]) -> dict[int, str]:
    """pid → namespace name for every process whose main thread is in one of the namespaces."""
    by_inode: dict[int, str] = {}
    for name in wanted:
        with contextlib.suppress(FileNotFoundError):
            by_inode[path_of(name).stat().st_ino] = name
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # the process ended meanwhile
            inode = (entry / "ns/net").stat().st_ino
            if inode in by_inode:
                found[int(entry.name)] = by_inode[inode]
    return found


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        (_, flags) = struct.unpack("16sH14x", ioctl(control, _SIOCGIFFLAGS, request))
        ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _on_own_thread(action: Callable[[], T]) -> T:
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns") as thread:
        return thread.submit(action).result()
