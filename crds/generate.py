"""Writes the CRDs, admission policies and roles, their copies in the chart, and the reference page: `python -m crds.generate [--check]`."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from crds.definitions import DEFINITIONS, Column, Definition
from crds.policies import policies
from crds.reference import reference
from crds.roles import RULES, WEBHOOK, cluster_role, webhook_roles
from crds.schema import Schema, root
from crds.webhooks import configurations

ROOT = Path(__file__).resolve().parent.parent
YAML_FOLDER = Path("crds/yaml")
CHART_FOLDER = Path("helm/nephila/files/generated")
REFERENCE_PAGE = Path("docs/reference/crds.md")
HEADER = "# Generated from crds/*.py by `make generate`; do not edit.\n"
DIFF_LINES = 40


def manifest(definition: Definition) -> dict[str, Any]:
    """The CustomResourceDefinition object of one definition."""
    kind = definition.kind
    version: dict[str, Any] = {
        "name": kind.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": root(kind.struct, definition.rules)},
    }
    if kind.has_status:
        version["subresources"] = {"status": {}}
    if definition.columns:
        version["additionalPrinterColumns"] = [_column(column) for column in definition.columns]
    if definition.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in definition.selectable]
    names: dict[str, Any] = {"kind": kind.kind, "listKind": f"{kind.kind}List", "plural": kind.plural}
    names["singular"] = kind.singular
    if kind.short_names:
        names["shortNames"] = list(kind.short_names)
    if kind.categories:
        names["categories"] = list(kind.categories)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{kind.group}"},
        "spec": {
            "group": kind.group,
            "names": names,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": [version],
        },
    }


def _column(column: Column) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.description:
        entry["description"] = column.description
    if column.priority:
        entry["priority"] = column.priority
    return entry


class _Dumper(yaml.SafeDumper):
    """Plain YAML without anchors: equal parts of a schema are written out, as `kubectl` and people expect."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def to_yaml(*documents: Schema) -> str:
    """The text of one YAML file, with its header."""
    texts: list[str] = [
        yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=140, allow_unicode=True) for document in documents
    ]
    return HEADER + "---\n".join(texts)


def objects() -> dict[Path, Sequence[Schema]]:
    """The Kubernetes objects of every generated YAML file, by its path below `crds/yaml`."""
    return {
        **{Path(f"{item.kind.plural}.yaml"): (manifest(item),) for item in DEFINITIONS},
        **{Path("policies", f"{name}.yaml"): found for name, found in policies().items()},
        **{Path("roles", f"{name}.yaml"): (cluster_role(name),) for name in RULES},
        Path("roles", f"{WEBHOOK}.yaml"): webhook_roles(),
        **{Path("webhooks", f"{name}.yaml"): (found,) for name, found in configurations().items()},
    }


def outputs() -> dict[Path, str]:
    """Every generated file by its path below the repository, with its text."""
    files = {REFERENCE_PAGE: reference()}
    for path, documents in objects().items():
        # A chart can read files inside its own folder only.
        in_chart = path if path.parts[1:] else Path("crds", path)
        files[YAML_FOLDER / path] = files[CHART_FOLDER / in_chart] = to_yaml(*documents)
    return files


def differences(root_folder: Path = ROOT) -> list[str]:
    """For each file that is missing, outdated or no longer generated: a summary with the first lines of its diff."""
    wanted, found = outputs(), []
    for path, text in wanted.items():
        present = (root_folder / path).read_text() if (root_folder / path).exists() else ""
        if present != text:
            diff = list(
                difflib.unified_diff(present.splitlines(), text.splitlines(), str(path), "generated", lineterm="", n=1)
            )
            rest = [f"… {len(diff) - DIFF_LINES} more lines"] if len(diff) > DIFF_LINES else []
            found.append("\n".join([*diff[:DIFF_LINES], *rest]))
    on_disk = {path for folder in (YAML_FOLDER, CHART_FOLDER) for path in (root_folder / folder).rglob("*.yaml")}
    stale = {path.relative_to(root_folder) for path in on_disk} - wanted.keys()
    return found + [f"{path}: no longer generated, remove it" for path in sorted(stale)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m crds.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a generated file is not current")
    if parser.parse_args(arguments).check:
        found = differences()
        for text in found:
            print(text)
        if found:
            print(f"{len(found)} generated files are not current: run `make generate`", file=sys.stderr)
        return int(bool(found))
    for path, text in outputs().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
