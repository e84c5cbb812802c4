"""What agents leave in the kernel beside processes: the watcher's filters on the parent interface and its pins in the BPF file system.

A production node keeps them while an agent restarts; a lab that ends removes them, as the uninstaller does (`python -m probes.ebpf.remove`).
"""

import contextlib
from collections.abc import Iterable

from e2e.lab import netns
from probes.ebpf import bpffs
from probes.ebpf.loader import detach_everywhere, unpin


def inodes(namespaces: Iterable[str]) -> frozenset[str]:
    """What tells the pins of these network namespaces from those of others."""
    found = set()
    for name in namespaces:
        with contextlib.suppress(FileNotFoundError):
            found.add(str(netns.path_of(name).stat().st_ino))
    return frozenset(found)


def remove(namespaces: Iterable[str]) -> None:
    """Detaches and unpins inside each namespace; those without a watcher are left as they are."""

    def inside() -> None:
        detach_everywhere()
        unpin()

    for name in namespaces:
        with contextlib.suppress(OSError):  # no BPF here, or the namespace is gone: `left` tells what stayed
            netns.run_in(name, inside)


def left(owners: frozenset[str]) -> list[str]:
    """Pins that still stand for the network namespaces with these inodes."""
    folders = [folder for root in bpffs.existing() for folder in root.iterdir() if folder.is_dir()]
    return sorted(str(folder) for folder in folders if owners.intersection(folder.name.split("-")[-2:-1]))
