"""Keeps the webhook's serving certificate: in one Secret, from which agents serve, and its authorities in the two webhook configurations.

Both configurations and the Secret (empty) are made by the chart; this only reads and patches them, by name. Order matters: an authority is stored
first, then published in the configurations, and only then (`ipam.rotation`) a certificate of it is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from adapters import certificates
from adapters.clock import Clock
from adapters.kube.store import Conflict, Store, Stored
from crds.admission import MUTATING, VALIDATING, base64_text, secret_text
from crds.core import SECRET, Secret
from crds.meta import Kind
from ipam import rotation
from ipam.rotation import Step
from leader.writing import Writer

log = structlog.get_logger(__name__)

# `tls.*` is what kubelets show to the agents; the rest is nobody's but the leader's.
CERTIFICATE, KEY, TRUSTED = "tls.crt", "tls.key", "ca.crt"
NEXT_CERTIFICATE, NEXT_KEY = "next.crt", "next.key"


class Certificates:
    """`names`: the host names under which the API server reaches the webhook."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        clock: Clock,
        secret: tuple[str, str],
        configuration: str,
        names: Sequence[str],
    ) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._namespace, self._secret = secret
        self._configuration = configuration
        self._names = tuple(names)
        self.issued = self.published = 0

    async def work(self) -> None:
        """One step of the rotation, if one is due, and the list of authorities where it belongs. Raises StoreError, Deposed."""
        stored = await self._store.get(SECRET, self._secret, self._namespace)
        if stored is None:
            log.error(
                "webhook_secret_missing", secret=f"{self._namespace}/{self._secret}", fix="install the chart anew"
            )
            return
        if (current := await self._stepped(stored)) is not None:
            await self._publish(base64_text(secret_text(current, TRUSTED)))

    async def _stepped(self, stored: Secret) -> Secret | None:
        """The Secret after the step; None if another writer was faster."""
        now = self._clock.wall()
        text = {key: secret_text(stored, key) for key in (CERTIFICATE, KEY, TRUSTED, NEXT_CERTIFICATE, NEXT_KEY)}
        serving = certificates.read(text[CERTIFICATE], text[KEY], text[TRUSTED])
        prepared = certificates.read(text[NEXT_CERTIFICATE], text[NEXT_KEY], text[TRUSTED])
        step = rotation.step(serving, prepared, self._names, now)
        if step is Step.KEEP:
            return stored
        changes: dict[str, str | None]
        if step is Step.PROMOTE:
            changes = {CERTIFICATE: text[NEXT_CERTIFICATE], KEY: text[NEXT_KEY], NEXT_CERTIFICATE: None, NEXT_KEY: None}
        else:
            made = certificates.issue(self._names, now)
            trusted = made.authority + certificates.unended(text[TRUSTED], now)
            crt, key = (CERTIFICATE, KEY) if step is Step.ISSUE else (NEXT_CERTIFICATE, NEXT_KEY)
            changes = {crt: made.certificate, key: made.key, TRUSTED: trusted}
            self.issued += 1
        data = {key: value and base64_text(value) for key, value in changes.items()}
        outcome = await self._writer.patch(SECRET, stored, {"data": data})
        if not isinstance(outcome, Stored):
            log.warning("webhook_certificate_not_written", step=step.value, outcome=str(outcome))
            return None
        log.info("webhook_certificate_changed", step=step.value, secret=f"{self._namespace}/{self._secret}")
        return outcome.object

    async def _publish(self, bundle: str) -> None:
        kinds: tuple[Kind[Any], ...] = (MUTATING, VALIDATING)
        for kind in kinds:
            stored = await self._store.get(kind, self._configuration)
            if stored is None:
                log.error("webhook_configuration_missing", kind=kind.kind, name=self._configuration)
                continue
            wanted: list[dict[str, Any]] = [
                {**webhook, "clientConfig": {**webhook.get("clientConfig", {}), "caBundle": bundle}}
                for webhook in stored.webhooks or ()
            ]
            if list(stored.webhooks or ()) == wanted:
                continue
            outcome = await self._writer.patch(kind, stored, {"webhooks": wanted})
            if isinstance(outcome, Stored):
                self.published += 1
                log.info("webhook_authorities_published", kind=kind.kind)
            elif not isinstance(outcome, Conflict):
                log.warning("webhook_authorities_not_published", kind=kind.kind, outcome=str(outcome))
