"""CustomResourceDefinitions: from the object to served resources."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec

from e2e.apiserver.cel_rules import Evaluator, compile_rules
from e2e.apiserver.errors import Cause, Obj, invalid
from e2e.apiserver.resources import BASE_FIELDS, Column, CustomVersion, FieldPath, Resource
from e2e.apiserver.schema import SchemaError, compile_schema
from e2e.apiserver.tables import compile_path

GROUP, KIND = "apiextensions.k8s.io", "CustomResourceDefinition"
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"


def fill_defaults(crd: Obj) -> None:
    """Defaults of a definition, in place."""
    names = crd.get("spec", {}).get("names")
    if isinstance(names, dict) and "kind" in names:
        names.setdefault("singular", str(names["kind"]).lower())
        names.setdefault("listKind", f"{names['kind']}List")
    crd.get("spec", {}).setdefault("conversion", {"strategy": "None"})


def validate(crd: Obj) -> list[Cause]:
    """What is wrong with the definition, schemas and rules included."""
    spec = crd.get("spec", {})
    name, names = crd["metadata"]["name"], spec.get("names", {})
    causes: list[Cause] = []
    wanted = f"{names.get('plural')}.{spec.get('group')}"
    if name != wanted:
        problem = f'Invalid value: "{name}": must be spec.names.plural+"."+spec.group'
        causes.append(Cause("FieldValueInvalid", problem, "metadata.name"))
    causes += [
        Cause("FieldValueRequired", "Required value", f"spec.names.{field}")
        for field in ("plural", "kind")
        if not names.get(field)
    ]
    if spec.get("scope") not in ("Namespaced", "Cluster"):
        problem = f'Unsupported value: "{spec.get("scope", "")}": supported values: "Cluster", "Namespaced"'
        causes.append(Cause("FieldValueNotSupported", problem, "spec.scope"))
    versions = spec.get("versions") or []
    if sum(bool(version.get("storage")) for version in versions) != 1:
        problem = "Invalid value: must have exactly one version marked as storage version"
        causes.append(Cause("FieldValueInvalid", problem, "spec.versions"))
    for index, version in enumerate(versions):
        causes += _validate_version(version, f"spec.versions[{index}]")
    return causes


def _validate_version(version: Obj, path: str) -> list[Cause]:
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    if not isinstance(schema, dict):
        return [Cause("FieldValueRequired", "Required value: schemas are required", f"{path}.schema.openAPIV3Schema")]
    causes: list[Cause] = []
    try:
        _compile(schema)
    except SchemaError as exc:
        where, _, problem = str(exc).partition(": ")
        causes.append(Cause("FieldValueInvalid", problem, f"{path}.schema.{where}"))
    for index, column in enumerate(version.get("additionalPrinterColumns") or []):
        try:
            compile_path(column.get("jsonPath", ""))
        except ValueError as exc:
            where = f"{path}.additionalPrinterColumns[{index}].jsonPath"
            causes.append(Cause("FieldValueInvalid", f"Invalid value: {exc}", where))
    return causes


def _compile(raw: Obj) -> CustomVersion:
    return _compiled(msgspec.json.encode(raw))


@lru_cache(maxsize=256)
def _compiled(encoded: bytes) -> CustomVersion:
    raw = msgspec.json.decode(encoded)
    node = compile_schema(raw)
    rules = compile_rules(node)
    return CustomVersion(node, Evaluator(rules) if rules is not None else None, raw)


def _column(raw: Obj) -> Column:
    return Column(
        raw["name"],
        raw["jsonPath"],
        raw.get("type", "string"),
        raw.get("format", ""),
        raw.get("description", ""),
        raw.get("priority", 0),
    )


def _selectable(version: Obj) -> dict[str, FieldPath]:
    offered = {}
    for one in version.get("selectableFields") or []:
        label = one["jsonPath"].lstrip(".")
        offered[label] = tuple(label.split("."))
    return BASE_FIELDS | offered


def _priority(version: str) -> tuple[Any, ...]:
    """GA before beta before alpha, newer before older, anything else after those, alphabetically."""
    found = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version)
    if found is None:
        return (1, version)
    stage = {None: 0, "beta": 1, "alpha": 2}[found[2]]
    return (0, stage, -int(found[1]), -int(found[3] or 0))


def resources(crd: Obj) -> list[Resource]:
    """The served versions of a valid definition, preferred first."""
    spec, names = crd["spec"], crd["spec"]["names"]
    storage = next(version["name"] for version in spec["versions"] if version.get("storage"))
    stored_as = f"{spec['group']}/{storage}"
    result = []
    for version in sorted(spec["versions"], key=lambda one: _priority(one["name"])):
        if not version.get("served"):
            continue
        served_as = f"{spec['group']}/{version['name']}"
        convert = {} if served_as == stored_as else _renaming(stored_as, served_as)
        offers = version.get("subresources") or {}
        result.append(
            Resource(
                spec["group"],
                version["name"],
                names["plural"],
                names["kind"],
                namespaced=spec["scope"] == "Namespaced",
                singular=names.get("singular", ""),
                list_kind=names.get("listKind", ""),
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                subresources=frozenset(offers),
                selectable=_selectable(version),
                generation=True,
                unconditional_update=False,
                columns=tuple(_column(one) for one in version.get("additionalPrinterColumns") or ()),
                custom=_compile(version["schema"]["openAPIV3Schema"]),
                storage_version=stored_as,
                **convert,
            )
        )
    return result


def _renaming(stored_as: str, served_as: str) -> dict[str, Any]:
    return {
        "to_storage": lambda obj: {**obj, "apiVersion": stored_as},
        "from_storage": lambda obj: {**obj, "apiVersion": served_as},
    }


def established(crd: Obj, now: str) -> Obj:
    """The status that the definition gets once it is served."""
    before = {one["type"]: one for one in (crd.get("status") or {}).get("conditions") or []}
    conditions = []
    for kind, reason, message in (
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ):
        fresh = {"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message}
        conditions.append(before.get(kind, fresh))
    storage = next(version["name"] for version in crd["spec"]["versions"] if version.get("storage"))
    stored = list((crd.get("status") or {}).get("storedVersions") or [])
    if storage not in stored:
        stored.append(storage)
    return {"conditions": conditions, "acceptedNames": crd["spec"]["names"], "storedVersions": stored}


def check(crd: Obj) -> None:
    """Raises 422 for an invalid definition."""
    if causes := validate(crd):
        raise invalid(GROUP, KIND, crd["metadata"]["name"], causes)
