"""What the API server and an admission webhook say to each other (`admission.k8s.io/v1`), and the two objects that tell the server of the webhook."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from crds.core import Secret
from crds.meta import UNSET, Kind, KubeObject, UnsetType, WireStruct, constant


class GroupVersionKind(WireStruct):
    group: str = ""
    version: str = ""
    kind: str = ""


class Request(WireStruct):
    """`object_` is null for a DELETE, `old_object` for a CREATE."""

    uid: str
    kind: GroupVersionKind = GroupVersionKind()
    name: str = ""
    operation: str = ""
    object_: dict[str, Any] | None = msgspec.field(default=None, name="object")
    old_object: dict[str, Any] | None = None


class ReviewStatus(WireStruct):
    code: int = 0
    reason: str = ""
    message: str = ""


class Response(WireStruct):
    """`patch` is a JSON patch in base64. `allowed` is always written: its absence would mean no."""

    uid: str
    allowed: bool
    status: ReviewStatus | UnsetType = UNSET
    patch_type: str | UnsetType = UNSET
    patch: str | UnsetType = UNSET


class AdmissionReview(WireStruct):
    api_version: str = constant("admission.k8s.io/v1")
    kind: str = constant("AdmissionReview")
    request: Request | UnsetType = UNSET
    response: Response | UnsetType = UNSET


class ValidatingWebhookConfiguration(KubeObject):
    api_version: str = constant("admissionregistration.k8s.io/v1")
    kind: str = constant("ValidatingWebhookConfiguration")
    webhooks: tuple[dict[str, Any], ...] | None = None


class MutatingWebhookConfiguration(KubeObject):
    api_version: str = constant("admissionregistration.k8s.io/v1")
    kind: str = constant("MutatingWebhookConfiguration")
    webhooks: tuple[dict[str, Any], ...] | None = None


_GROUP = "admissionregistration.k8s.io"
VALIDATING = Kind(
    _GROUP,
    "v1",
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
    "validatingwebhookconfiguration",
    False,
    ValidatingWebhookConfiguration,
)
MUTATING = Kind(
    _GROUP,
    "v1",
    "MutatingWebhookConfiguration",
    "mutatingwebhookconfigurations",
    "mutatingwebhookconfiguration",
    False,
    MutatingWebhookConfiguration,
)


def json_patch(present: Mapping[str, Any], merge_patch: Mapping[str, Any], path: str = "") -> list[dict[str, Any]]:
    """A merge patch as the JSON patch (RFC 6902) that does the same to `present`."""
    found: list[dict[str, Any]] = []
    for key, value in merge_patch.items():
        where = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        if value is None:
            if key in present:
                found.append({"op": "remove", "path": where})
        elif isinstance(value, Mapping) and isinstance(present.get(key), Mapping):
            found += json_patch(present[key], value, where)
        else:
            found.append({"op": "add", "path": where, "value": value})
    return found


def secret_text(secret: Secret, key: str) -> str:
    """One entry of a Secret as text; "" if it is absent or no base64 of text."""
    try:
        return base64.b64decode((secret.data or {}).get(key, ""), validate=True).decode()
    except ValueError:
        return ""


def base64_text(text: str) -> str:
    """Text as `data` of a Secret, or as `caBundle`."""
    return base64.b64encode(text.encode()).decode()
