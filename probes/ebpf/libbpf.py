"""The few functions of libbpf.so.1 that we use, through ctypes: no LLVM, no compiler, under a megabyte.

Every call raises OSError with the kernel's error number. Structures follow libbpf.h of 1.0, whose ABI later versions
keep.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

INGRESS, EGRESS = 1, 2
_REPLACE = 1
_SCHED_CLS = 3
_RINGBUF = 27
_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Hook(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("attach_point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    )


class _Options(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("prog_fd", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    )


class _ProgramInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("skipped", ctypes.c_uint8 * 56),
        ("name", ctypes.c_char * 16),
    )


class Libbpf:
    """The loaded library; raises OSError if libbpf.so.1 is not installed."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
        self._lib.ring_buffer__new.restype = ctypes.c_void_p
        self._lib.libbpf_set_print(None)  # it would write to stderr what we report as errors
        for name in ("epoll_fd", "consume", "free"):
            getattr(self._lib, f"ring_buffer__{name}").argtypes = [ctypes.c_void_p]

    def supported(self) -> str:
        """Empty if this kernel can run the watcher, else what it lacks. Loads nothing that stays."""
        for what, answer in (
            ("tc programs", self._lib.libbpf_probe_bpf_prog_type(_SCHED_CLS, None)),
            ("BPF ring buffers", self._lib.libbpf_probe_bpf_map_type(_RINGBUF, None)),
        ):
            if answer == 0:
                return f"this kernel has no {what}"
            if answer < 0:
                return f"{what} could not be probed: {os.strerror(-answer)}"
        return ""

    def get_pinned(self, path: str) -> int:
        """A file descriptor of the object pinned at `path`."""
        return self._checked(self._lib.bpf_obj_get(path.encode()), path)

    def update(self, handle: int, key: bytes, value: bytes) -> None:
        """Insert or replace."""
        self._checked(self._lib.bpf_map_update_elem(handle, key, value, ctypes.c_uint64(0)))

    def delete(self, handle: int, key: bytes) -> None:
        """Raises FileNotFoundError if there is no such key."""
        self._checked(self._lib.bpf_map_delete_elem(handle, key))

    def lookup(self, handle: int, key: bytes, size: int) -> bytes | None:
        """The value of `size` bytes, or None."""
        value = ctypes.create_string_buffer(size)
        try:
            self._checked(self._lib.bpf_map_lookup_elem(handle, key, value))
        except FileNotFoundError:
            return None
        return value.raw

    def first_key(self, handle: int, size: int) -> bytes | None:
        """Any key, or None if the map is empty."""
        key = ctypes.create_string_buffer(size)
        try:
            self._checked(self._lib.bpf_map_get_next_key(handle, None, key))
        except FileNotFoundError:
            return None
        return key.raw

    def program(self, handle: int) -> tuple[int, str]:
        """Kernel-wide id and name of a program."""
        info, size = _ProgramInfo(), ctypes.c_uint32(ctypes.sizeof(_ProgramInfo))
        self._checked(self._lib.bpf_obj_get_info_by_fd(handle, ctypes.byref(info), ctypes.byref(size)))
        return info.id, info.name.decode()

    def program_by_id(self, number: int) -> int:
        """A file descriptor of the program with this id."""
        return self._checked(self._lib.bpf_prog_get_fd_by_id(ctypes.c_uint32(number)))

    def attach(self, index: int, point: int, program: int, handle: int, priority: int) -> None:
        """Attach to the clsact hook of interface `index`, creating the hook if needed and replacing our own filter."""
        hook = self._hook(index, point)
        with suppress(FileExistsError):
            self._checked(self._lib.bpf_tc_hook_create(ctypes.byref(hook)))
        options = self._options(handle, priority)
        options.prog_fd, options.flags = program, _REPLACE
        self._checked(self._lib.bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options)))

    def attached(self, index: int, point: int, handle: int, priority: int) -> int:
        """The id of the program at this place, 0 if none."""
        hook, options = self._hook(index, point), self._options(handle, priority)
        if self._lib.bpf_tc_query(ctypes.byref(hook), ctypes.byref(options)):
            return 0  # no clsact, no such filter, or no such interface: all mean "not there"
        return int(options.prog_id)

    def detach(self, index: int, point: int, handle: int, priority: int) -> None:
        """Remove the filter at this place."""
        hook, options = self._hook(index, point), self._options(handle, priority)
        self._checked(self._lib.bpf_tc_detach(ctypes.byref(hook), ctypes.byref(options)))

    def ring(self, handle: int, sink: Callable[[bytes], None]) -> Ring:
        """A consumer of the ring buffer map `handle`."""
        return Ring(self._lib, handle, sink)

    def _hook(self, index: int, point: int) -> _Hook:
        return _Hook(sz=ctypes.sizeof(_Hook), ifindex=index, attach_point=point)

    def _options(self, handle: int, priority: int) -> _Options:
        return _Options(sz=ctypes.sizeof(_Options), handle=handle, priority=priority)

    def _checked(self, result: int, what: str = "") -> int:
        if result < 0:
            code = -result if result != -1 else ctypes.get_errno() or 1
            raise OSError(code, os.strerror(code), what or None)
        return result


class Ring:
    """A ring buffer's userland side. `sink` gets each record, in order."""

    def __init__(self, lib: Any, handle: int, sink: Callable[[bytes], None]) -> None:
        def sample(_context: int, data: int, size: int) -> int:
            sink(ctypes.string_at(data, size))
            return 0

        self._lib = lib
        self._callback = _SAMPLE(sample)  # must live as long as the ring
        self._ring = lib.ring_buffer__new(handle, self._callback, None, None)
        if not self._ring:
            code = ctypes.get_errno() or 1
            raise OSError(code, os.strerror(code), "ring buffer")

    def fileno(self) -> int:
        """Readable when there are records."""
        return int(self._lib.ring_buffer__epoll_fd(self._ring))

    def consume(self) -> None:
        """Hand all records to the sink. A sink must not raise: ctypes could only print the error."""
        self._lib.ring_buffer__consume(self._ring)

    def close(self) -> None:
        """Idempotent."""
        if self._ring:
            self._lib.ring_buffer__free(self._ring)
            self._ring = None
