"""The verbs that write, on objects. Each runs without awaiting, so what it reads is what it changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from e2e.apiserver import custom, patches, pods
from e2e.apiserver.errors import (
    ApiError,
    Cause,
    Obj,
    already_exists,
    conflict,
    forbidden,
    not_found,
    unsupported_media_type,
)
from e2e.apiserver.resources import CRDS, NAMESPACES, PODS, Registry, Resource
from e2e.apiserver.schema import copied
from e2e.apiserver.server_side_apply import Applier, Conflicts, apply
from e2e.apiserver.storage import Collection, Key, Record, Store
from e2e.apiserver.writing import Write, prepare_create, prepare_update, shape_of, timestamp

SYSTEM = Write(manager="apiserver")
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request points: a resource, and of it a namespace, an object, a subresource (each may be empty)."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> Key:
        return self.namespace, self.name


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    uid: str = ""
    resource_version: str = ""
    grace_s: int | None = None
    propagation: str = "Background"


class Cluster:
    """The objects and the kinds. All writes of the server go through here."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self.store = store
        self.registry = registry
        self.dependents: Callable[[str], list[tuple[Resource, Key]]] = lambda uid: []

    def collection(self, resource: Resource) -> Collection:
        return self.store.collection(resource.stored_as)

    def read(self, target: Target) -> Record:
        record = self.collection(target.resource).get(target.key)
        if record is None:
            raise not_found(*target.resource.names, target.name)
        return record

    # create

    def create(self, target: Target, body: Any, write: Write) -> Record:
        """Stores a new object; raises 404 (namespace), 403 (it is going away), 409, 422."""
        resource = target.resource
        if resource.namespaced:
            self._check_namespace(target, body)
        obj = prepare_create(resource, body, target.namespace, target.name, write)
        if resource.custom is not None:
            obj["apiVersion"] = resource.storage_version
        key = (target.namespace, obj["metadata"]["name"])
        collection = self.collection(resource)
        if collection.get(key) is not None:
            raise already_exists(*resource.names, key[1])
        if resource.stored_as == CRDS:
            obj["status"] = custom.established(obj, timestamp())
        return self._put(collection, key, obj, write)

    def _check_namespace(self, target: Target, body: Any) -> None:
        namespace = self.store.collection(NAMESPACES).get(("", target.namespace))
        if namespace is None:
            raise not_found("", "namespaces", target.namespace)
        if "deletionTimestamp" in namespace.obj["metadata"]:
            name = target.name or (body.get("metadata") or {}).get("name", "") if isinstance(body, dict) else ""
            why = f"unable to create new content in namespace {target.namespace} because it is being terminated"
            message = f"namespace {target.namespace} is being terminated"
            cause = Cause("NamespaceTerminating", message, "metadata.namespace")
            raise forbidden(*target.resource.names, name, why, [cause])

    def _put(self, collection: Collection, key: Key, obj: Obj, write: Write) -> Record:
        if write.dry_run:
            before = collection.get(key)
            return Record(obj, before.revision if before is not None else 0)
        return self.store.put(collection, key, obj)

    # update and patch

    def update(self, target: Target, body: Any, write: Write) -> tuple[Record, bool]:
        """(the record, whether it was created). Raises 404, 409, 422."""
        record = self.collection(target.resource).get(target.key)
        if record is None:
            if target.resource.create_on_update and not target.subresource:
                return self.create(target, body, write), True
            raise not_found(*target.resource.names, target.name)
        return self._replace(target, record, body, write), False

    def _replace(self, target: Target, record: Record, body: Any, write: Write) -> Record:
        resource = target.resource
        new = prepare_update(resource, record.obj, body, target.namespace, target.name, target.subresource, write)
        if resource.custom is not None:
            new["apiVersion"] = resource.storage_version
        if resource.stored_as == CRDS and not target.subresource:
            new["status"] = custom.established(new, timestamp())
        return self.commit(resource, record, new, write)

    def commit(self, resource: Resource, record: Record, new: Obj, write: Write) -> Record:
        """Stores `new` in place of `record`; an unchanged object is not written, and the last finalizer's end removes it."""
        if _same(record.obj, new):
            return record
        key = (new["metadata"].get("namespace", ""), new["metadata"]["name"])
        metadata = new["metadata"]
        doomed = "deletionTimestamp" in metadata and not metadata.get("finalizers")
        waits = metadata.get("deletionGracePeriodSeconds") or new.get("spec", {}).get("finalizers")
        if doomed and not waits and not write.dry_run:
            return self.store.remove(self.collection(resource), key, new)
        return self._put(self.collection(resource), key, new, write)

    def patch(
        self, target: Target, content_type: str, body: Any, write: Write, conflicts: Conflicts
    ) -> tuple[Record, bool]:
        """(the record, whether it was created). Raises 404, 409, 415, 422."""
        if content_type == APPLY:
            return self._apply(target, body, write, conflicts)
        record = self.read(target)
        resource = target.resource
        shown = record.obj if resource.from_storage is None else resource.from_storage(record.obj)
        if content_type == JSON_PATCH:
            patched = patches.json_patch(shown, body)
        elif content_type == MERGE_PATCH:
            patched = copied(patches.merge(shown, body))
        elif content_type == STRATEGIC and resource.custom is None:
            patched = copied(patches.strategic(shown, body))
        else:
            raise unsupported_media_type([JSON_PATCH, MERGE_PATCH, APPLY])
        if isinstance(patched, dict) and isinstance(patched.get("metadata"), dict):
            patched["metadata"].setdefault("resourceVersion", record.obj["metadata"]["resourceVersion"])
        return self._replace(target, record, patched, write), False

    def _apply(self, target: Target, body: Any, write: Write, conflicts: Conflicts) -> tuple[Record, bool]:
        resource = target.resource
        if not isinstance(body, dict) or (body.get("metadata") or {}).get("managedFields"):
            raise ApiError(400, "BadRequest", "metadata.managedFields must be nil")
        applier = Applier(write.manager, resource.api_version, target.subresource, conflicts, timestamp())
        record = self.collection(resource).get(target.key)
        if record is None:
            if target.subresource:
                raise not_found(*resource.names, target.name)
            blank: Obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": target.name}}
            if (body.get("metadata") or {}).get("resourceVersion"):
                raise conflict(*resource.names, target.name)
            created = apply(blank, body, shape_of(resource), applier, split=resource.has_status)
            entries = created["metadata"].pop("managedFields", [])
            untracked = copy.copy(write)
            obj = self._create_applied(target, created, entries, untracked)
            return obj, True
        shown = record.obj if resource.from_storage is None else resource.from_storage(record.obj)
        merged = copied(apply(shown, body, shape_of(resource), applier, split=resource.has_status))
        wanted = (body.get("metadata") or {}).get("resourceVersion")
        merged["metadata"]["resourceVersion"] = wanted or record.obj["metadata"]["resourceVersion"]
        entries = merged["metadata"]["managedFields"]
        new = prepare_update(resource, record.obj, merged, target.namespace, target.name, target.subresource, write)
        new["metadata"]["managedFields"] = entries
        if resource.custom is not None:
            new["apiVersion"] = resource.storage_version
        if resource.stored_as == CRDS and not target.subresource:
            new["status"] = custom.established(new, timestamp())
        return self.commit(resource, record, new, write), False

    def _create_applied(self, target: Target, body: Obj, entries: list[Obj], write: Write) -> Record:
        dry = Write(write.manager, dry_run=True, field_validation=write.field_validation, warnings=write.warnings)
        obj = self.create(target, body, dry).obj
        if entries:
            obj["metadata"]["managedFields"] = entries
        return self._put(self.collection(target.resource), target.key, obj, write)

    # delete

    def delete(self, target: Target, options: DeleteOptions, write: Write) -> tuple[Record, bool]:
        """(last state, whether the object is gone now). Raises 404, 409 when a precondition does not hold."""
        resource, record = target.resource, self.read(target)
        _check_preconditions(target, record, options)
        if options.propagation == "Orphan" and not write.dry_run:
            self._release_dependents(record.obj["metadata"]["uid"])
        metadata = record.obj["metadata"]
        marked = metadata
        if resource.stored_as == PODS:
            grace_s = pods.grace_period(record.obj, options.grace_s)
            if grace_s > 0:
                marked = pods.terminating(metadata, grace_s)
            elif metadata.get("deletionGracePeriodSeconds"):
                marked = {**metadata, "deletionGracePeriodSeconds": 0}
            waits = grace_s > 0 or bool(metadata.get("finalizers"))
        else:
            waits = bool(metadata.get("finalizers")) or resource.stored_as == NAMESPACES
        if not waits:
            if write.dry_run:
                return record, True
            return self.store.remove(self.collection(resource), target.key), True
        if "deletionTimestamp" not in marked:
            marked = {**marked, "deletionTimestamp": timestamp(), "deletionGracePeriodSeconds": 0}
            if "generation" in marked:
                marked["generation"] += 1
        if marked == metadata:
            return record, False
        new = {**record.obj, "metadata": dict(marked)}
        if resource.stored_as == NAMESPACES:
            new["status"] = {**(new.get("status") or {}), "phase": "Terminating"}
        return self._put(self.collection(resource), target.key, new, write), False

    def _release_dependents(self, uid: str) -> None:
        for resource, key in self.dependents(uid):
            record = self.collection(resource).get(key)
            if record is None:
                continue
            metadata = dict(record.obj["metadata"])
            metadata["ownerReferences"] = [
                one for one in metadata.get("ownerReferences") or [] if one.get("uid") != uid
            ]
            self.store.put(self.collection(resource), key, {**record.obj, "metadata": metadata})


def _same(old: Obj, new: Obj) -> bool:
    """Equal but for the times of managedFields entries."""
    if old.keys() != new.keys():
        return False
    if any(old[name] != new[name] for name in old if name != "metadata"):
        return False
    before, after = dict(old["metadata"]), dict(new["metadata"])
    left, right = before.pop("managedFields", None) or [], after.pop("managedFields", None) or []
    return before == after and [one | {"time": ""} for one in left] == [one | {"time": ""} for one in right]


def _check_preconditions(target: Target, record: Record, options: DeleteOptions) -> None:
    metadata = record.obj["metadata"]
    for word, wanted, actual in (
        ("UID", options.uid, metadata["uid"]),
        ("ResourceVersion", options.resource_version, metadata["resourceVersion"]),
    ):
        if wanted and wanted != actual:
            why = (
                f"the {word} in the precondition ({wanted}) does not match the {word} in record ({actual}). "
                "The object might have been deleted and then recreated"
            )
            raise conflict(*target.resource.names, target.name, why)
