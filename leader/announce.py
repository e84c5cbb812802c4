"""Telling people: Events about objects, through a port, so that nothing here waits for them."""

from __future__ import annotations

from typing import Protocol

import structlog

from adapters.kube.events import EventRecorder
from crds.core import ObjectReference
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


class EventAnnouncer:
    """Announces as Events of the API, and in the log."""

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder
        self._log = LogAnnouncer()

    def announce(self, regarding: KubeObject, reason: str, note: str) -> None:
        self._log.announce(regarding, reason, note)
        reference = ObjectReference(
            api_version=regarding.api_version,
            kind=regarding.kind,
            namespace=regarding.namespace,
            name=regarding.name,
            uid=regarding.uid,
        )
        self._recorder.warning(reference, reason, "Lead", note)
