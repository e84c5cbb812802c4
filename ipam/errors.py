"""The one error tree: what went wrong, what the user can do, and whether trying again makes sense.

::

    NephilaError
    ├── BadRequest            the caller must change what it sent
    │   ├── BadValue             7  a field holds something that cannot be understood
    │   ├── BadEnvironment       4  a CNI_* variable is missing or malformed
    │   ├── BadJson              6  stdin is not JSON
    │   ├── BadConfig            7  the network configuration is JSON, but not acceptable
    │   ├── IncompatibleVersion  1  CNI version not spoken here
    │   └── BadAnnotation      101  "wrong input": an annotation of the pod or its namespace
    ├── NoPool                somebody must change an object of the cluster
    │   ├── NoPoolSelected     110  no rule of any source names a pool
    │   ├── NoPoolMatches      111  every named pool was refused; carries each reason
    │   └── PoolNotFound       112  a pool named literally does not exist
    ├── TryLater              the kubelet's next attempt may succeed
    │   ├── PoolExhausted       11
    │   ├── ApiUnreachable      11
    │   ├── Fenced              11
    │   ├── DeadlineExceeded    11
    │   ├── PinnedElsewhere     11
    │   ├── GatewayUnreachable  11  a pool's gateway does not answer, and the agent is told to require it
    │   ├── OwnerMissing        11  a controller in the pod's owner chain cannot be found
    │   ├── NotReady            50  the agent cannot serve ADD yet (CNI STATUS)
    │   └── WireDown            51  the network's interface carries nothing: running pods are cut off too (CNI STATUS)
    ├── Moot                  the request is about something that is over
    │   ├── PodGone            120
    │   └── Tombstoned         121
    ├── CheckFailed            130  CNI CHECK found a difference
    ├── JournalFailed            5  the node's journal could not be written
    └── Internal               199  a defect of Nephila

Codes below 100 are those of the CNI specification (1.1.0, section "Error"); codes from 100 on are ours and never change
their meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, Self

MAX_MESSAGE = 1024  # characters: Events and logs stay readable whatever a user wrote into an annotation
MAX_DETAILS = 4096


class Retry(Enum):
    """Whether repeating the same request can succeed."""

    NEVER = "never"  # not before the request itself is changed
    LATER = "later"  # after time has passed or an object of the cluster has changed
    NOW = "now"  # at once: nothing is known to stand in the way


class NephilaError(Exception):
    """Base of every error that Nephila raises on purpose.

    `message` is one sentence that names the field or object and the reason; `hint` says how to cure it; `details` is
    optional longer text. `reason` is a stable CamelCase word, for metrics, Events and scripts.
    """

    code: ClassVar[int] = 199
    reason: ClassVar[str] = "Internal"
    retry: ClassVar[Retry] = Retry.NEVER

    def __init__(self, message: str, hint: str = "", *, details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def cni(self, version: str) -> dict[str, str | int]:
        """The CNI error object (specification 1.1.0, section "Error"), of bounded size.

        `details` starts with the reason word, followed by the hint and the details.
        """
        text = self.reason
        if self.hint:
            text += f"; hint: {self.hint}"
        if self.details:
            text += f"; {self.details}"
        return {
            "cniVersion": version,
            "code": self.code,
            "msg": _shortened(self.message, MAX_MESSAGE),
            "details": _shortened(text, MAX_DETAILS),
        }


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class BadRequest(NephilaError):
    """The caller must change what it sent."""

    code = 7
    reason = "BadRequest"


class BadValue(BadRequest):
    """A field holds something that cannot be understood; `field` is its path as the user wrote it, "" if unknown."""

    reason = "BadValue"

    def __init__(self, field: str, problem: str, hint: str = "", *, details: str = "") -> None:
        super().__init__(f"{field}: {problem}" if field else problem, hint, details=details)
        self.field = field
        self.problem = problem

    def within(self, outer: str) -> Self:
        """The same error seen from the object that holds the field: `[3]` within `spec.ips` is `spec.ips[3]`."""
        joint = "." if self.field and not self.field.startswith("[") else ""
        return type(self)(f"{outer}{joint}{self.field}", self.problem, self.hint, details=self.details)


class BadEnvironment(BadRequest):
    """A `CNI_*` variable is missing or malformed."""

    code = 4
    reason = "BadEnvironment"


class BadJson(BadRequest):
    """What came on stdin is not JSON."""

    code = 6
    reason = "BadJson"


class BadConfig(BadRequest):
    """The network configuration is JSON, but not acceptable."""

    reason = "BadConfig"


class IncompatibleVersion(BadRequest):
    """The CNI version asked for is not spoken here."""

    code = 1
    reason = "IncompatibleVersion"


class BadAnnotation(BadValue):
    """An annotation is malformed or contradicts itself; `field` starts with the annotation's key."""

    code = 101
    reason = "BadAnnotation"

    def __init__(self, field: str, problem: str, hint: str = "", *, details: str = "") -> None:
        super().__init__(field, problem, hint, details=details)
        self.message = f"wrong input: {self.message}"
        self.args = (self.message,)


class NoPool(NephilaError):
    """No pool can serve the request until somebody changes an object of the cluster."""

    code = 110
    reason = "NoPool"
    retry = Retry.LATER


class NoPoolSelected(NoPool):
    """No rule of any source names a pool."""

    reason = "NoPoolSelected"

    DEFAULT_MESSAGE: ClassVar[str] = "no IPPool available: no pool selection rules of any type are specified"

    def __init__(self, message: str = DEFAULT_MESSAGE, hint: str = "", *, details: str = "") -> None:
        super().__init__(message, hint, details=details)


class Refusal(NamedTuple):
    """Why one pool may not serve one NIC.

    `reason` is rendered on demand from a `str.format` template and its arguments: hundreds of refusals can accompany an ADD
    that succeeds, and then nobody reads them.
    """

    pool: str
    template: str
    arguments: tuple[object, ...] = ()

    @property
    def reason(self) -> str:
        """The reason in words."""
        return self.template.format(*self.arguments) if self.arguments else self.template

    def __str__(self) -> str:
        return f"{self.pool}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one field of an object, and how to put it right. A value: one object can have several."""

    field: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason} ({self.fix})"


class NoPoolMatches(NoPool):
    """Every named pool was refused; `refused` holds each one with its reason, in the order of trying."""

    code = 111
    reason = "NoPoolMatches"

    def __init__(self, message: str, hint: str = "", *, refused: Iterable[Refusal] = (), details: str = "") -> None:
        self.refused = tuple(refused)
        super().__init__(message, hint, details=details or "; ".join(map(str, self.refused)))


class PoolNotFound(NoPool):
    """A pool (or subnet) named literally does not exist; `name` is that name."""

    code = 112
    reason = "PoolNotFound"

    def __init__(self, message: str, hint: str = "", *, name: str = "", details: str = "") -> None:
        super().__init__(message, hint, details=details)
        self.name = name


class TryLater(NephilaError):
    """The same request may succeed at the kubelet's next attempt."""

    code = 11
    reason = "TryLater"
    retry = Retry.LATER


class PoolExhausted(TryLater):
    """Every address of every candidate pool is in use or held."""

    reason = "PoolExhausted"


class ApiUnreachable(TryLater):
    """The API server did not answer, and this request cannot be served without it."""

    reason = "ApiUnreachable"


class Fenced(TryLater):
    """This node must not hand out new slots before it has reached the API server again."""

    reason = "Fenced"


class DeadlineExceeded(TryLater):
    """The time granted for the request has passed; repeating it is safe and continues where it stood."""

    reason = "DeadlineExceeded"
    retry = Retry.NOW


class PinnedElsewhere(TryLater):
    """The pinned address is still held by the previous sandbox of its identity."""

    reason = "PinnedElsewhere"


class GatewayUnreachable(TryLater):
    """A pool's gateway does not answer on its segment: a pod with such an address would reach nobody beyond it."""

    reason = "GatewayUnreachable"


class OwnerMissing(TryLater):
    """A controller that the pod's ownerReferences name cannot be found (yet, or no longer)."""

    reason = "OwnerMissing"


class NotReady(TryLater):
    """The agent cannot serve ADD yet (CNI STATUS, code 50)."""

    code = 50
    reason = "NotReady"


class WireDown(TryLater):
    """The host's interface of the network carries nothing, so neither a new pod nor a running one is reached through it (CNI STATUS, code 51)."""

    code = 51
    reason = "WireDown"


class Moot(NephilaError):
    """The request is about something that is over."""

    code = 120
    reason = "Moot"


class PodGone(Moot):
    """The pod does not exist, is being deleted, or will never run again."""

    reason = "PodGone"


class Tombstoned(Moot):
    """A DEL for this container came before its ADD."""

    code = 121
    reason = "Tombstoned"


class CheckFailed(NephilaError):
    """CNI CHECK found that the interface does not look as ADD left it."""

    code = 130
    reason = "CheckFailed"


class JournalFailed(NephilaError):
    """The node's journal could not be written; nothing was handed out."""

    code = 5
    reason = "JournalFailed"
    retry = Retry.LATER


class Internal(NephilaError):
    """A defect of Nephila."""

    retry = Retry.LATER
