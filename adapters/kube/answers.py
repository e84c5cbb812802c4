"""What an answer of the API server proves. Pure functions; the table is the heart of `KubeStore`.

| answer to a write | proves |
|---|---|
| 2xx | applied |
| 404, 409, other 4xx | not applied |
| 429 | not applied: turned away before processing, hence repeated within the budget |
| 503 that is a Status with reason ServiceUnavailable | the same: no storage or handler was ready |
| any other 503 (something in between sent it), 500, 502, 504 | nothing: etcd may have committed before time ran out |
| none, and nothing was sent | not applied; repeated within the budget |
| none, but something was sent | nothing |

"Nothing" becomes `Unknown`. Reads are repeated in all these cases.
"""

from __future__ import annotations

import msgspec

from adapters.kube.store import Conflict, Exists, Gone, Key, Rejected, StoreError, Unreachable
from adapters.kube.transport import Answer, TransportError
from crds.meta import ObjectMeta, WireStruct


class StatusDetails(WireStruct):
    name: str = ""
    retry_after_seconds: int = 0


class Status(WireStruct):
    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: StatusDetails | None = None


class Named(WireStruct):
    kind: str = ""
    metadata: ObjectMeta = ObjectMeta()


decode_named = msgspec.json.Decoder(Named).decode
decode_status = msgspec.json.Decoder(Status).decode


def may_repeat_read(result: Answer | TransportError) -> bool:
    return isinstance(result, TransportError) or result.status == 429 or result.status >= 500


def may_repeat_write(result: Answer | TransportError) -> bool:
    return not result.sent if isinstance(result, TransportError) else turned_away(result)


def turned_away(answer: Answer) -> bool:
    return answer.status == 429 or (answer.status == 503 and status_of(answer).reason == "ServiceUnavailable")


def answered(result: Answer | TransportError) -> Answer:
    if isinstance(result, TransportError):
        raise Unreachable(str(result)) from result
    return result


def raise_unless_ok(answer: Answer) -> None:
    if answer.status != 200:
        raise error_of(status_of(answer))


def error_of(status: Status) -> StoreError:
    if status.code == 410:
        return Gone(status.message)
    return Rejected(status.code, status.reason, status.message)


def status_of(answer: Answer) -> Status:
    """The Status object of an error, or one made up from a body that is none (a proxy, "404 page not found")."""
    try:
        status = decode_status(answer.body)
    except msgspec.MsgspecError:
        status = Status()
    if status.kind == "Status":
        return msgspec.structs.replace(status, code=answer.status)
    return Status(code=answer.status, message=answer.body[:200].decode("utf-8", "replace").strip())


def is_missing_object(answer: Answer, name: str) -> bool:
    """Whether a 404 is about the object and not about its kind (a CRD not installed yet), which proves nothing about
    objects."""
    details = status_of(answer).details
    return details is not None and details.name == name


def conflict(status: Status) -> Conflict:
    return Conflict(status.message)


def exists_or_conflict(status: Status) -> Conflict | Exists:
    return Exists() if status.reason == "AlreadyExists" else Conflict(status.message)


def key_of(raw: bytes | msgspec.Raw) -> Key:
    try:
        metadata = decode_named(raw).metadata
    except msgspec.MsgspecError:
        return ("", "")
    return (metadata.namespace, metadata.name)
