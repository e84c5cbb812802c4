"""Replays the DELs that the shim spooled while the agent was away: files beside the socket, each one HTTP request, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from adapters.clock import Clock
from ipam.errors import BadValue, NephilaError
from nodeagent.request import CniRequest, parse_request
from nodeagent.wire import RequestReader

log = structlog.get_logger(__name__)

SCAN_S = 1.0
MAX_FILES_PER_PASS = 1024
STALE_S = 60.0  # a half-written file this old belongs to a shim that was killed: its DEL was not acknowledged
MAX_REFUSED = 64  # kept for whoever looks into it, oldest first to go


class Spool:
    """`directory` need not exist: the shim makes it when it first needs it. `delete` serves one DEL, durably."""

    def __init__(self, directory: Path, delete: Callable[[CniRequest], object], clock: Clock) -> None:
        self._directory = directory
        self._delete = delete
        self._clock = clock

    @property
    def depth(self) -> int:
        return len(self._files())

    async def run(self) -> None:
        while True:
            await self.replay()
            self.tidy()
            await self._clock.sleep(SCAN_S)

    async def replay(self) -> int:
        """Handle every spooled DEL in the order of its making; returns how many. A file goes only after its DEL is durable."""
        done = 0
        for path in self._files():
            try:
                await self._replay_one(path)
            except NephilaError as error:
                if error.code != 5:  # anything but a failing journal will not get better by itself
                    log.error("spooled_delete_refused", file=path.name, reason=error.reason)
                    path.rename(path.with_suffix(".refused"))
                else:
                    log.warning("spooled_delete_postponed", file=path.name, error=str(error))
                    return done
            else:
                path.unlink(missing_ok=True)
                done += 1
        return done

    async def _replay_one(self, path: Path) -> None:
        request = RequestReader().feed(path.read_bytes())
        if request is None:
            raise BadValue("request", "is cut short", "the shim was killed while it wrote it")
        parsed = parse_request(request.headers, request.body)
        self._delete(parsed)
        log.info("spooled_delete_replayed", container=parsed.container_id, file=path.name)

    def tidy(self) -> None:
        """Remove what killed shims left half-written, and all but the newest refused entries."""
        for path in self._directory.glob(".*.tmp"):
            with suppress(FileNotFoundError):  # its shim has just finished it: it has its final name now
                if self._clock.wall() - path.stat().st_mtime > STALE_S:
                    path.unlink()
        for path in sorted(self._directory.glob("*.refused"))[:-MAX_REFUSED]:
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(path for path in self._directory.glob("*.del") if not path.name.startswith("."))[
            :MAX_FILES_PER_PASS
        ]
