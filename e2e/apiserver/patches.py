"""Merge patch (RFC 7396), JSON patch (RFC 6902) and Kubernetes' strategic merge patch, as functions from value to new value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from e2e.apiserver.errors import ApiError, bad_request, unprocessable
from e2e.apiserver.schema import copied

MAX_OPERATIONS = 10_000


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396; neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902. Raises 400 for a malformed patch and 422 for one that does not apply, including a failed `test`."""
    if not isinstance(operations, list) or not all(isinstance(one, dict) for one in operations):
        raise bad_request("error decoding patch: a JSON patch is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        raise ApiError(
            413, "RequestEntityTooLarge", f"the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}"
        )
    document = copied(target)
    for operation in operations:
        document = _apply(document, operation)
    return document


def _apply(document: Any, operation: dict[str, Any]) -> Any:
    verb, path = operation.get("op"), _pointer(operation.get("path"))
    if verb in ("add", "replace", "test") and "value" not in operation:
        raise bad_request(f"error decoding patch: {verb} needs a value")
    if verb == "add":
        return _put(document, path, copied(operation["value"]))
    if verb == "remove":
        return _take(document, path)[0]
    if verb == "replace":
        if not path:
            return copied(operation["value"])
        if isinstance(_read(document, path[:-1]), list):
            _read(document, path[:-1])[_index(path[-1], len(_read(document, path[:-1])) - 1)] = copied(
                operation["value"]
            )
            return document
        return _put(_take(document, path)[0], path, copied(operation["value"]))
    if verb == "test":
        try:
            actual = _read(document, path)
        except ApiError:
            actual = None
        if not _equal(actual, operation["value"]):
            raise unprocessable(
                f"the server rejected our request due to an error in our request: testing path {path} failed"
            )
        return document
    if verb in ("move", "copy"):
        source = _pointer(operation.get("from"))
        value = copied(_read(document, source))
        if verb == "move":
            document = _take(document, source)[0]
        return _put(document, path, value)
    raise bad_request(f"error decoding patch: unexpected kind: {verb}")


def _equal(left: Any, right: Any) -> bool:
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def _pointer(text: Any) -> list[str]:
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise bad_request(f"error decoding patch: {text!r} is not a JSON pointer")
    return [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]


def _index(step: str, last: int) -> int:
    if not re.fullmatch(r"0|[1-9]\d*", step) or int(step) > last:
        raise unprocessable(f"the server rejected our request: invalid index referenced: {step}")
    return int(step)


def _read(document: Any, path: Sequence[str]) -> Any:
    for step in path:
        if isinstance(document, list):
            document = document[_index(step, len(document) - 1)]
        elif isinstance(document, dict) and step in document:
            document = document[step]
        else:
            raise unprocessable(f"the server rejected our request: the path {'/'.join(path)!r} does not exist")
    return document


def _put(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _read(document, path[:-1])
    if isinstance(parent, list):
        position = len(parent) if path[-1] == "-" else _index(path[-1], len(parent))
        parent.insert(position, value)
    elif isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        raise unprocessable(f"the server rejected our request: cannot add to {'/'.join(path)!r}")
    return document


def _take(document: Any, path: list[str]) -> tuple[Any, Any]:
    if not path:
        return None, document
    value = _read(document, path)
    parent = _read(document, path[:-1])
    if isinstance(parent, list):
        parent.pop(_index(path[-1], len(parent) - 1))
    else:
        del parent[path[-1]]
    return document, value


# Lists of the built-in kinds that merge by element, by the name of their field; all others are replaced as a whole.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "secrets": "name",
    "webhooks": "name",
    "conditions": "type",
    "ownerReferences": "uid",
    "hostAliases": "ip",
    "podIPs": "ip",
    "hostIPs": "ip",
    "resourceClaims": "name",
    "topologySpreadConstraints": "topologyKey",
    "schedulingGates": "name",
    "addresses": "type",
}
MERGED_SETS = frozenset({"finalizers", "podCIDRs"})


def merge_key(field: str, items: Sequence[Any]) -> str | None:
    """The key by which a list of this name merges; `ports` differs between containers and services."""
    if field == "ports":
        return "containerPort" if any("containerPort" in item for item in items) else "port"
    return MERGE_KEYS.get(field)


def strategic(target: Any, patch: Any) -> Any:
    """Strategic merge of maps, with the `$patch`, `$retainKeys`, `$deleteFromPrimitiveList` and `$setElementOrder` directives."""
    if not isinstance(patch, dict):
        return patch
    directive = patch.get("$patch")
    if directive == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"Unknown patch type: {directive}")
    result = dict(target) if isinstance(target, dict) else {}
    if "$retainKeys" in patch:
        result = {name: value for name, value in result.items() if name in patch["$retainKeys"]}
    for name, value in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            field = name.partition("/")[2]
            result[field] = [item for item in result.get(field) or [] if item not in value]
        elif value is None:
            result.pop(name, None)
        elif not name.startswith("$"):
            result[name] = _merge_value(name, result.get(name), value)
    for name, order in patch.items():
        field = name.removeprefix("$setElementOrder/")
        if field != name and isinstance(result.get(field), list):
            result[field] = _ordered(field, result[field], order)
    return result


def _merge_value(field: str, target: Any, patch: Any) -> Any:
    return _merge_list(field, target or [], patch) if isinstance(patch, list) else strategic(target, patch)


def _merge_list(field: str, target: list[Any], patch: list[Any]) -> list[Any]:
    if field in MERGED_SETS:
        return [*target, *(item for item in patch if item not in target)]
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if item.get("$patch") != "replace"]
    key = merge_key(field, [item for item in (*patch, *target) if isinstance(item, dict)])
    if key is None:
        return patch
    result = list(target)
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        place = next((index for index, one in enumerate(result) if one.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            result = [one for one in result if one.get(key) != item[key]]
        elif place is None:
            result.append(strategic({}, item))
        else:
            result[place] = strategic(result[place], item)
    return result


def _ordered(field: str, items: list[Any], order: list[Any]) -> list[Any]:
    key = merge_key(field, [item for item in items if isinstance(item, dict)])
    wanted = [one.get(key) if isinstance(one, dict) and key else one for one in order]

    def place(item: Any) -> int:
        identity = item.get(key) if isinstance(item, dict) and key else item
        return wanted.index(identity) if identity in wanted else len(wanted)

    return sorted(items, key=place)
