"""Telling people: Events about objects, through a port, so that nothing here waits for them."""

from __future__ import annotations

from typing import Protocol

import structlog

from crds.meta import KubeObject

log = structlog.get_logger(__name__)


class Announcer(Protocol):
    def announce(self, regarding: KubeObject, reason: str, note: str) -> None:
        """A warning about an object. Never waits, never fails."""


class LogAnnouncer:
    """Announces in the log alone."""

    def announce(self, regarding: KubeObject, reason: str, note: str) -> None:
        log.warning(
            "announced",
            kind=regarding.kind,
            namespace=regarding.namespace,
            name=regarding.name,
            reason=reason,
            note=note,
        )
