"""The reference page of all CRD fields in Markdown: `python -m crds.reference` prints it, `make generate` writes it."""

from __future__ import annotations

from collections.abc import Iterator

from crds.definitions import DEFINITIONS, Definition
from crds.schema import Schema, root

INTRODUCTION = """\
# Custom resources

Generated from the typed models in `crds/` by `make generate`; do not edit.

The rules of each kind are enforced by the API server itself (CEL, Kubernetes 1.32 or later). A field without
"required" may be left out.
"""

_LIMITS = {
    "default": "default `{}`",
    "enum": "one of {}",
    "minimum": "≥ {}",
    "maximum": "≤ {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "maxItems": "at most {} items",
    "maxProperties": "at most {} entries",
    "x-kubernetes-list-map-keys": "unique by {}",
}


def reference() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(_kind(definition) for definition in DEFINITIONS)])


def _kind(definition: Definition) -> str:
    kind = definition.kind
    schema = root(kind.struct, definition.rules)
    scope = "namespaced" if kind.namespaced else "cluster scoped"
    short = ", ".join(f"`{name}`" for name in kind.short_names)
    lines = [f"## {kind.kind}", "", schema.get("description", ""), ""]
    lines.append(f"`{kind.api_version}`, {scope}, `kubectl get {kind.plural}`, short name {short}.")
    rows = [row for name in ("spec", "status") if name in schema["properties"] for row in _rows(schema, name, name)]
    lines += ["", "| field | type | meaning |", "|---|---|---|", *rows, ""]
    if rules := list(_rules(schema, "")):
        lines += ["Rules:", "", *rules, ""]
    return "\n".join(lines)


def _rows(parent: Schema, name: str, path: str) -> Iterator[str]:
    """The row of one field, then those of the fields below it."""
    node = parent["properties"][name]
    facts = [text.format(_plain(node[key])) for key, text in _LIMITS.items() if key in node]
    if name in parent.get("required", ()):
        facts.insert(0, "required")
    meaning = " ".join(filter(None, [node.get("description", ""), f"({'; '.join(facts)})" if facts else ""]))
    yield f"| `{path}` | {_type(node)} | {_cell(meaning)} |"
    inner, marks = node, ""
    while inner["type"] == "array":
        inner, marks = inner["items"], f"{marks}[]"
    for child in inner.get("properties", ()):
        yield from _rows(inner, child, f"{path}{marks}.{child}")


def _type(node: Schema) -> str:
    if node["type"] == "array":
        return f"list of {_type(node['items'])}"
    if "additionalProperties" in node:
        return f"map to {_type(node['additionalProperties'])}"
    return "time" if node.get("format") == "date-time" else str(node["type"])


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) or '""'


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _rules(node: Schema, path: str) -> Iterator[str]:
    for entry in node.get("x-kubernetes-validations", ()):
        place = f"`{path}{entry.get('fieldPath', '')}`: " if path or "fieldPath" in entry else ""
        yield f"- {place}{entry['message']}"
    if "items" in node:
        yield from _rules(node["items"], f"{path}[]")
    for name, child in node.get("properties", {}).items():
        yield from _rules(child, f"{path}.{name}" if path else name)


if __name__ == "__main__":
    print(reference(), end="")
