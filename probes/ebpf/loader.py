"""The agent's side of the kernel watcher: has it built by a child process, attaches it, and reads its maps. Never
imports bcc.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from probes.ebpf import bpffs
from probes.ebpf.layout import COUNTERS, MAC_KEY, MAPS, PROGRAMS, SIGHTING, WHERE, belongs_here, pin_folder
from probes.ebpf.libbpf import EGRESS, INGRESS, Libbpf, Ring

HANDLE = 0x4E50  # our filter's handle, so that other filters of the same priority are left alone
# First if possible: a filter before ours that answers TC_ACT_OK hides frames from us. A priority that holds filters
# of another kind or protocol cannot be shared, hence the others.
PRIORITIES = (1, 2, 3, 5, 8)
POINTS = ((INGRESS, "nephila_ingress"), (EGRESS, "nephila_egress"))
BUILD_TIMEOUT_S = 60.0
_ROOT = Path(__file__).parents[2]


class Unavailable(Exception):
    """The kernel watcher cannot run here; the text says why, for `IPNode`."""


async def prepare(interface: str) -> Path:
    """The folder with the pinned objects for `interface`, built by a child process unless an earlier agent left it.
    Raises Unavailable.
    """
    try:
        missing = Libbpf().supported()
        if missing:
            raise Unavailable(missing)
        root = await asyncio.to_thread(bpffs.ensure)
        folder = pin_folder(root, interface)
    except OSError as error:
        raise Unavailable(f"BPF is not usable: {error}") from error
    if complete(folder):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    await _build(folder)
    return folder


def complete(folder: Path) -> bool:
    """Whether all programs and maps are pinned there."""
    return all((folder / name).exists() for name in (*PROGRAMS, *MAPS))


async def _end(child: asyncio.subprocess.Process) -> None:
    """Ends the child and closes its pipe."""
    if child.returncode is None:
        child.kill()
    await child.communicate()


async def _build(folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(_ROOT), os.environ.get("PYTHONPATH", "")))}
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "probes.ebpf.compile", str(folder)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        async with asyncio.timeout(BUILD_TIMEOUT_S):
            _, errors = await child.communicate()
    except asyncio.CancelledError:
        await _end(child)
        raise
    except TimeoutError:
        await _end(child)
        raise Unavailable(f"compiling the watcher took more than {BUILD_TIMEOUT_S:.0f} s") from None
    if child.returncode:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise Unavailable(f"the watcher could not be built: {lines[-1] if lines else 'no message'}")


class KernelWatch:
    """The pinned objects of one interface, opened. Starts with nobody watched, whatever an earlier agent left in the
    maps.
    """

    def __init__(self, folder: Path, interface: str, sink: Callable[[bytes], None]) -> None:
        self.interface = interface
        self._lib = Libbpf()
        self._handles: dict[str, int] = {}
        self._ring: Ring | None = None
        try:
            for name in (*PROGRAMS, *MAPS):
                self._handles[name] = self._lib.get_pinned(str(folder / name))
            self._ids = {name: self._lib.program(self._handles[name])[0] for name in PROGRAMS}
            self._clear("watched", WHERE.size)
            self._clear("macs", MAC_KEY.size)
            self._ring = self._lib.ring(self._handles["events"], sink)
        except OSError:
            self.close()
            raise

    def attach(self) -> None:
        """Attach both directions, replacing what an earlier agent attached. Raises OSError (ENODEV: no such
        interface).
        """
        index = socket.if_nametoindex(self.interface)
        for point, name in POINTS:
            chosen = self._attach_first(index, point, self._handles[name])
            for priority in PRIORITIES:
                if priority != chosen:
                    _detach_ours(self._lib, index, point, name, priority)

    def attached(self) -> bool:
        """Whether both of *our* programs are attached to the interface that bears the name now."""
        try:
            index = socket.if_nametoindex(self.interface)
        except OSError:
            return False
        return all(
            any(self._lib.attached(index, point, HANDLE, priority) == self._ids[name] for priority in PRIORITIES)
            for point, name in POINTS
        )

    def _attach_first(self, index: int, point: int, program: int) -> int:
        for priority in PRIORITIES[:-1]:
            try:
                self._lib.attach(index, point, program, HANDLE, priority)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            else:
                return priority
        self._lib.attach(index, point, program, HANDLE, PRIORITIES[-1])
        return PRIORITIES[-1]

    def fileno(self) -> int:
        """Readable when events wait."""
        assert self._ring is not None
        return self._ring.fileno()

    def consume(self) -> None:
        """Hand waiting events to the sink."""
        if self._ring is not None:
            self._ring.consume()

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Insert or replace. Raises OSError (E2BIG: the map is full)."""
        self._lib.update(self._handles[table], key, value)

    def drop(self, table: str, key: bytes) -> None:
        """Remove a key; a missing one is fine."""
        with suppress(FileNotFoundError):
            self._lib.delete(self._handles[table], key)

    def sighting(self, key: bytes) -> bytes | None:
        """The raw last-seen record of an address."""
        return self._lib.lookup(self._handles["last_seen"], key, SIGHTING.size)

    def counters(self) -> dict[str, int]:
        """Totals since the program was loaded."""
        values: dict[str, int] = {}
        for number, name in enumerate(COUNTERS):
            raw = self._lib.lookup(self._handles["counters"], number.to_bytes(4, sys.byteorder), 8)
            values[name] = int.from_bytes(raw or b"", sys.byteorder)
        return values

    def close(self) -> None:
        """Let go. Programs stay attached and pinned, so nothing is missed while an agent restarts. Idempotent."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()

    def _clear(self, table: str, size: int) -> None:
        for _ in range(1 << 16):
            key = self._lib.first_key(self._handles[table], size)
            if key is None:
                return
            self._lib.delete(self._handles[table], key)


def detach_everywhere() -> list[str]:
    """Detach our programs from every interface of this network namespace; the names of those that had them."""
    lib = Libbpf()
    return sorted(
        {
            name
            for index, name in socket.if_nameindex()
            for point, program in POINTS
            for priority in PRIORITIES
            if _detach_ours(lib, index, point, program, priority)
        }
    )


def _detach_ours(lib: Libbpf, index: int, point: int, program: str, priority: int) -> bool:
    number = lib.attached(index, point, HANDLE, priority)
    if not number:
        return False
    handle = lib.program_by_id(number)
    try:
        if lib.program(handle)[1] != program[:15]:  # the kernel keeps 15 characters
            return False
    finally:
        os.close(handle)
    lib.detach(index, point, HANDLE, priority)
    return True


def unpin() -> list[Path]:
    """Remove the pinned objects of this network namespace, of any version; the folders removed."""
    removed: list[Path] = []
    for root in bpffs.existing():
        for folder in root.iterdir():
            if folder.is_dir() and belongs_here(folder):
                for pin in folder.iterdir():
                    pin.unlink()
                folder.rmdir()
                removed.append(folder)
    return removed
