"""Compiles `watch.c` with bcc, loads it and pins programs and maps: `python -m probes.ebpf.compile FOLDER`.

Always a process of its own: LLVM costs about 130 MiB and half a second, and both are gone when it exits. The pins
keep what it loaded. Needs CAP_BPF, CAP_NET_ADMIN (or CAP_SYS_ADMIN) and kernel headers or
/sys/kernel/kheaders.tar.xz. The folder appears complete or not at all.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

from probes.ebpf.layout import MAPS, PROGRAMS, SIZES, SOURCE


class CompileFailed(Exception):
    """The program could not be compiled, loaded or pinned."""


def compile_and_pin(folder: Path) -> None:
    """Pin the programs and maps under `folder` (on a bpffs), which must not exist. Raises CompileFailed or OSError."""
    try:
        from bcc import BPF, libbcc
    except ImportError as error:
        raise CompileFailed(f"python3-bpfcc is not installed (the bcc on PyPI is another package): {error}") from error
    if not hasattr(libbcc, "lib"):
        raise CompileFailed("the module bcc is not iovisor's; install Debian's python3-bpfcc")
    flags = [f"-D{name}={value}" for name, value in SIZES.items()]
    program = BPF(src_file=str(SOURCE), cflags=[*flags, "-Wno-macro-redefined"])
    handles = {name: program.load_func(name, BPF.SCHED_CLS).fd for name in PROGRAMS}
    handles |= {name: program[name].map_fd for name in MAPS}
    building = folder.with_name(f"new-{os.getpid()}")
    building.mkdir(mode=0o700)
    try:
        for name, handle in handles.items():
            if libbcc.lib.bpf_obj_pin(handle, str(building / name).encode()):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(building / name))
        building.rename(folder)
    except OSError:
        shutil.rmtree(building, ignore_errors=True)
        raise


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m probes.ebpf.compile FOLDER", file=sys.stderr)
        return 2
    try:
        compile_and_pin(Path(arguments[0]))
    except Exception as error:  # noqa: BLE001  # bcc raises bare Exception; this process exists to report it and exit
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
