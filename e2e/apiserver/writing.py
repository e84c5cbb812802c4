"""What a write makes of the client's object before it is stored: metadata, generation, status, schema, names. No I/O."""

from __future__ import annotations

import re
import secrets
import string
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from e2e.apiserver import custom, pods
from e2e.apiserver.cel_rules import Evaluator
from e2e.apiserver.errors import (
    MODIFIED,
    ApiError,
    Cause,
    Obj,
    bad_request,
    conflict,
    invalid,
)
from e2e.apiserver.ownership import Shape, track_update
from e2e.apiserver.resources import CRDS, NAMESPACES, PODS, Resource
from e2e.apiserver.schema import METADATA_KEYS, copied, fill_defaults, prune, validate

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_SUFFIX = "".join(set(string.ascii_lowercase + string.digits) - set("aeiou013"))
_PATH_NAMES = frozenset({"rbac.authorization.k8s.io"})  # names there may be any path segment
_BLOCKING = frozenset(
    {"FieldValueNotSupported", "FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid"}
)
_STATUS_FROM_SERVER = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
)


@dataclass(slots=True)
class Write:
    """The circumstances of one write. `warnings` collects what goes into Warning headers."""

    manager: str
    dry_run: bool = False
    field_validation: str = "Warn"
    warnings: list[str] = field(default_factory=list)


def timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shape_of(resource: Resource) -> Shape:
    return Shape(resource.custom.schema if resource.custom is not None else None)


def _check_identity(resource: Resource, body: Any, namespace: str, name: str) -> None:
    if not isinstance(body, dict) or not isinstance(body.get("metadata", {}), dict):
        raise bad_request("the object provided is unrecognized: it must be a JSON object with metadata")
    if body.setdefault("kind", resource.kind) != resource.kind:
        problem = f"the kind of the object ({body['kind']}) does not match the expected kind ({resource.kind})"
        if resource.custom is None:
            raise bad_request(problem)
        cause = Cause("FieldValueInvalid", f'Invalid value: "{body["kind"]}": must be {resource.kind}', "kind")
        raise invalid(resource.group, body["kind"], body.get("metadata", {}).get("name", ""), [cause])
    if body.setdefault("apiVersion", resource.api_version) != resource.api_version:
        given = body["apiVersion"]
        raise bad_request(
            f"the API version in the data ({given}) does not match the expected API version ({resource.api_version})"
        )
    metadata = body.setdefault("metadata", {})
    if resource.namespaced:
        if metadata.setdefault("namespace", namespace) not in ("", namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        metadata["namespace"] = namespace
    elif metadata.pop("namespace", ""):
        raise bad_request("namespace may not be set on a cluster-scoped object")
    if name and metadata.setdefault("name", name) != name:
        raise bad_request(f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})")


def prepare_create(resource: Resource, body: Any, namespace: str, name: str, write: Write) -> Obj:
    """The object to store. `name` is that of the URL for an apply, else empty. Raises 400 and 422."""
    _check_identity(resource, body, namespace, name)
    obj: Obj = body if resource.to_storage is None else resource.to_storage(body)
    metadata = obj["metadata"]
    if metadata.get("resourceVersion"):
        raise ApiError(500, "InternalError", "resourceVersion should not be set on objects to be created")
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = metadata["generateName"][:58] + "".join(secrets.choice(_SUFFIX) for _ in range(5))
    for key in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"):
        metadata.pop(key, None)
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = timestamp()
    metadata.pop("generation", None)
    if resource.generation:
        metadata["generation"] = 1
    if resource.has_status:
        obj.pop("status", None)
    _fill(resource, obj)
    _settle(resource, obj, None, write)
    _track(resource, None, obj, "", write)
    return obj


def _fill(resource: Resource, obj: Obj) -> None:
    """What the server adds to new objects of some built-in kinds."""
    if resource.stored_as == PODS:
        pods.fill_new(obj)
    elif resource.stored_as == NAMESPACES:
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}
    elif resource.stored_as == CRDS:
        custom.fill_defaults(obj)
        finalizers = obj["metadata"].setdefault("finalizers", [])
        if custom.CLEANUP not in finalizers:
            finalizers.append(custom.CLEANUP)


def prepare_update(
    resource: Resource, old: Obj, body: Any, namespace: str, name: str, subresource: str, write: Write
) -> Obj:
    """The object to store in place of `old`, which may equal it. Raises 400, 409 and 422."""
    _check_identity(resource, body, namespace, name)
    given: Obj = body if resource.to_storage is None else resource.to_storage(body)
    check_versions(resource, old, given)
    new = _take_status(resource, old, given) if subresource == "status" else _take_main(resource, old, given)
    metadata, before = new["metadata"], old["metadata"]
    for key in _STATUS_FROM_SERVER:
        metadata.pop(key, None)
        if key in before:
            metadata[key] = before[key]
    metadata["resourceVersion"] = before["resourceVersion"]
    if "deletionTimestamp" in before:
        added = sorted(set(metadata.get("finalizers") or ()) - set(before.get("finalizers") or ()))
        if added:
            why = f"Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers {added}"
            raise invalid(
                resource.group, resource.kind, name, [Cause("FieldValueForbidden", why, "metadata.finalizers")]
            )
    _settle(resource, new, old, write)
    if resource.generation and _desired(resource, new) != _desired(resource, old):
        metadata["generation"] = before.get("generation", 0) + 1
    _track(resource, old, new, subresource, write)
    return new


def check_versions(resource: Resource, old: Obj, given: Obj) -> None:
    """Optimistic locking: the resourceVersion and uid that the client names must be those of the stored object."""
    metadata, before = given["metadata"], old["metadata"]
    wanted = metadata.get("resourceVersion") or ""
    if not wanted and not resource.unconditional_update:
        problem = "Invalid value: 0x0: must be specified for an update"
        cause = Cause("FieldValueInvalid", problem, "metadata.resourceVersion")
        raise invalid(resource.group, resource.kind, before["name"], [cause])
    if wanted and wanted != before["resourceVersion"]:
        raise conflict(*resource.names, before["name"], MODIFIED)
    if metadata.get("uid", before["uid"]) not in ("", before["uid"]):
        why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {before['uid']}"
        raise conflict(*resource.names, before["name"], why)


def _take_status(resource: Resource, old: Obj, given: Obj) -> Obj:
    """Only the status counts; built-in kinds also take labels and annotations on this way."""
    metadata = dict(old["metadata"])
    taken = ("managedFields",) if resource.custom is not None else ("managedFields", "labels", "annotations")
    for key in taken:
        if key in given["metadata"]:
            metadata[key] = given["metadata"][key]
    new = {**(copied(old) if resource.custom is not None else old), "metadata": metadata}
    new.pop("status", None)
    if given.get("status") is not None:
        new["status"] = given["status"]
    return new


def _take_main(resource: Resource, old: Obj, given: Obj) -> Obj:
    new = {**given, "metadata": dict(given["metadata"])}
    if resource.has_status:
        new.pop("status", None)
        if "status" in old:
            new["status"] = copied(old["status"])
    if resource.stored_as == NAMESPACES:
        new["spec"] = old["spec"]
        labels = dict(new["metadata"].get("labels") or {})
        new["metadata"]["labels"] = labels | {"kubernetes.io/metadata.name": old["metadata"]["name"]}
    if resource.stored_as == CRDS:
        custom.fill_defaults(new)
    if resource.stored_as == PODS:
        pods.check_update(old, new)
    return new


def _desired(resource: Resource, obj: Obj) -> Obj:
    hidden = METADATA_KEYS | {"status"} if resource.has_status else METADATA_KEYS
    return {name: value for name, value in obj.items() if name not in hidden}


def _settle(resource: Resource, obj: Obj, old: Obj | None, write: Write) -> None:
    """Prunes, defaults and validates; raises 422 with a cause per violation, 400 for strict field validation."""
    for key in ("labels", "annotations", "finalizers", "ownerReferences"):
        if key in obj["metadata"] and not obj["metadata"][key]:
            del obj["metadata"][key]
    causes = _metadata_causes(resource, obj["metadata"])
    if resource.custom is not None:
        schema = resource.custom.schema
        unknown: list[str] = []
        prune(schema, obj, "", unknown)
        _report_unknown(unknown, write)
        fill_defaults(schema, obj)
        bare = {name: value for name, value in obj.items() if name not in METADATA_KEYS}
        validate(schema, bare | {"apiVersion": "", "kind": "", "metadata": {}}, "", causes)
        if resource.custom.rules is not None:
            _check_rules(resource.custom.rules, obj, old, causes)
    elif resource.stored_as == CRDS and not causes:
        causes += custom.validate(obj)
    elif resource.stored_as == PODS:
        causes += pods.violations(obj)
    if causes:
        raise invalid(resource.group, resource.kind, obj["metadata"].get("name", ""), causes)


def _check_rules(rules: Evaluator, obj: Obj, old: Obj | None, causes: list[Cause]) -> None:
    """Rules presume the right structure: violations of it keep them from being asked, and the answer says so."""
    if any(cause.reason in _BLOCKING for cause in causes):
        problem = "some validation rules were not checked because the object was invalid; correct the existing errors"
        causes.append(Cause("FieldValueInvalid", f"Invalid value: null: {problem} to complete validation", "<nil>"))
    else:
        rules.check(obj, old, causes)


def _report_unknown(unknown: list[str], write: Write) -> None:
    if not unknown or write.field_validation == "Ignore":
        return
    problems = [f'unknown field "{path}"' for path in sorted(unknown)]
    if write.field_validation == "Strict":
        raise bad_request(f"strict decoding error: {', '.join(problems)}")
    write.warnings += problems


def _metadata_causes(resource: Resource, metadata: Obj) -> list[Cause]:
    name = metadata.get("name") or ""
    causes: list[Cause] = []
    if not name:
        problem = "Required value: name or generateName is required"
        causes.append(Cause("FieldValueRequired", problem, "metadata.name"))
    elif resource.group not in _PATH_NAMES:
        rule, limit, word = _SUBDOMAIN, 253, "a lowercase RFC 1123 subdomain"
        if resource.stored_as in (NAMESPACES, "/services"):
            rule, limit, word = _LABEL, 63, "a lowercase RFC 1123 label"
        if len(name) > limit or not rule.fullmatch(name):
            problem = (
                f"Invalid value: \"{name}\": {word} must consist of lower case alphanumeric characters and '-', and be at most "
                f"{limit} characters"
            )
            causes.append(Cause("FieldValueInvalid", problem, "metadata.name"))
    for key, value in (metadata.get("labels") or {}).items():
        if not _LABEL_KEY.fullmatch(key):
            causes.append(
                Cause("FieldValueInvalid", f'Invalid value: "{key}": not a qualified name', "metadata.labels")
            )
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            causes.append(Cause("FieldValueInvalid", f'Invalid value: "{value}": not a label value', "metadata.labels"))
    for key, value in (metadata.get("annotations") or {}).items():
        if not isinstance(value, str):
            problem = f"Invalid value: {value!r}: must be a string"
            causes.append(Cause("FieldValueInvalid", problem, f"metadata.annotations.{key}"))
    return causes


def _track(resource: Resource, old: Obj | None, new: Obj, subresource: str, write: Write) -> None:
    entries = track_update(
        old,
        new,
        shape_of(resource),
        manager=write.manager,
        api_version=resource.api_version,
        subresource=subresource,
        split=resource.has_status,
        now=timestamp(),
    )
    if entries:
        new["metadata"]["managedFields"] = entries
    else:
        new["metadata"].pop("managedFields", None)
