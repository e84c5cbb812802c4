"""Discovery documents: legacy and aggregated, /version, and as much OpenAPI as kubectl asks for before it writes."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from e2e.apiserver.errors import Obj
from e2e.apiserver.resources import Registry, Resource

VERSION = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.0+nephila.embedded",
    "gitCommit": "0000000000000000000000000000000000000000",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "none",
    "platform": "linux/amd64",
}
_SUBRESOURCE_KINDS = {
    "scale": ("autoscaling", "v1", "Scale", ["get", "patch", "update"]),
    "token": ("authentication.k8s.io", "v1", "TokenRequest", ["create"]),
    "binding": ("", "v1", "Binding", ["create"]),
    "eviction": ("policy", "v1", "Eviction", ["create"]),
    "finalize": ("", "v1", "Namespace", ["update"]),
}
# Kinds that only answer a POST and are never stored: (group, plural, kind, namespaced).
REVIEWS = (
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", False),
    ("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview", True),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", False),
    ("authentication.k8s.io", "tokenreviews", "TokenReview", False),
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", False),
)


def _legacy(resource: Resource) -> list[Obj]:
    entry: Obj = {
        "name": resource.plural,
        "singularName": resource.singular or resource.kind.lower(),
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    entries = [entry]
    for name in sorted(resource.subresources):
        group, version, kind, verbs = _SUBRESOURCE_KINDS.get(
            name, (resource.group, resource.version, resource.kind, ["get", "patch", "update"])
        )
        below: Obj = {
            "name": f"{resource.plural}/{name}",
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": kind,
            "verbs": verbs,
        }
        if (group, version) != (resource.group, resource.version):
            below |= {"group": group, "version": version}
        entries.append(below)
    return entries


def _reviews(group: str) -> list[Obj]:
    return [
        {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": ["create"]}
        for of, plural, kind, namespaced in REVIEWS
        if of == group
    ]


def versions(registry: Registry) -> dict[str, list[str]]:
    """Versions by group, preferred first."""
    found = {group: list(by_version) for group, by_version in registry.groups().items()}
    for group, *_ in REVIEWS:
        found.setdefault(group, ["v1"])
    return found


def resource_list(registry: Registry, group: str, version: str) -> Obj | None:
    """The APIResourceList of one group and version; None if it is not served."""
    resources = registry.groups().get(group, {}).get(version, [])
    entries = [entry for resource in resources for entry in _legacy(resource)]
    if version == "v1":
        entries += _reviews(group)
    if not entries:
        return None
    group_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries}


def core_versions() -> Obj:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_entry(group: str, of: list[str]) -> Obj:
    entries = [{"groupVersion": f"{group}/{version}", "version": version} for version in of]
    return {"name": group, "versions": entries, "preferredVersion": entries[0]}


def group_list(registry: Registry) -> Obj:
    groups = [group_entry(group, of) for group, of in sorted(versions(registry).items()) if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def aggregated(registry: Registry, *, core: bool) -> Obj:
    """apidiscovery.k8s.io/v2: everything below /api or below /apis in one document."""
    items = []
    for group, of in sorted(versions(registry).items()):
        if (group == "") != core:
            continue
        listed = [{"version": one, "resources": _nested(registry, group, one), "freshness": "Current"} for one in of]
        items.append({"metadata": {"name": group, "creationTimestamp": None}, "versions": listed})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _nested(registry: Registry, group: str, version: str) -> list[Obj]:
    listing = resource_list(registry, group, version) or {"resources": []}
    found: dict[str, Obj] = {}
    for entry in listing["resources"]:
        kind = {
            "group": entry.get("group", group),
            "version": entry.get("version", version),
            "kind": entry["kind"],
        }
        plural, slash, name = entry["name"].partition("/")
        if slash:
            found[plural].setdefault("subresources", []).append(
                {"subresource": name, "responseKind": kind, "verbs": entry["verbs"]}
            )
            continue
        found[plural] = {
            "resource": plural,
            "responseKind": kind,
            "scope": "Namespaced" if entry["namespaced"] else "Cluster",
            "singularResource": entry["singularName"],
            "verbs": entry["verbs"],
        }
        for key in ("shortNames", "categories"):
            if key in entry:
                found[plural][key] = entry[key]
    return list(found.values())


def _schema_name(resource: Resource) -> str:
    group = resource.group or "core"
    return ".".join([*reversed(group.split(".")), resource.version, resource.kind])


def _gvk(resource: Resource) -> Obj:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


def _openapi_paths(resource: Resource) -> Obj:
    base = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    if resource.namespaced:
        base += "/namespaces/{namespace}"
    parameters = [
        {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
        for name in ("dryRun", "fieldManager", "fieldValidation", "force")
    ]

    def operation(action: str) -> Obj:
        return {
            "operationId": f"{action}{resource.kind}",
            "parameters": parameters,
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": _gvk(resource),
        }

    return {
        f"{base}/{resource.plural}": {"post": operation("post")},
        f"{base}/{resource.plural}/{{name}}": {"patch": operation("patch"), "put": operation("put")},
    }


def _openapi_schema(resource: Resource) -> Obj:
    body: Obj = {"type": "object"}
    if resource.custom is not None:
        body |= resource.custom.raw_schema
        identity = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
        body["properties"] = body.get("properties", {}) | identity
    return body | {"x-kubernetes-group-version-kind": [_gvk(resource)]}


def openapi_v3(registry: Registry, group: str, version: str) -> Obj | None:
    resources = registry.groups().get(group, {}).get(version)
    if resources is None:
        return None
    paths: Obj = {}
    schemas: Obj = {}
    for resource in resources:
        paths |= _openapi_paths(resource)
        schemas[_schema_name(resource)] = _openapi_schema(resource)
    info = {"title": "Kubernetes", "version": VERSION["gitVersion"]}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def openapi_v3_index(registry: Registry) -> Obj:
    paths = {}
    for group, by_version in registry.groups().items():
        for version in by_version:
            place = f"apis/{group}/{version}" if group else f"api/{version}"
            digest = hashlib.sha256(msgspec.json.encode(openapi_v3(registry, group, version))).hexdigest()[:32].upper()
            paths[place] = {"serverRelativeURL": f"/openapi/v3/{place}?hash={digest}"}
    return {"paths": paths}


def openapi(registry: Registry, place: list[str]) -> Obj | None:
    """The document at /openapi/…, if there is one."""
    match place:
        case ["v2"]:
            return openapi_v2(registry)
        case ["v3"]:
            return openapi_v3_index(registry)
        case ["v3", "api", version]:
            return openapi_v3(registry, "", version)
        case ["v3", "apis", group, version]:
            return openapi_v3(registry, group, version)
    return None


def openapi_v2(registry: Registry) -> Obj:
    """Definitions only of the custom kinds; enough for clients that merely want the document to exist."""
    definitions: dict[str, Any] = {_schema_name(resource): _openapi_schema(resource) for resource in registry.all()}
    info = {"title": "Kubernetes", "version": VERSION["gitVersion"]}
    return {"swagger": "2.0", "info": info, "paths": {}, "definitions": definitions}
