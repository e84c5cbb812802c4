"""The door of the CNI socket: every request gets a scope for its log lines, one reply whatever happens, and observers that see how it ended.

What came on stdin is never logged: of a request that cannot be read, the log has the reason's word only.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

import msgspec
import structlog

from adapters.clock import Clock
from adapters.telemetry import request_scope
from ipam.errors import BadRequest, Internal, NephilaError
from nodeagent.adding import AddOutcome
from nodeagent.afterwards import Afterwards
from nodeagent.request import VERBS, CniRequest, failure, parse_request, version_of
from nodeagent.wire import PROTOCOL_VERSIONS, HttpReply, HttpRequest

log = structlog.get_logger(__name__)

SHORT_ID = 12  # characters of a container id, as runtimes print it
OTHER = "other"


class Served(msgspec.Struct, frozen=True):
    """One request that is over. `request` None: it could not be read; `error` None: it succeeded. `verb` is one of CNI's, or "other"."""

    verb: str
    seconds: float
    request: CniRequest | None
    error: NephilaError | None


Handler = Callable[[CniRequest], bytes | Awaitable[bytes]]
"""Serves one verb: the answer, or what must be awaited for it. Both may raise."""


class Front:
    """`handlers`: what serves each verb. Observers are called by `afterwards`, once the reply is on its way."""

    def __init__(self, handlers: Mapping[str, Handler], clock: Clock, afterwards: Afterwards) -> None:
        self._handlers = handlers
        self._clock = clock
        self._afterwards = afterwards
        self._numbers = itertools.count(1)
        self.observers: list[Callable[[Served], None]] = []

    def answer(self, http: HttpRequest) -> HttpReply | Awaitable[HttpReply]:
        """One request of the shim: the reply, or what must be awaited for it. Never raises: every failure is a CNI error object."""
        if http.method != "POST" or http.path != "/cni":
            return HttpReply(404, failure(Internal(f"{http.method} {http.path} is not served here"), ""))
        if http.headers.get("nephila-shim", PROTOCOL_VERSIONS[0]) not in PROTOCOL_VERSIONS:
            return HttpReply(400, failure(Internal("the shim on this host speaks another protocol version"), ""))
        command = http.headers.get("command", "")
        call = _Call(http, command if command in VERBS else OTHER, next(self._numbers), self._clock.now())
        with call.scope():
            try:
                call.request = request = parse_request(http.headers, http.body)
                body = self._handlers[request.verb](request)
                return self._end(call, HttpReply(200, body)) if isinstance(body, bytes) else self._later(call, body)
            except NephilaError as error:
                return self._refused(call, error)
            except Exception as crash:  # a bug in one request must neither leave it unanswered nor end the agent
                log.exception("request_crashed")
                return self._crashed(call, crash)

    async def _later(self, call: _Call, body: Awaitable[bytes]) -> HttpReply:
        with call.scope():
            try:
                return self._end(call, HttpReply(200, await body))
            except NephilaError as error:
                return self._refused(call, error)
            except Exception as crash:  # a bug in one request must neither leave it unanswered nor end the agent
                log.exception("request_crashed")
                return self._crashed(call, crash)

    def _end(self, call: _Call, reply: HttpReply, error: NephilaError | None = None) -> HttpReply:
        served = Served(call.verb, self._clock.now() - call.began, call.request, error)
        self._afterwards(partial(self._observe, served))
        return reply

    def _observe(self, served: Served) -> None:
        for observe in self.observers:
            observe(served)

    def _refused(self, call: _Call, error: NephilaError) -> HttpReply:
        request, body = call.request, call.http.body
        if request is None and isinstance(error, BadRequest):
            log.info("request_unreadable", reason=error.reason, bytes=len(body))
        else:
            pod = f"{request.namespace}/{request.pod}" if request else ""
            log.info("request_failed", reason=error.reason, error=error.message, pod=pod)
        return self._end(call, HttpReply(500, failure(error, version_of(body))), error)

    def _crashed(self, call: _Call, crash: Exception) -> HttpReply:
        """The last resort at the edge: the runtime must get one valid error object, whatever is wrong with us."""
        internal = Internal(f"{type(crash).__name__}: {crash}", hint="please report this")
        return self._end(call, HttpReply(500, failure(internal, "")), internal)


class _Call(msgspec.Struct):
    """One request on its way. `request` None: it has not been read, or cannot be."""

    http: HttpRequest
    verb: str
    number: int
    began: float
    request: CniRequest | None = None

    def scope(self) -> AbstractContextManager[None]:
        """What every log line about it carries."""
        container = self.http.headers.get("containerid", "")[:SHORT_ID]
        return request_scope(request=self.number, verb=self.verb, container=container)


def log_address_given(outcome: AddOutcome) -> None:
    """One line per ADD: who has which address, and how it was found."""
    held = outcome.attachment
    log.info(
        "address_given",
        pod=f"{held.namespace}/{held.pod}",
        ifname=held.key.ifname,
        addresses=[str(grant.slot.address) for grant in held.grants],
        pools=[grant.pool for grant in held.grants],
        how=outcome.how,
        ms=round(1000 * outcome.seconds, 2),
    )
