"""From method and path to what is asked: verb and target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from e2e.apiserver.errors import method_not_allowed, no_such_path
from e2e.apiserver.operations import Target
from e2e.apiserver.resources import Registry, Resource

_OBJECT_VERBS = {"GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_COLLECTION_VERBS = {"GET": "list", "HEAD": "list", "POST": "create", "DELETE": "deletecollection"}


@dataclass(frozen=True, slots=True)
class Route:
    verb: str
    target: Target


def group_version(parts: list[str]) -> tuple[str, str, list[str]] | None:
    """(group, version, rest) of the segments of a resource path; None for any other path."""
    if parts[0] == "api" and len(parts) > 2:
        return "", parts[1], parts[2:]
    if parts[0] == "apis" and len(parts) > 3:
        return parts[1], parts[2], parts[3:]
    return None


def _place(registry: Registry, group: str, version: str, rest: list[str]) -> tuple[Resource, str, list[str]]:
    """(resource, namespace, what follows the resource)."""
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and (len(rest) > 3 or rest[2] not in ("status", "finalize")):
        namespace, rest = rest[1], rest[2:]
    elif rest[0] == "namespaces" and (group, version) != ("", "v1"):
        raise no_such_path()
    resource = registry.find(group, version, rest[0])
    if resource is None or (namespace and not resource.namespaced):
        raise no_such_path()
    return resource, namespace, rest[1:]


def find(registry: Registry, method: str, group: str, version: str, rest: list[str], query: Mapping[str, str]) -> Route:
    """Raises 404 for what is not served and 405 for a method that does not fit."""
    resource, namespace, below = _place(registry, group, version, rest)
    if len(below) > 2 or (below and resource.namespaced and not namespace):
        raise no_such_path()
    name = below[0] if below else ""
    subresource = below[1] if len(below) == 2 else ""
    if subresource and subresource not in resource.subresources:
        raise no_such_path()
    verbs = _OBJECT_VERBS if name else _COLLECTION_VERBS
    if subresource in ("binding", "eviction", "token"):
        verbs = {"POST": "create"}
    elif subresource:
        verbs = {method: verb for method, verb in _OBJECT_VERBS.items() if verb != "delete"}
    verb = verbs.get(method)
    if verb is None or (verb == "create" and resource.namespaced and not namespace):
        raise method_not_allowed(method)
    if verb in ("get", "list") and query.get("watch") in ("true", "1", ""):
        verb = "watch"
    return Route(verb, Target(resource, namespace, name, subresource))
