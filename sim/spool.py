"""The shim's spool directory in memory, with what `nodeagent.spool.Spool` asks of a path; it outlives the agent, not the machine's power."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import total_ordering

from nodeagent.wire import HttpRequest


@total_ordering
@dataclass(frozen=True)
class SpoolFile:
    directory: SpoolDirectory
    name: str

    def __lt__(self, other: SpoolFile) -> bool:
        return self.name < other.name

    def read_bytes(self) -> bytes:
        return self.directory.files[self.name]

    def with_suffix(self, suffix: str) -> SpoolFile:
        return SpoolFile(self.directory, self.name.rpartition(".")[0] + suffix)

    def rename(self, target: SpoolFile) -> None:
        self.directory.files[target.name] = self.directory.files.pop(self.name)

    def unlink(self, missing_ok: bool = False) -> None:  # noqa: FBT001  # the signature of pathlib
        if not self.directory.unlink_is_lost():
            self.directory.files.pop(self.name, None)


class SpoolDirectory:
    """`unlink_is_lost`: whether this removal does not reach the disk, so that the file is found again (a second replay)."""

    def __init__(self, unlink_is_lost: Callable[[], bool]) -> None:
        self.files: dict[str, bytes] = {}
        self.unlink_is_lost = unlink_is_lost
        self._number = 0

    def add(self, boottime: float, request: HttpRequest) -> None:
        self._number += 1
        self.files[f"{int(boottime * 1e9):020d}-{self._number}.del"] = raw(request)

    def glob(self, pattern: str) -> Iterator[SpoolFile]:
        return iter([SpoolFile(self, name) for name in self.files if fnmatchcase(name, pattern)])


def raw(request: HttpRequest) -> bytes:
    """The request as the shim sends it, byte for byte."""
    headers = "".join(f"Cni-{name.capitalize()}: {value}\r\n" for name, value in request.headers.items())
    head = f"POST /cni HTTP/1.1\r\nHost: nephila\r\nNephila-Shim: 1\r\n{headers}Content-Length: {len(request.body)}\r\n\r\n"
    return head.encode() + request.body
