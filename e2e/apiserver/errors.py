"""Protocol errors: every refusal is a `Status` object with the reason and code that the Kubernetes API documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Obj = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """One violation: `field` is a path such as `spec.items[0].name`, `reason` one of the FieldValue… words."""

    reason: str
    message: str
    field: str

    def as_json(self) -> Obj:
        return {"reason": self.reason, "message": self.message, "field": self.field}


class ApiError(Exception):
    """A refused request. `code` is the HTTP status; `details` and `metadata` go into the Status object as they are."""

    def __init__(
        self, code: int, reason: str, message: str, *, details: Obj | None = None, metadata: Obj | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.metadata = metadata

    def status(self) -> Obj:
        body: Obj = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata or {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details is not None:
            body["details"] = self.details
        return body


def qualified(group: str, plural: str) -> str:
    return f"{plural}.{group}" if group else plural


def _details(group: str, plural: str, name: str) -> Obj:
    details = {"name": name, "kind": plural}
    if group:
        details["group"] = group
    return details


def not_found(group: str, plural: str, name: str) -> ApiError:
    message = f'{qualified(group, plural)} "{name}" not found'
    return ApiError(404, "NotFound", message, details=_details(group, plural, name))


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource", details={})


def already_exists(group: str, plural: str, name: str) -> ApiError:
    message = f'{qualified(group, plural)} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, details=_details(group, plural, name))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(group: str, plural: str, name: str, why: str = MODIFIED) -> ApiError:
    message = f'Operation cannot be fulfilled on {qualified(group, plural)} "{name}": {why}'
    return ApiError(409, "Conflict", message, details=_details(group, plural, name))


def apply_conflict(causes: Sequence[Cause]) -> ApiError:
    """Server-side apply met fields that other managers own."""
    noun = "conflict" if len(causes) == 1 else "conflicts"
    text = "; ".join(f"{cause.message}: {cause.field}" for cause in causes)
    details = {"causes": [cause.as_json() for cause in causes]}
    return ApiError(409, "Conflict", f"Apply failed with {len(causes)} {noun}: {text}", details=details)


def invalid(group: str, kind: str, name: str, causes: Sequence[Cause]) -> ApiError:
    lines = [f"{cause.field}: {cause.message}" for cause in causes]
    text = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    details = _details(group, kind, name) | {"causes": [cause.as_json() for cause in causes]}
    return ApiError(422, "Invalid", f'{qualified(group, kind)} "{name}" is invalid: {text}', details=details)


def unprocessable(message: str) -> ApiError:
    return ApiError(422, "Invalid", message)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def forbidden(group: str, plural: str, name: str, why: str, causes: Sequence[Cause] = ()) -> ApiError:
    details = _details(group, plural, name)
    if causes:
        details["causes"] = [cause.as_json() for cause in causes]
    return ApiError(403, "Forbidden", f'{qualified(group, plural)} "{name}" is forbidden: {why}', details=details)


def method_not_allowed(what: str) -> ApiError:
    return ApiError(405, "MethodNotAllowed", f"{what} is not supported on this resource", details={})


def not_acceptable() -> ApiError:
    message = "only the following media types are accepted: application/json, application/yaml"
    return ApiError(406, "NotAcceptable", message)


def unsupported_media_type(accepted: Sequence[str]) -> ApiError:
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return ApiError(415, "UnsupportedMediaType", message)


def too_old(wanted: int, oldest: int) -> ApiError:
    """The history that the request needs is compacted: relist (410)."""
    return ApiError(410, "Expired", f"too old resource version: {wanted} ({oldest})")


def too_large(wanted: int, current: int) -> ApiError:
    """The resourceVersion lies in the future of this server (504, retry)."""
    cause = Cause("ResourceVersionTooLarge", "Too large resource version", "")
    message = f"Timeout: Too large resource version: {wanted}, current: {current}"
    details = {"causes": [{"reason": cause.reason, "message": cause.message}], "retryAfterSeconds": 1}
    return ApiError(504, "Timeout", message, details=details)
