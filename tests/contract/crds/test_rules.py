"""The API server accepts and refuses exactly what the table of cases says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from crds.generate import ROOT, YAML_FOLDER
from crds.meta import Kind
from tests.contract.crds.cases import CASES, Case, Json
from tests.contract.crds.conftest import Answer, Api


def _path(kind: Kind[Any], name: str = "") -> str:
    return kind.path(namespace="default" if kind.namespaced else "", name=name)


def _whole(case: Case, body: Json) -> Json:
    return {"apiVersion": case.kind.api_version, "kind": case.kind.kind, "metadata": {"name": case.name}, **body}


def _write(api: Api, case: Case) -> Answer:
    """Create `new`, or create `old` and replace it by `new`."""
    if case.old is None:
        return api.request("POST", _path(case.kind), _whole(case, case.new))
    created = api.request("POST", _path(case.kind), _whole(case, case.old))
    assert created.status == 201, created.message
    replacement = _whole(case, case.new)
    replacement["metadata"]["resourceVersion"] = created.body["metadata"]["resourceVersion"]
    path = _path(case.kind, case.name) + (f"/{case.subresource}" if case.subresource else "")
    return api.request("PUT", path, replacement)


def _rules(node: Json, path: str) -> Iterator[tuple[str, str]]:
    """(path, message) of every rule of a schema; items of lists are `[]`."""
    for rule in node.get("x-kubernetes-validations") or ():
        yield path + rule.get("fieldPath", ""), rule["message"]
    for name, below in (node.get("properties") or {}).items():
        yield from _rules(below, f"{path}.{name}")
    if isinstance(node.get("items"), dict):
        yield from _rules(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from _rules(node["additionalProperties"], f"{path}{{}}")


def _all_rules() -> set[tuple[str, str, str]]:
    found: set[tuple[str, str, str]] = set()
    for file in sorted((ROOT / YAML_FOLDER).glob("*.yaml")):
        manifest = yaml.safe_load(file.read_text())
        for version in manifest["spec"]["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            found |= {(manifest["spec"]["names"]["kind"], path, message) for path, message in _rules(schema, "")}
    return found


def _speaks(message: str, path: str, rule: str) -> bool:
    """Whether a refusal names this rule, at its place."""
    if not path:
        return rule in message
    place = re.escape(path.removeprefix(".")).replace(re.escape("[]"), r"\[\d+\]")
    return re.search(rf"(?:^|[\s\[]){place}: Invalid value[^\n]*?{re.escape(rule)}", message) is not None


def test_every_rule_refuses_some_case_and_lets_some_pass(api: Api) -> None:
    """By what the server says: the place and the message of each rule of each generated CRD."""
    refusals: dict[str, list[str]] = {}
    passing = {case.kind.kind for case in CASES if not case.refused and case.old is not None}
    for case in CASES:
        if not case.refused:
            continue
        try:
            refusals.setdefault(case.kind.kind, []).append(_write(api, case).message)
        finally:
            api.request("DELETE", _path(case.kind, case.name))
    rules = _all_rules()
    assert len(rules) > 50
    silent = {rule for rule in rules if not any(_speaks(said, *rule[1:]) for said in refusals.get(rule[0], ()))}
    assert not silent, "\n".join(map(str, sorted(silent)))
    assert {kind for kind, _path_of, _message in rules} <= passing


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_object_is_accepted_or_refused_with_the_reason(api: Api, case: Case) -> None:
    api.request("DELETE", _path(case.kind, case.name))
    try:
        answer = _write(api, case)
    finally:
        api.request("DELETE", _path(case.kind, case.name))
    if case.refused:
        assert answer.status == 422, answer
        assert case.refused in answer.message
        assert "evaluating rule" not in answer.message, "a rule must judge every object, not fail on it"
    else:
        assert answer.status in (200, 201), answer.message
