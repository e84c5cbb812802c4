"""The structures that `watch.c` shares with userland, and where its pinned objects live. Standard library only."""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from ipam.addresses import Address, Family

PROGRAMS = ("nephila_ingress", "nephila_egress")
MAPS = ("last_seen", "watched", "macs", "counters", "events")
SIZES = {"LAST_SEEN_ENTRIES": 16_384, "WATCHED_ENTRIES": 16_384, "MACS_ENTRIES": 16_384, "EVENT_PAGES": 16}
SOURCE = Path(__file__).with_name("watch.c")

EXPECT_NOBODY, EXPECT_MAC, EXPECT_SETTLING = range(3)
MAC_SELF, MAC_CLUSTER = 1, 2
HOW_CLAIM, HOW_PROBE, HOW_ANSWER = 1, 2, 3
COUNTERS = ("frames", "events", "suppressed", "lost")

WHERE = struct.Struct("=16sHBx")
MAC_KEY = struct.Struct("=6s2x")
SIGHTING = struct.Struct("=Q6sBB")
EXPECTATION = struct.Struct("=Q6sBx6sH")
EVENT = struct.Struct("=Q16sHBB6sBxI")


@dataclass(frozen=True, slots=True)
class RawEvent:
    """One ring buffer record: `address` on `vlan` was used (or probed for) by `mac` at `at_ns` (CLOCK_BOOTTIME)."""

    at_ns: int
    address: Address
    vlan: int
    how: int
    mac: bytes
    egress: bool
    suppressed: int

    @classmethod
    def unpack(cls, data: bytes) -> RawEvent:
        """Raises struct.error if `data` is too short."""
        at_ns, packed, vlan, family, how, mac, direction, suppressed = EVENT.unpack_from(data)
        return cls(at_ns, unpack_address(packed, family), vlan, how, mac, direction == 1, suppressed)


def pack_where(address: Address, vlan: int) -> bytes:
    """The key of an address on a VLAN."""
    packed = address.value.to_bytes(address.family.bits // 8, "big")
    return WHERE.pack(packed, vlan, address.family.value)


def unpack_address(packed: bytes, family: int) -> Address:
    """The address of a key's first field."""
    version = Family(family)
    return Address(version, int.from_bytes(packed[: version.bits // 8], "big"))


def fingerprint() -> str:
    """Changes with the program, its sizes and the kernel, so that an agent reuses only what was built from the same."""
    digest = hashlib.sha256(SOURCE.read_bytes())
    digest.update(repr(sorted(SIZES.items())).encode())
    digest.update(os.uname().release.encode())
    return digest.hexdigest()[:12]


def pin_folder(root: Path, interface: str) -> Path:
    """Where the objects of `interface` of the calling thread's network namespace are pinned under the bpffs folder
    `root`.

    bpffs refuses dots in names; an interface name never has a colon.
    """
    return root / f"{interface.replace('.', ':')}-{_namespace()}-{fingerprint()}"


def belongs_here(folder: Path) -> bool:
    """Whether `folder` holds the objects of an interface of the calling thread's network namespace."""
    return folder.name.split("-")[-2:-1] == [str(_namespace())]


def _namespace() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino
