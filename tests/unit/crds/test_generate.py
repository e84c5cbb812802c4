"""The generated files are current, structural, bounded, and every rule in them is tried on both sides."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from msgspec import UNSET, UnsetType, defstruct

from crds.definitions import DEFINITIONS, Definition
from crds.generate import ROOT, YAML_FOLDER, differences, main, manifest, outputs
from crds.meta import WireStruct
from crds.models import DEFINED
from crds.rules import say
from crds.schema import NotStructural, root, structural
from tests.contract.crds.cases import CASES

Schema = dict[str, Any]

# Texts that only the leader writes and no rule reads; their size is that of a pool.
UNBOUNDED = {".status.allocatedIPs", ".status.controlledIPPools"}
KEYWORDS = {
    *("type", "description", "properties", "required", "items", "additionalProperties", "format", "default", "enum"),
    *("minimum", "maximum", "minLength", "maxLength", "maxItems", "maxProperties", "pattern"),
    *("x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
    "x-kubernetes-preserve-unknown-fields",
}


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


def schema_of(definition: Definition) -> Schema:
    return root(definition.kind.struct, definition.rules)


each_definition = pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda item: item.kind.kind)


def test_committed_files_are_current() -> None:
    assert differences() == []


def test_every_defined_kind_has_a_definition() -> None:
    assert {item.kind for item in DEFINITIONS} == set(DEFINED)


def test_check_reports_missing_outdated_and_stale_files(tmp_path: Path) -> None:
    for path, text in outputs().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert differences(tmp_path) == []
    (tmp_path / YAML_FOLDER / "ipblocks.yaml").write_text("outdated\n")
    (tmp_path / YAML_FOLDER / "ipnodes.yaml").unlink()
    (tmp_path / YAML_FOLDER / "former.yaml").write_text("stale\n")
    found = "\n".join(differences(tmp_path))
    assert "-outdated" in found
    assert "ipnodes.yaml" in found
    assert "former.yaml: no longer generated" in found


def test_check_answers_with_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0
    assert capsys.readouterr().out == ""


@each_definition
def test_schema_is_structural(definition: Definition) -> None:
    for path, node in nodes(schema_of(definition)):
        assert node.get("type") in {"object", "array", "string", "integer", "boolean"}, path
        assert node.keys() <= KEYWORDS, path
        assert ("items" in node) == (node["type"] == "array"), path
        assert not ("properties" in node and "additionalProperties" in node), path
        assert set(node.get("required", ())) <= set(node.get("properties", ())), path
        if "x-kubernetes-list-map-keys" in node:
            assert set(node["x-kubernetes-list-map-keys"]) <= set(node["items"]["required"]), path


@each_definition
def test_everything_that_can_grow_has_a_limit(definition: Definition) -> None:
    for path, node in nodes(schema_of(definition)):
        if path in UNBOUNDED or path in (".apiVersion", ".kind"):
            continue
        if node["type"] == "string":
            assert "maxLength" in node or "enum" in node or node.get("format") == "date-time", path
        if node["type"] == "array":
            assert "maxItems" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


@each_definition
def test_every_field_is_explained(definition: Definition) -> None:
    for path, node in nodes(schema_of(definition)):
        inside = path.endswith(("[]", "{}")) or path in (".metadata",)
        assert inside or node.get("description"), path


@each_definition
def test_columns_and_selectable_fields_name_fields_that_exist(definition: Definition) -> None:
    known = {path.replace("[]", "") for path, _ in nodes(schema_of(definition))}
    for path in (*(column.path for column in definition.columns), *definition.selectable):
        plain = re.sub(r"\[[^]]*\]", "", path.split("['")[0])
        assert plain in known or plain == ".metadata.creationTimestamp", path


def test_every_rule_has_a_case_that_it_refuses() -> None:
    untried = set()
    for definition in DEFINITIONS:
        for path, node in nodes(schema_of(definition)):
            for entry in node.get("x-kubernetes-validations", ()):
                if path.startswith(".status"):
                    continue  # a shared rule, tried where a user writes it
                if not any(case.refused and case.refused in entry["message"] for case in CASES):
                    untried.add(entry["message"])
    assert untried == set()


def test_case_names_are_unique() -> None:
    assert len({case.id for case in CASES}) == len(CASES)


def test_yaml_reads_back_as_the_manifest() -> None:
    for definition in DEFINITIONS:
        text = (ROOT / YAML_FOLDER / f"{definition.kind.plural}.yaml").read_text()
        assert yaml.safe_load(text) == manifest(definition)
        assert "&id" not in text, "no anchors"


def test_python_defaults_do_not_become_defaults_of_the_api() -> None:
    class Example(WireStruct):
        count: int = 7
        flag: Annotated[bool, say("Said so.", default=False)] = False

    properties = structural(Example)["properties"]
    assert "default" not in properties["count"]
    assert properties["flag"]["default"] is False


def test_absent_is_not_null() -> None:
    class Example(WireStruct):
        gateway: str | UnsetType = UNSET

    assert structural(Example)["properties"] == {"gateway": {"type": "string"}}


@pytest.mark.parametrize("bad", [str | None, int | str, float, object])
def test_types_without_a_structural_schema_are_refused_with_their_place(bad: Any) -> None:
    example = defstruct("Example", [("field", bad)])
    with pytest.raises(NotStructural, match=r"Example\.field"):
        structural(example)
