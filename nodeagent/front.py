"""The door of the CNI socket: every request gets a scope for its log lines, one reply whatever happens, and observers that see how it ended.

What came on stdin is never logged: of a request that cannot be read, the log has the reason's word only.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from adapters.clock import Clock
from adapters.telemetry import request_scope
from ipam.errors import BadRequest, Internal, NephilaError
from nodeagent.request import VERBS, CniRequest, failure, parse_request, version_of
from nodeagent.verbs import AddOutcome
from nodeagent.wire import PROTOCOL_VERSIONS, HttpReply, HttpRequest

log = structlog.get_logger(__name__)

SHORT_ID = 12  # characters of a container id, as runtimes print it
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Served:
    """One request that is over. `request` None: it could not be read; `error` None: it succeeded. `verb` is one of CNI's, or "other"."""

    verb: str
    seconds: float
    request: CniRequest | None
    error: NephilaError | None


Handler = Callable[[CniRequest], Awaitable[bytes]]


class Front:
    """`handlers`: what serves each verb. Observers are called before the reply is written: they must be quick and must not raise."""

    def __init__(self, handlers: Mapping[str, Handler], clock: Clock) -> None:
        self._handlers = handlers
        self._clock = clock
        self._numbers = itertools.count(1)
        self.observers: list[Callable[[Served], None]] = []

    async def serve(self, http: HttpRequest) -> HttpReply:
        """One request of the shim. Never raises: every failure is a CNI error object."""
        if http.method != "POST" or http.path != "/cni":
            return HttpReply(404, failure(Internal(f"{http.method} {http.path} is not served here"), ""))
        if http.headers.get("nephila-shim", PROTOCOL_VERSIONS[0]) not in PROTOCOL_VERSIONS:
            return HttpReply(400, failure(Internal("the shim on this host speaks another protocol version"), ""))
        command = http.headers.get("command", "")
        verb = command if command in VERBS else OTHER
        with request_scope(
            request=next(self._numbers), verb=verb, container=http.headers.get("containerid", "")[:SHORT_ID]
        ):
            began = self._clock.now()
            reply, request, error = await self._answer(http)
            served = Served(verb, self._clock.now() - began, request, error)
            for observe in self.observers:
                observe(served)
            return reply

    async def _answer(self, http: HttpRequest) -> tuple[HttpReply, CniRequest | None, NephilaError | None]:
        request: CniRequest | None = None
        try:
            request = parse_request(http.headers, http.body)
            return HttpReply(200, await self._handlers[request.verb](request)), request, None
        except NephilaError as error:
            if request is None and isinstance(error, BadRequest):
                log.info("request_unreadable", reason=error.reason, bytes=len(http.body))
            else:
                pod = f"{request.namespace}/{request.pod}" if request else ""
                log.info("request_failed", reason=error.reason, error=error.message, pod=pod)
            return HttpReply(500, failure(error, version_of(http.body))), request, error
        except Exception as crash:
            # The last resort at the edge: the runtime must get one valid error object, whatever is wrong with us.
            log.exception("request_crashed")
            internal = Internal(f"{type(crash).__name__}: {crash}", hint="please report this")
            return HttpReply(500, failure(internal, "")), request, internal


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
