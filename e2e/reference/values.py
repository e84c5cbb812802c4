"""A page for the chart's values: every key with its default and its meaning, from `values.yaml` and its comments, and its type from the schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from e2e.reference.settings import Undocumented

CHART = Path(__file__).resolve().parents[2] / "helm" / "nephila"
KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w-]+):(?: (?P<value>.*))?$")
# Parts whose keys are Kubernetes's own, or those of another page: shown as one value.
WHOLE = ("nodeSelector", "affinity", "tolerations", "resources", "labels", "settings")
# What needs no comment in the file, because Kubernetes or Helm defines it.
STANDARD: Mapping[str, str] = {
    "affinity": "As in a pod's `spec`.",
    "annotations": "Put on the object.",
    "enabled": "Whether it is installed.",
    "interval": "Between two scrapes.",
    "labels": "Put on the object, for the operator or the sidecar that looks for them.",
    "maxUnavailable": "As in a DaemonSet's `rollingUpdate`.",
    "nodeSelector": "As in a pod's `spec`.",
    "podAnnotations": "Put on the pods.",
    "podLabels": "Put on the pods.",
    "priorityClassName": "As in a pod's `spec`.",
    "pullPolicy": "As in a container.",
    "replicas": "Candidates; one of them leads.",
    "repository": "The image's name without tag.",
    "resources": "As in a container.",
    "seLinuxOptions": "As in a container's `securityContext`.",
    "terminationGracePeriodSeconds": "As in a pod's `spec`.",
    "timeoutSeconds": "As in a webhook configuration.",
    "tolerations": "As in a pod's `spec`.",
}
GROUPS: Mapping[str, str] = {
    "agent": "The DaemonSet: one agent on every node.",
    "cni": "The CNI binary on the hosts.",
    "crds": "The custom resource definitions.",
    "image": "One image holds all programs.",
    "leader": "The Deployment of the leader's candidates.",
    "monitoring": "For the Prometheus operator and Grafana.",
}


def values_page() -> str:
    """Raises Undocumented."""
    text = (CHART / "values.yaml").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())
    lines = [
        "# The chart's values",
        "",
        "Generated from `helm/nephila/values.yaml` and its schema by `make generate`; do not edit.",
        "",
        "A key that is not listed here is refused by the schema. `agent.settings` takes the keys of [the agent's settings](agent-config.md),",
        "`leader.settings` those of [the leader's](leader-config.md).",
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{key}` | {kind} | {default} | {meaning} |" for key, kind, default, meaning in rows(text, schema)]
    return "\n".join([*lines, ""])


def rows(text: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """(key, type, default, meaning) in the order of the file. Raises Undocumented."""
    values = yaml.safe_load(text)
    comments = comments_of(text)
    for path, value in _leaves(values, ()):
        key = ".".join(path)
        meaning = comments.get(path) or STANDARD.get(path[-1], "") or GROUPS.get(key, "")
        is_group = isinstance(value, dict) and value and path[-1] not in WHOLE
        if not meaning and is_group:
            continue
        if not meaning:
            raise Undocumented(f"helm/nephila/values.yaml: {key} has no comment that says what it means")
        default = "" if is_group else f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", "\\|")
        yield key, _type(_part(schema, path)), default, meaning.replace("|", "\\|")


def comments_of(text: str) -> dict[tuple[str, ...], str]:
    """The comment lines right above each key, or at the end of its line."""
    found: dict[tuple[str, ...], str] = {}
    pending: list[str] = []
    stack: list[tuple[int, str]] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            pending.append(line.lstrip("# ").strip())
            continue
        match = KEY.match(line)
        if match:
            indent = len(match["indent"])
            while stack and stack[-1][0] >= indent:
                stack.pop()
            stack.append((indent, match["key"]))
            if pending:
                found[tuple(name for _, name in stack)] = " ".join(pending)
        pending = []
    return found


def _leaves(node: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Groups before their keys; what is in WHOLE, or empty, is not entered."""
    for name, value in node.items():
        yield (*path, name), value
        if isinstance(value, dict) and name not in WHOLE:
            yield from _leaves(value, (*path, name))


def _part(schema: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    """Raises Undocumented for a key that the schema does not know: it would be refused."""
    for name in path:
        properties = schema.get("properties", {})
        if name not in properties:
            raise Undocumented(f"helm/nephila/values.schema.json does not know {'.'.join(path)}")
        schema = properties[name]
    return schema


def _type(part: Mapping[str, Any]) -> str:
    if "enum" in part:
        return " or ".join(f"`{item}`" for item in part["enum"])
    words = {
        "string": "text",
        "boolean": "true or false",
        "integer": "whole number",
        "number": "number",
        "object": "object",
        "array": "list",
    }
    kinds = part.get("type", "object")
    listed = [kinds] if isinstance(kinds, str) else kinds
    return " or ".join(words.get(kind, kind) for kind in listed)
