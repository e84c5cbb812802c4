"""HTTPS for the API server: `/mutate` and `/validate`, with the certificate that the leader keeps in a Secret, as the kubelet shows it in a folder.

The folder may be empty at first, and changes when the certificate is renewed: it is looked at again and again, and new connections get what is there.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog
from aiohttp import web

from adapters.clock import Clock
from adapters.kube.store import StoreError
from crds.admission import AdmissionReview, Request, Response
from crds.meta import UNSET
from nodeagent.webhook.review import Reviewer

log = structlog.get_logger(__name__)

LOOK_S = 5.0
MAX_BODY = 4 * 1024 * 1024  # an object and its former self, each at most 1.5 MiB
ANSWER_S = 8.0  # the API server waits 10 s unless told otherwise
CERTIFICATE, KEY = "tls.crt", "tls.key"

_decode = msgspec.json.Decoder(AdmissionReview).decode


class WebhookServer:
    """Run `run()` as a task: it serves on `address` ("host:port") as soon as there is a certificate. `port` is then the one in use."""

    def __init__(
        self,
        address: str,
        folder: Path,
        reviewer: Reviewer,
        clock: Clock,
        on_review: Callable[[str, str], None] = lambda _asked, _answer: None,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._host, self.port = host.strip("[]"), int(port)
        self._folder = folder
        self._reviewer = reviewer
        self._clock = clock
        self._on_review = on_review
        self._loaded: tuple[bytes, bytes] | None = None
        self._tls: ssl.SSLContext | None = None
        self.serving = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. An address that is taken is tried again: pods must get theirs whatever becomes of this."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/mutate", self._mutate)
        app.router.add_post("/validate", self._validate)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            while True:
                tls = self._certified()
                if tls is not None and not self.serving.is_set():
                    await self._serve(runner, tls)
                await self._clock.sleep(LOOK_S)
        finally:
            await runner.cleanup()

    async def _serve(self, runner: web.AppRunner, tls: ssl.SSLContext) -> None:
        try:
            await web.TCPSite(runner, self._host or None, self.port, ssl_context=tls).start()
        except OSError as error:
            log.error("webhook_not_served", error=str(error))
            return
        self.port = runner.addresses[0][1]
        self.serving.set()
        log.info("webhook_served", port=self.port)

    def _certified(self) -> ssl.SSLContext | None:
        """The context with what the folder has now; None until there was a first certificate. What cannot be used leaves the former in place."""
        try:
            pair = (self._folder / CERTIFICATE).read_bytes(), (self._folder / KEY).read_bytes()
        except OSError:
            return self._tls
        if pair == self._loaded or not all(pair):
            return self._tls
        # New for each certificate to try it on, so that a broken one cannot spoil the one in use.
        trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        paths = self._folder / CERTIFICATE, self._folder / KEY
        try:
            trial.load_cert_chain(*paths)
            if self._tls is not None:
                self._tls.load_cert_chain(*paths)
        except (ssl.SSLError, OSError) as error:
            log.warning("webhook_certificate_refused", error=str(error))
            return self._tls
        self._loaded = pair
        if self._tls is None:
            trial.minimum_version = ssl.TLSVersion.TLSv1_2
            self._tls = trial
        log.info("webhook_certificate_loaded")
        return self._tls

    # Requests ---------------------------------------------------------------------------------------------------------------------------

    async def _mutate(self, http: web.Request) -> web.Response:
        return await self._answer(http, self._reviewer.mutate)

    async def _validate(self, http: web.Request) -> web.Response:
        return await self._answer(http, self._reviewer.validate)

    async def _answer(self, http: web.Request, judge: Callable[[Request], Awaitable[Response]]) -> web.Response:
        """Anything but a verdict is an HTTP error: then the API server does what `failurePolicy` says."""
        try:
            request = _decode(await http.read()).request
        except msgspec.MsgspecError as error:
            return web.Response(status=400, text=f"not an AdmissionReview: {error}")
        if request is UNSET:
            return web.Response(status=400, text="the AdmissionReview has no request")
        try:
            async with asyncio.timeout(ANSWER_S):
                response = await judge(request)
        except (StoreError, TimeoutError) as error:
            self._on_review(http.path.strip("/"), "failed")
            log.warning("review_failed", kind=request.kind.kind, name=request.name, error=str(error) or "too slow")
            return web.Response(status=503, text=f"pools and Subnets cannot be read now: {error}")
        self._on_review(http.path.strip("/"), "allowed" if response.allowed else "refused")
        body = msgspec.json.encode(AdmissionReview(response=response))
        return web.Response(body=body, content_type="application/json")
